"""Finds raw data that is not yet published: a fast check for new objects, and a thorough one for missed ones.

Both are read-only. The fast check costs one listing, however long the history; the thorough one compares a few days
at a time with what their published partitions record.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from wrm_pipeline.clients.errors import PermanentError, UnexpectedAnswerError
from wrm_pipeline.domain.bike_positions import FEED, POSITIONS_VERSION
from wrm_pipeline.domain.enhanced_build import has_todays_rules, is_derived_from, rules_id
from wrm_pipeline.domain.feeds import kind_of
from wrm_pipeline.domain.lake_findings import DAMAGED, FOREIGN, DayFindings
from wrm_pipeline.domain.layout import Layout, folder_date
from wrm_pipeline.domain.partition_build import plan_build
from wrm_pipeline.domain.rules import NO_STRICT_RULES, ServiceArea, StrictRules
from wrm_pipeline.domain.snapshot import PARSER_VERSION
from wrm_pipeline.domain.snapshot_time import MAX_AHEAD
from wrm_pipeline.flows.bike_positions import positions_lack
from wrm_pipeline.flows.enhance import is_current
from wrm_pipeline.flows.raw_inputs import raw_objects_of, with_remembered_times, without_set_aside
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.object_store import ObjectInfo, ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.lake.raw_objects import RawDay

# Keys examined per tick: 10 pages, about a second. The next tick continues.
MAX_KEYS_PER_TICK = 10_000

# Runs requested per tick; the rest waits in the cursor.
MAX_REQUESTS_PER_TICK = 20

# Newest days that the thorough check always compares, and the number of others that it takes in turn.
ALWAYS_COMPARED_DAYS = 3
COMPARED_IN_TURN = 10

# A run for a day that stays unpublished is requested again after 5, 10, 20, … minutes, at most 6 hours.
FIRST_RETRY_AFTER = timedelta(minutes=5)
LAST_RETRY_AFTER = timedelta(hours=6)

# Folders that a first check opens per tick, to see whether they hold snapshots.
MAX_FOLDERS_PER_TICK = 60
FIRST_LOOK = "first look"

# Days with findings are compared each time, so that a finding disappears soon after it was fixed.
MAX_FOUND_COMPARED = 10

# Days built by an older parser or older rules are rebuilt completely: this many per tick, while there is no other work.
# A year takes 15 hours, and the run of each minute is not slowed down.
MAX_UPGRADES_PER_TICK = 2
UPGRADE = "version "

# Runs requested because of another writer's file: they may take it over; what they leave needs a person.
STRAY_ATTEMPTS = 3
STRAYS = "strays "

UNKNOWN_KEYS_KEPT = 10

# The longest key that S3 accepts.
MAX_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class WantedRun:
    """A partition to process; two requests with the same `run_key` start one run."""

    dt: date
    run_key: str


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The result of a check: runs to request, the cursor to keep, and what a person should know.

    `compared` holds the findings of each day that the thorough check compared; `days` are all existing days.
    """

    runs: tuple[WantedRun, ...]
    cursor: str
    unknown_keys: tuple[str, ...] = ()
    waiting: tuple[date, ...] = ()
    compared: Mapping[date, DayFindings] = field(default_factory=dict)
    days: frozenset[date] = frozenset()


@dataclass(frozen=True, slots=True)
class ArrivalCursor:
    """How far the fast check has come: the last key seen, and days waiting for a run, each with its last key."""

    after: str
    waiting: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    @classmethod
    def parse(cls, text: str | None) -> "ArrivalCursor | None":
        """Read a cursor back; None if there is none, or it is of another version or invalid."""
        data = _parse_cursor(text, after=str, waiting=dict)
        if data is None or not all(_is_day(day) and isinstance(key, str) for day, key in data["waiting"].items()):
            return None
        return cls(data["after"], data["waiting"])


def plan_new_data_runs(
    store: ObjectStore,
    layout: Layout,
    cursor: str | None,
    *,
    today: date,
    started: frozenset[date],
    now: datetime | None = None,
) -> RunPlan:
    """Find partitions with raw objects beyond the cursor.

    A day whose run has `started` (or is queued) waits for its end, so that at most one run works on a day and the next
    run has everything that arrives meanwhile. Without a cursor, or with an invalid one, a run is requested for every
    day with a folder. A cursor beyond today, left by a clock that was ahead, starts again with yesterday, and one
    beyond `now` with today. The cursor never passes names dated in the future: new snapshots sort before them.

    Raises:
        ExternalError: the store failed; keep the old cursor.
    """
    known = ArrivalCursor.parse(cursor)
    beyond = layout.raw_folder(today + timedelta(days=1))
    if known is None or not _may_be_a_key(known.after, layout):
        waiting, after, unknown = _first_look(store, layout, today)
    else:
        waiting = {day: key for day, key in known.waiting.items() if date.fromisoformat(day) <= today}
        unknown = []
        after = known.after if known.after < beyond else layout.raw_folder(today - timedelta(days=1))
        if _is_ahead(after, layout, now):
            after = layout.raw_folder(today)
        if _is_of_former_feed(after, layout):
            # Names of the current feed may sort before it on the day of the change.
            after = f"{after.rpartition('/')[0]}/"
        passed_by, today_folder = False, layout.raw_folder(today)
        for count, info in enumerate(store.list(layout.raw_prefix, start_after=after), start=1):
            if info.key >= beyond:
                unknown.append(info.key)
                break
            passed_by = passed_by or _is_ahead(info.key, layout, now)
            if passed_by:
                continue
            if info.key >= today_folder and _is_of_former_feed(info.key, layout):
                continue
            after = info.key
            parsed = layout.parse_raw_key(info.key)
            if parsed is None or not layout.first_date <= parsed.dt <= today:
                unknown.append(info.key)
            else:
                waiting[parsed.dt.isoformat()] = info.key
            if count >= MAX_KEYS_PER_TICK:
                break
    runs: list[WantedRun] = []
    looked_into = 0
    for day in sorted(waiting, reverse=True):
        dt = date.fromisoformat(day)
        if dt not in started and len(runs) < MAX_REQUESTS_PER_TICK and looked_into < MAX_FOLDERS_PER_TICK:
            if waiting[day] == FIRST_LOOK:
                looked_into += 1
                if not _has_snapshots(store, layout, dt):
                    del waiting[day]
                    continue
            runs.append(WantedRun(dt, f"{day}:{_digest(waiting.pop(day))}"))
    return RunPlan(
        tuple(runs),
        json.dumps(asdict(ArrivalCursor(after, waiting))),
        tuple(unknown[:UNKNOWN_KEYS_KEPT]),
        tuple(date.fromisoformat(day) for day in sorted(waiting)),
    )


def _first_look(store: ObjectStore, layout: Layout, today: date) -> tuple[dict[str, str], str, list[str]]:
    days, unknown = _raw_days(store, layout, today)
    waiting = {dt.isoformat(): FIRST_LOOK for dt in days}
    after = layout.raw_prefix
    if days:
        for info in store.list(layout.raw_folder(max(days))):
            after = info.key
    return waiting, after, unknown


def _is_of_former_feed(key: str, layout: Layout) -> bool:
    """Whether a key is of a kind of feed that is not fetched now; new ones of those are left to the reconciliation."""
    kind = kind_of(key)
    return kind is not None and kind not in layout.kinds


def _has_snapshots(store: ObjectStore, layout: Layout, dt: date) -> bool:
    """Whether a raw folder holds more than markers and the like; usually the first page tells."""
    index = layout.archive_index_key(dt)
    return any(info.key == index or layout.is_raw_key(info.key) for info in store.list(layout.raw_folder(dt)))


def _raw_days(store: ObjectStore, layout: Layout, today: date) -> tuple[list[date], list[str]]:
    """Days with a raw folder, and folders that belong to no partition; one listing."""
    days: list[date] = []
    unknown: list[str] = []
    for folder in store.list_folders(layout.raw_prefix):
        dt = folder_date(folder)
        if dt is None or not layout.first_date <= dt <= today:
            unknown.append(folder)
        else:
            days.append(dt)
    return days, unknown


def plan_reconciliation_runs(
    store: ObjectStore,
    layout: Layout,
    cursor: str | None,
    *,
    area: ServiceArea,
    now: datetime,
    today: date,
    started: frozenset[date],
    strict: StrictRules = NO_STRICT_RULES,
) -> RunPlan:
    """Compare days with what their published partitions record.

    Finds late, older, rewritten and removed raw objects, corrected dead letters, an enhanced layer or bike positions
    that lag behind or were made by other rules, Parquet objects of other writers, and failed runs. Unreadable objects
    are reported by the run: they must not hide the other days. The newest days are compared each time, the others in
    turn. Days that are only of another version are requested a few at a time, while there is nothing else to do.

    Raises:
        ExternalError: the store failed; keep the old cursor.
    """
    state = _parse_cursor(cursor, after=str, tries=dict)
    if state is None or not all(_is_day(day) and _is_try(attempt) for day, attempt in state["tries"].items()):
        state = {"version": 1, "after": "", "tries": {}}
    raw_days, unknown = _raw_days(store, layout, today)
    partitions = PublishedPartitions(store, layout)
    strays = partitions.strays_by_day()
    published = set(partitions.dates("processed")) | strays.keys()
    # A day whose raw objects are all gone is a finding, not a missing day.
    days = sorted({*raw_days, *(dt for dt in published if layout.first_date <= dt <= today)})
    kept = state.get("found")
    found_wrong = {dt for day in (kept if isinstance(kept, list) else ()) if (dt := folder_date(f"dt={day}"))}
    always = [dt for dt in days if dt in set(days[-ALWAYS_COMPARED_DAYS:]) | found_wrong]
    others = [dt for dt in days if dt not in set(always)]
    following = [dt for dt in others if dt.isoformat() > state["after"]] or others
    in_turn = following[:COMPARED_IN_TURN]
    runs: list[WantedRun] = []
    upgrades: list[tuple[date, str, int]] = []
    tries = dict(state["tries"])

    def ask(dt: date, difference: str, count: int) -> None:
        wait = min(FIRST_RETRY_AFTER * 2 ** min(count, 10), LAST_RETRY_AFTER)
        tries[dt.isoformat()] = {"digest": difference, "count": count + 1, "not_before": (now + wait).isoformat()}
        runs.append(WantedRun(dt, f"{dt.isoformat()}:compared:{difference}:{count}"))

    compared: dict[date, DayFindings] = {}
    denied: list[PermanentError] = []
    for dt in [*in_turn, *always]:
        day = dt.isoformat()
        try:
            difference, compared[dt] = _compared(store, layout, dt, area, strict, strays.get(dt, []))
        except PermanentError as error:  # its own access rights, an archive storage class
            denied.append(error)
            difference, compared[dt] = _digest(str(error)), DayFindings.of(damaged=[str(error)])
        if difference is None:
            tries.pop(day, None)
            continue
        attempt = tries.get(day, {})
        count = attempt.get("count", 0) if attempt.get("digest") == difference else 0
        due = count == 0 or not now < datetime.fromisoformat(attempt["not_before"]) <= now + LAST_RETRY_AFTER
        given_up = difference.startswith(STRAYS) and count >= STRAY_ATTEMPTS
        if dt in started or not due or given_up or len(runs) >= MAX_REQUESTS_PER_TICK:
            continue
        if difference.startswith(UPGRADE):
            upgrades.append((dt, difference, count))
        else:
            ask(dt, difference, count)
    if not runs and started <= {today}:
        for upgrade in sorted(upgrades, reverse=True)[:MAX_UPGRADES_PER_TICK]:
            ask(*upgrade)
    after = in_turn[-1].isoformat() if in_turn and in_turn[-1] != others[-1] else ""
    if denied and len(denied) == len(compared):
        raise denied[0]  # not a single day's problem
    # What a run may still fix is not yet a finding.
    for dt, day_findings in compared.items():
        if tries.get(dt.isoformat(), {}).get("count", 0) <= 1:
            compared[dt] = day_findings.without(FOREIGN, DAMAGED)
    wrong = [dt.isoformat() for dt in sorted({*(d for d in found_wrong if d not in compared), *compared})]
    wrong = [day for day in wrong if compared.get(date.fromisoformat(day), True)]
    text = json.dumps({"version": 1, "after": after, "tries": tries, "found": wrong[-MAX_FOUND_COMPARED:]})
    return RunPlan(tuple(runs), text, tuple(unknown[:UNKNOWN_KEYS_KEPT]), compared=compared, days=frozenset(days))


def _compared(
    store: ObjectStore,
    layout: Layout,
    dt: date,
    area: ServiceArea,
    strict: StrictRules,
    strays: Sequence[ObjectInfo],
) -> tuple[str | None, DayFindings]:
    """A digest of what a day's published partitions lack (None: nothing), and what only a person can fix."""
    partitions = PublishedPartitions(store, layout)
    foreign = [info.key for info in strays]
    try:
        raw = RawDay.of(store, layout, dt)
        processed = partitions.read("processed", dt)
        entries = DeadLetterQueue(store, layout).entries(dt)
        objects = raw_objects_of(raw, entries, processed)
        if not objects and processed is None:
            return _strays_digest(strays), DayFindings.of(foreign=foreign)
        timed = without_set_aside(with_remembered_times(objects, dt, processed), processed)
        plan = plan_build(timed, processed, strict=strict)
        there = {obj.key for obj in objects}
        findings = DayFindings.of(
            vanished=[key for key in plan.kept - there if not plan.manifest.sources[key].adopted],
            refused=plan.refused,
            unreadable=[f"{key}: {reason}" for key, reason in plan.manifest.unreadable.items() if key in there],
            foreign=foreign,
        )
        if plan.manifest.parser_version != PARSER_VERSION:
            return UPGRADE + _digest(f"parser {PARSER_VERSION}"), findings
        if processed is not None and plan.manifest.strict != str(strict):
            return UPGRADE + _digest(f"strict {strict}"), findings
        if not plan.nothing_to_do:
            asked = (f"{o.key} {o.etag} {o.corrections_id}" for o in plan.parse)
            return _digest("\n".join([*asked, *sorted(plan.drop)])), findings
        enhanced = partitions.read("enhanced", dt) if processed is not None else None
        if processed is not None and not is_current(enhanced, processed, area):
            if enhanced is not None and is_derived_from(enhanced, processed) and not has_todays_rules(enhanced):
                return UPGRADE + _digest(rules_id(area)), findings
            return _digest(f"enhanced {processed.footer_metadata.get('built_at')} {rules_id(area)}"), findings
        if FEED in layout.feeds and (lack := positions_lack(partitions, raw)) is not None:
            read, is_upgrade = lack
            if is_upgrade:
                return UPGRADE + _digest(f"bike positions {POSITIONS_VERSION}"), findings
            return _digest("\n".join(f"positions {answer.key} {answer.etag}" for answer in read.read)), findings
        return _strays_digest(strays), findings
    except UnexpectedAnswerError as error:
        return _digest(str(error)), DayFindings.of(foreign=foreign, damaged=[str(error)])


def _strays_digest(strays: Sequence[ObjectInfo]) -> str | None:
    return STRAYS + _digest("\n".join(f"{info.key} {info.etag}" for info in strays)) if strays else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parse_cursor(text: str | None, **types: type) -> dict[str, Any] | None:
    """A cursor with values of these types; None if there is none, or it is of another version or damaged."""
    try:
        data = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("version") != 1:
        return None
    return data if all(isinstance(data.get(name), kind) for name, kind in types.items()) else None


def _is_day(text: str) -> bool:
    return folder_date(f"dt={text}") is not None


def _is_try(attempt: Any) -> bool:
    """Whether this is what the thorough check records about a requested day."""
    if not isinstance(attempt, dict) or type(attempt.get("count")) is not int or attempt["count"] < 0:
        return False
    try:
        return datetime.fromisoformat(attempt.get("not_before", "")).tzinfo is not None
    except (ValueError, TypeError):
        return False


def _is_ahead(key: str, layout: Layout, now: datetime | None) -> bool:
    """Whether a raw key's name is dated in the future."""
    parsed = layout.parse_raw_key(key) if now is not None else None
    at = parsed.file_timestamp if parsed is not None else None
    return at is not None and now is not None and at > now + MAX_AHEAD


def _may_be_a_key(after: str, layout: Layout) -> bool:
    """Whether a listing can continue after this: a raw key, or the common prefix; stores refuse invalid UTF-8."""
    return (
        after.startswith(layout.raw_prefix)
        and len(after.encode("utf-8", "replace")) <= MAX_KEY_BYTES
        and (after.isprintable())
    )
