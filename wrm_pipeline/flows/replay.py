"""Dead letters that are tried again, through the code that builds every partition.

An entry is settled when its raw object was parsed after the failure was last seen and the failure did not come
back: the published partition says when each raw object was parsed, and each parse that fails again writes the
entry anew. So nothing is lost or doubled whatever is killed when: a replay that was cut short is simply done again.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.clients.object_store import RUN_ID, ObjectStore
from wrm_pipeline.clients.published_partitions import PublishedPartitions
from wrm_pipeline.domain.dead_letters import MAX_RETRIES, PARKED, PENDING, REPROCESSED, DeadLetter
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.snapshot import reject_reason
from wrm_pipeline.flows.process import is_settled, published_manifest
from wrm_pipeline.flows.rebuild import rebuild_partition


@dataclass(frozen=True, slots=True)
class Selection:
    """Which pending entries to replay; an empty list means all."""

    dates: Collection[date] = ()
    error_types: Collection[str] = ()
    entry_ids: Collection[str] = ()

    def matches(self, letter: DeadLetter) -> bool:
        """Whether an entry is meant."""
        return (
            letter.status == PENDING
            and (not self.dates or letter.partition_date in self.dates)
            and (not self.error_types or letter.error_type in self.error_types)
            and (not self.entry_ids or letter.entry_id in self.entry_ids)
        )


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did: entries as they are now, and the partitions that were rebuilt."""

    letters: tuple[DeadLetter, ...]
    rebuilt: tuple[date, ...]

    def count(self, status: str) -> int:
        """How many of the selected entries now have this status."""
        return sum(letter.status == status for letter in self.letters)


def select(queue: DeadLetterQueue, selection: Selection) -> list[DeadLetter]:
    """The entries that a replay would try, oldest first; reads only."""
    dates = selection.dates or queue.dates()
    letters = [letter for dt in sorted(dates) for letter in queue.of_date(dt) if selection.matches(letter)]
    return sorted(letters, key=lambda letter: (letter.partition_date, letter.timestamp, letter.entry_id))


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
) -> ReplayResult:
    """Parse the raw objects of pending entries again and publish their partitions.

    An entry whose failure is gone becomes `reprocessed`; one that fails again is counted, and `parked` once
    `max_retries` is reached. Bodies in quarantine that are snapshots after all go to `raw/`.

    Raises:
        ExternalError: the store failed; run it again.
        PartitionWouldShrinkError: a partition would lose rows; it was left as it is.
    """
    queue = DeadLetterQueue(store, layout, cache)
    by_date: dict[date, list[DeadLetter]] = defaultdict(list)
    for letter in select(queue, selection):
        by_date[letter.partition_date].append(letter)
    done: list[DeadLetter] = []
    rebuilt: list[date] = []
    for dt, letters in by_date.items():
        from_quarantine = [letter for letter in letters if letter.source_key.startswith(layout.quarantine_prefix)]
        of_rows = [letter for letter in letters if letter not in from_quarantine]
        released = [letter for letter in from_quarantine if _release(store, layout, letter)]
        if of_rows or released:
            sources = {letter.source_key for letter in of_rows}
            rebuild_partition(store, layout, dt, area=area, now=now, reparse=sources, run_id=run_id, cache=cache)
            rebuilt.append(dt)
        done.extend(_mark(queue, released, settled=True, now=now, max_retries=max_retries))
        still_bad = [letter for letter in from_quarantine if letter not in released]
        done.extend(_mark(queue, still_bad, settled=False, now=now, max_retries=max_retries))
        done.extend(_judge(queue, PublishedPartitions(store, layout), of_rows, now=now, max_retries=max_retries))
    return ReplayResult(tuple(done), tuple(rebuilt))


def _release(store: ObjectStore, layout: Layout, letter: DeadLetter) -> bool:
    """Put a quarantined body under `raw/` if it is a snapshot after all."""
    try:
        body = store.get(letter.source_key)
    except ObjectNotFoundError:
        return False
    if reject_reason(body, letter.timestamp) is not None:
        return False
    info = store.stat(letter.source_key)
    metadata = {RUN_ID: info.metadata[RUN_ID]} if info and RUN_ID in info.metadata else None
    store.put_if_absent(layout.released_key(letter.source_key), body, metadata=metadata)
    return True


def _judge(
    queue: DeadLetterQueue,
    partitions: PublishedPartitions,
    letters: Sequence[DeadLetter],
    *,
    now: datetime,
    max_retries: int,
) -> list[DeadLetter]:
    """Mark replayed entries by what the published partition and the rewritten entries say."""
    if not letters:
        return []
    dt = letters[0].partition_date
    manifest = published_manifest(partitions.read("processed", dt))
    current = {letter.entry_id: letter for letter in queue.of_date(dt)}
    fresh = [current.get(letter.entry_id, letter) for letter in letters]
    gone = [letter for letter in fresh if letter.status == REPROCESSED or is_settled(letter, manifest)]
    failed = [letter for letter in fresh if letter not in gone]
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
