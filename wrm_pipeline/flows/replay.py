"""Replays dead letters through the code that builds every partition.

An entry is settled when its raw object was parsed after the failure was last seen and the failure did not recur: the
published partition records when each raw object was parsed, and each parse that fails again rewrites the entry. So
nothing is lost or duplicated, whatever is killed at whatever moment: an interrupted replay is simply run again.

Entries of other assets (the resource `dlq`) are left as they are: a replay rebuilds days of the stations, which cannot
settle them. The asset tries again when it is materialized, and settles its entries itself.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.domain.asset_letters import of_another_asset
from wrm_pipeline.domain.dead_letters import MAX_RETRIES, PARKED, PENDING, REPROCESSED, DeadLetter
from wrm_pipeline.domain.feeds import kind_of
from wrm_pipeline.domain.layout import Layout, is_plain_key
from wrm_pipeline.domain.manifest import AccountingError
from wrm_pipeline.domain.partition_build import PartitionWouldShrinkError
from wrm_pipeline.domain.rules import NO_STRICT_RULES, ServiceArea, StrictRules
from wrm_pipeline.flows.delivery import last_sha256
from wrm_pipeline.flows.inspection import UNINSPECTED, inspect_stored
from wrm_pipeline.flows.process import NoRawDataError, is_settled
from wrm_pipeline.flows.progress import Begin, unobserved
from wrm_pipeline.flows.raw_inputs import published_manifest
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.object_store import RUN_ID, ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.lake.raw_objects import UnreadableArchiveError

# Assets that are named in a message.
_NAMED = 5

# Errors that affect only their own day.
_OF_ONE_DAY = (PartitionWouldShrinkError, AccountingError, UnreadablePartitionError, UnreadableArchiveError)

# The note of an entry whose snapshot is not published.
PASSED_OVER = "Another feed is published in this minute."


class InvalidReplayError(ValueError):
    """The replay cannot be done as requested; the message names the value."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which pending entries to replay; an empty list means all.

    `parked` includes parked entries; an entry named by its id is taken either way. `drift` selects entries of bodies
    in a format that the parser did not know (`domain/drift.py`), parked ones included.
    """

    dates: Collection[date] = ()
    error_types: Collection[str] = ()
    entry_ids: Collection[str] = ()
    parked: bool = False
    drift: bool = False

    def matches(self, letter: DeadLetter) -> bool:
        """Whether an entry is selected."""
        statuses = (PENDING, PARKED) if self.parked or self.drift or self.entry_ids else (PENDING,)
        return (
            letter.status in statuses
            and (not self.drift or letter.of_drift or letter.error_type == "file_no_valid_row")
            and (not self.dates or letter.partition_date in self.dates)
            and (not self.error_types or letter.error_type in self.error_types)
            and (not self.entry_ids or letter.entry_id in self.entry_ids)
        )


@dataclass(frozen=True, slots=True)
class Selected:
    """The entries that a selection names, oldest first: those to replay, and those that only their asset can try."""

    letters: tuple[DeadLetter, ...]
    of_others: tuple[DeadLetter, ...] = ()

    @property
    def left(self) -> str:
        """What is left as it is, and what to do about it; empty if nothing is."""
        if not self.of_others:
            return ""
        assets = ", ".join(sorted({letter.asset_name for letter in self.of_others})[:_NAMED])
        return (
            f"{len(self.of_others)} entries of other assets are left as they are, since a replay rebuilds only days of "
            f"the stations. To try them again, materialize their asset ({assets}); to give them up: wrm dlq discard"
        )


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of a replay: entries as they are now, partitions that were rebuilt, and those that could not be.

    Entries of a day in `failed`, which holds the reasons, are unchanged; so is what `left` describes.
    """

    letters: tuple[DeadLetter, ...]
    rebuilt: tuple[date, ...]
    failed: tuple[tuple[date, str], ...] = ()
    left: str = ""

    def count(self, status: str) -> int:
        """How many of the selected entries now have this status."""
        return sum(letter.status == status for letter in self.letters)


def select(queue: DeadLetterQueue, selection: Selection) -> Selected:
    """The entries that a replay would try, and those that it would leave; read-only."""
    found = (letter for dt in sorted(set(selection.dates)) for letter in queue.of_date(dt))
    letters = [letter for letter in (found if selection.dates else queue.all()) if selection.matches(letter)]
    letters.sort(key=lambda letter: (letter.partition_date, letter.timestamp, letter.entry_id))
    others = tuple(letter for letter in letters if of_another_asset(letter, queue.layout))
    return Selected(tuple(letter for letter in letters if letter not in others), others)


def replay(
    store: ObjectStore,
    layout: Layout,
    selection: Selection,
    *,
    area: ServiceArea,
    now: datetime,
    max_retries: int = MAX_RETRIES,
    run_id: str = "",
    cache: Cache = NO_CACHE,
    begin: Begin = unobserved,
    strict: StrictRules = NO_STRICT_RULES,
) -> ReplayResult:
    """Parse the raw objects of pending entries again and publish their partitions.

    An entry whose failure is gone becomes `reprocessed`; one that fails again is counted, and `parked` once it reaches
    `max_retries`. Bodies in quarantine that turn out to be snapshots go to `raw/`. A day that cannot be built (it would
    shrink, or something in it is unreadable) affects no other.

    Raises:
        InvalidReplayError: `max_retries` is less than 1.
        ExternalError: the store failed; run it again.
    """
    if max_retries < 1:
        raise InvalidReplayError(f"max_retries is {max_retries}; it must be at least 1. Nothing was changed.")
    queue = DeadLetterQueue(store, layout, cache)
    by_date: dict[date, list[DeadLetter]] = defaultdict(list)
    selected = select(queue, selection)
    for letter in selected.letters:
        by_date[letter.partition_date].append(letter)
    done: list[DeadLetter] = []
    rebuilt: list[date] = []
    failed: list[tuple[date, str]] = []
    for dt, letters in by_date.items():
        begin(dt.isoformat(), len(by_date))
        from_quarantine = [letter for letter in letters if letter.source_key.startswith(layout.quarantine_prefix)]
        of_rows = [letter for letter in letters if letter not in from_quarantine]
        released = [new for letter in from_quarantine if (new := _released(store, layout, letter, cache))]
        try:
            if of_rows or released:
                sources = {letter.source_key for letter in of_rows}
                rebuild_partition(
                    store,
                    layout,
                    dt,
                    area=area,
                    now=now,
                    reparse=sources,
                    run_id=run_id,
                    cache=cache,
                    strict=strict,
                )
                rebuilt.append(dt)
        except NoRawDataError:
            pass  # nothing could give their rows: they count as tried
        except _OF_ONE_DAY as error:
            failed.append((dt, str(error)))
            continue
        done.extend(_mark(queue, released, settled=True, now=now, max_retries=max_retries))
        settled = {letter.key for letter in released}
        still_bad = [letter for letter in from_quarantine if letter.key not in settled]
        done.extend(_mark(queue, still_bad, settled=False, now=now, max_retries=max_retries))
        done.extend(_judge(queue, PublishedPartitions(store, layout), of_rows, now=now, max_retries=max_retries))
    return ReplayResult(tuple(done), tuple(rebuilt), tuple(failed), selected.left)


def _released(store: ObjectStore, layout: Layout, letter: DeadLetter, cache: Cache) -> DeadLetter | None:
    """Move a quarantined body to `raw/`, once, if it is a snapshot after all; returns the letter, None if it is not.

    A body that equals the snapshot before it is not stored, just as at the fetch.
    """
    key = layout.released_key(letter.source_key)
    parsed = layout.parse_raw_key(key)
    kind = kind_of(key)
    if parsed is None or kind is None or not is_plain_key(key):
        return None
    try:
        body = store.get(letter.source_key)
    except ObjectNotFoundError:
        return None
    if inspect_stored(body, letter.timestamp, kind, apart=letter.error_type == UNINSPECTED).fault is not None:
        return None
    at, sha256 = parsed.file_timestamp, hashlib.sha256(body).hexdigest()
    if at is not None and last_sha256(CachedObjects(store, cache), layout, at - timedelta(seconds=1), kind) == sha256:
        return replace(letter, note=f"{letter.note} The body equals the snapshot before it.".strip())
    info = store.stat(letter.source_key)
    metadata = {"sha256": sha256}
    if info and RUN_ID in info.metadata:
        metadata[RUN_ID] = info.metadata[RUN_ID]
    stem = key.removesuffix(".txt")
    others = (layout.raw_key(at + timedelta(seconds=n), kind) if at else f"{stem}_{n}.txt" for n in range(1, 60))
    for name in (key, *others):
        # Another body may have the name by now, or an interrupted replay may have stored this one.
        if store.put_if_absent(name, body, metadata=metadata) or store.get(name) == body:
            return letter
    return None


def _judge(
    queue: DeadLetterQueue,
    partitions: PublishedPartitions,
    letters: Sequence[DeadLetter],
    *,
    now: datetime,
    max_retries: int,
) -> list[DeadLetter]:
    """Mark replayed entries according to the published partition and the rewritten entries."""
    if not letters:
        return []
    dt = letters[0].partition_date
    manifest = published_manifest(partitions.read("processed", dt))
    current = {letter.key: letter for letter in queue.of_date(dt)}
    fresh = [current.get(letter.key, letter) for letter in letters]
    aside = set(manifest.feeds["keys"]) - manifest.sources.keys() if manifest is not None and manifest.feeds else set()
    gone = [letter for letter in fresh if letter.status == REPROCESSED or is_settled(letter, manifest)]
    # Their rows are not wanted while a better feed has the minute; if it loses it, they are parsed again.
    passed_over = [letter for letter in fresh if letter not in gone and letter.source_key in aside]
    gone += [replace(letter, note=f"{letter.note} {PASSED_OVER}".strip()) for letter in passed_over]
    failed = [letter for letter in fresh if letter not in gone and letter not in passed_over]
    return [
        *_mark(queue, gone, settled=True, now=now, max_retries=max_retries),
        *_mark(queue, failed, settled=False, now=now, max_retries=max_retries),
    ]


def _mark(
    queue: DeadLetterQueue, letters: Sequence[DeadLetter], *, settled: bool, now: datetime, max_retries: int
) -> list[DeadLetter]:
    marked = []
    for letter in letters:
        if settled:
            new = replace(letter, status=REPROCESSED)
        else:
            count = letter.retry_count + 1
            new = replace(letter, retry_count=count, status=PARKED if count >= max_retries else PENDING, last_seen=now)
        queue.put(new)
        marked.append(new)
    return marked
