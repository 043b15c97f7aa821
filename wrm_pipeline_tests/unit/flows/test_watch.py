"""The two looks at raw/: what is new, and what was missed."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.domain import enhanced_build, partition_build
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.lake_findings import VANISHED
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA, ServiceArea
from wrm_pipeline.domain.schemas import PROCESSED
from wrm_pipeline.flows.enhance import enhance_partition
from wrm_pipeline.flows.process import process_partition
from wrm_pipeline.flows.watch import (
    MAX_KEYS_PER_TICK,
    MAX_REQUESTS_PER_TICK,
    MAX_UPGRADES_PER_TICK,
    RunPlan,
    plan_new_data_runs,
    plan_reconciliation_runs,
)
from wrm_pipeline.lake.findings import LakeFindings
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, WatchedStore, build_day, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line, property_settings

TODAY = DAY
MINUTE = timedelta(minutes=1)
NO_DAYS: frozenset[date] = frozenset()


def touch(lake: Lake, *keys: str) -> None:
    """Objects without content, written quickly."""
    for key in keys:
        path = lake.settings.lake_dir / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def raw_key(day: date | str, name: str) -> str:
    return f"bike-data/gen_info/raw/dt={day}/{name}"


def days(plan: RunPlan) -> list[date]:
    return [run.dt for run in plan.runs]


# --- the fast look ---


class Arrivals:
    """A sensor's memory: each look starts from the last one's cursor."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.store = WatchedStore(lake.store)
        self.cursor: str | None = None

    def look(self, *, today: date = TODAY, started: frozenset[date] = NO_DAYS) -> RunPlan:
        self.store.calls.clear()
        self.store.listed = 0
        plan = plan_new_data_runs(self.store, self.lake.layout, self.cursor, today=today, started=started)
        self.cursor = plan.cursor
        return plan


@pytest.fixture
def arrivals(lake: Lake) -> Arrivals:
    return Arrivals(lake)


def test_the_first_look_asks_for_every_day_the_newest_first(arrivals, lake):
    for day in ("2025-08-19", "2025-08-21", "2025-06-01"):
        touch(lake, raw_key(day, "a.txt"), raw_key(day, "b.txt"))
    plan = arrivals.look()
    assert days(plan) == [TODAY, date(2025, 8, 19), date(2025, 6, 1)]
    assert plan.unknown_keys == ()
    assert days(arrivals.look()) == []


def test_a_look_at_an_empty_lake_finds_what_comes_next(arrivals, lake):
    assert days(arrivals.look()) == []
    touch(lake, raw_key("2025-08-20", "a.txt"))
    assert days(arrivals.look()) == [date(2025, 8, 20)]


def test_no_change_is_no_run_and_the_same_cursor(arrivals, lake):
    lake.put_day(3)
    arrivals.look()
    cursor = arrivals.cursor
    assert arrivals.look().runs == ()
    assert arrivals.cursor == cursor


def test_new_keys_of_one_day_are_one_run(arrivals, lake):
    lake.put_day(2)
    arrivals.look()
    lake.put_day(3, first=2)
    (run,) = arrivals.look().runs
    assert run.dt == DAY
    assert arrivals.look().runs == ()


def test_several_days_at_once(arrivals, lake):
    touch(lake, raw_key("2025-08-01", "a.txt"))
    arrivals.look()
    touch(lake, *(raw_key(f"2025-08-{day:02}", "a.txt") for day in (3, 9, 21)))
    assert days(arrivals.look()) == [date(2025, 8, 21), date(2025, 8, 9), date(2025, 8, 3)]


def test_a_look_costs_one_listing_of_what_is_new(arrivals, lake):
    touch(lake, *(raw_key(f"2025-08-{day:02}", f"{n:04}.txt") for day in (18, 19, 20) for n in range(400)))
    arrivals.look()
    touch(lake, raw_key("2025-08-20", "9999.txt"))
    arrivals.look()
    assert arrivals.store.counts == {"list": 1}
    assert arrivals.store.listed == 1


def test_more_objects_than_a_page_and_of_equal_times(arrivals, lake):
    touch(lake, raw_key(TODAY, "0000.txt"))
    arrivals.look()
    touch(lake, *(raw_key(TODAY, f"{n:04}.txt") for n in range(1, 1_102)))
    assert days(arrivals.look()) == [TODAY]
    assert json.loads(arrivals.cursor)["after"].endswith("1101.txt")
    assert arrivals.look().runs == ()


def test_more_objects_than_a_tick_takes_are_taken_by_the_next(arrivals, lake):
    arrivals.look()
    touch(lake, *(raw_key("2025-08-20", f"{n:05}.txt") for n in range(MAX_KEYS_PER_TICK)), raw_key(TODAY, "a.txt"))
    assert days(arrivals.look()) == [date(2025, 8, 20)]
    assert arrivals.store.listed <= MAX_KEYS_PER_TICK + 1
    assert days(arrivals.look()) == [TODAY]


def test_more_days_than_a_tick_asks_for_wait_in_the_cursor(arrivals, lake):
    wanted = [date(2025, 6, 1) + timedelta(days=n) for n in range(2 * MAX_REQUESTS_PER_TICK + 5)]
    touch(lake, *(raw_key(dt, "a.txt") for dt in wanted))
    looks = [arrivals.look() for _ in range(4)]
    assert [len(plan.runs) for plan in looks] == [MAX_REQUESTS_PER_TICK, MAX_REQUESTS_PER_TICK, 5, 0]
    assert sorted(dt for plan in looks for dt in days(plan)) == wanted
    assert [len(plan.waiting) for plan in looks] == [MAX_REQUESTS_PER_TICK + 5, 5, 0, 0]


def test_keys_of_unknown_dates_are_reported_and_hide_nothing(arrivals, lake):
    lake.put_day(1)
    arrivals.look()
    touch(
        lake,
        raw_key("1999-01-01", "old.txt"),
        raw_key("2025-08-22", "tomorrow.txt"),
        raw_key("2025-13-45", "no_date.txt"),
        raw_key("garbage", "x.txt"),
        raw_key(TODAY, "zzz.tmp"),
    )
    lake.put_day(1, first=5)

    plan = arrivals.look()
    assert days(plan) == [TODAY]
    assert raw_key(TODAY, "zzz.tmp") in plan.unknown_keys
    assert raw_key("2025-08-22", "tomorrow.txt") in plan.unknown_keys

    # The cursor has not passed the key from the future: neither today's nor its own day is blinded.
    touch(lake, raw_key(TODAY, "zzzz.txt"))
    assert days(arrivals.look()) == [TODAY]
    assert days(arrivals.look(today=date(2025, 8, 22))) == [date(2025, 8, 22)]


def test_a_first_look_tells_folders_of_unknown_dates(arrivals, lake):
    lake.put_day(1)
    touch(lake, *(raw_key(day, "x.txt") for day in ("1999-01-01", "2025-05-31", "2025-08-22", "garbage")))
    plan = arrivals.look()
    assert days(plan) == [TODAY]
    assert len(plan.unknown_keys) == 4
    touch(lake, raw_key(TODAY, "zzzz.txt"))
    assert days(arrivals.look()) == [TODAY]


def test_a_day_under_way_waits_and_all_that_comes_meanwhile_is_one_run(arrivals, lake):
    lake.put_day(1)
    (first,) = arrivals.look().runs
    busy = frozenset({DAY})
    for n in range(1, 4):
        lake.put_day(1, first=n)
        plan = arrivals.look(started=busy)
        assert (plan.runs, plan.waiting) == ((), (DAY,))
    touch(lake, raw_key("2025-08-20", "late-day.txt"))
    (run,) = arrivals.look().runs
    assert run.dt == DAY
    assert run.run_key != first.run_key
    assert arrivals.look().runs == ()


def test_other_days_do_not_wait(arrivals, lake):
    touch(lake, raw_key("2025-08-19", "a.txt"))
    arrivals.look()
    touch(lake, raw_key("2025-08-20", "a.txt"), raw_key(TODAY, "a.txt"))
    assert days(arrivals.look(started=frozenset({TODAY}))) == [date(2025, 8, 20)]


@pytest.mark.parametrize(("before", "after"), [("ucl", "operator"), ("operator", "ucl"), ("gbfs", "operator")])
def test_on_the_day_of_a_change_the_new_feed_is_seen_at_once(lake, monkeypatch, before, after):
    def store(feed: str, minute: int) -> None:
        touch(lake, lake.layout.raw_key(NOON + minute * MINUTE, KINDS[feed]))

    def looks(feed: str, cursor: str | None) -> Arrivals:
        monkeypatch.setenv("WRM_FEEDS", feed)
        found = Arrivals(Lake(load_settings()))
        found.cursor = cursor
        return found

    store(before, 0)
    old = looks(before, None)
    assert days(old.look()) == [TODAY]
    new = looks(after, old.cursor)
    assert days(new.look()) == []
    for minute in (1, 2):
        store(after, minute)
        assert days(new.look()) == [TODAY]
        assert days(new.look()) == []
    touch(lake, lake.layout.raw_key(NOON + timedelta(days=1), KINDS[after]))
    # And perhaps once more the day before, whose last keys are passed now.
    assert TODAY + timedelta(days=1) in days(new.look(today=TODAY + timedelta(days=1)))
    assert new.look(today=TODAY + timedelta(days=1)).runs == ()
    assert new.store.listed == 0


def test_the_same_tick_twice_asks_for_the_same_runs(arrivals, lake):
    lake.put_day(2)
    arrivals.look()
    cursor = arrivals.cursor
    lake.put_day(1, first=2)
    first = arrivals.look()
    arrivals.cursor = cursor
    assert arrivals.look() == first


def test_run_keys_differ_from_one_arrival_to_the_next(arrivals, lake):
    keys = set()
    for n in range(4):
        lake.put_day(1, first=n)
        keys |= {run.run_key for run in arrivals.look().runs}
    assert len(keys) == 4


@pytest.mark.parametrize("operation", ["list", "list_folders"])
def test_a_store_that_fails_is_an_error(arrivals, lake, operation):
    lake.put_day(1)
    if operation == "list":
        arrivals.look()
    arrivals.store.fails = lambda asked, _key: asked == operation
    with pytest.raises(ExternalError):
        arrivals.look()


@pytest.mark.parametrize(
    "cursor",
    ["", "2025-08-21T12:00:00", "{}", "[1]", '{"version": 0, "after": "raw/"}', '{"version": 1}', "null"],
)
def test_a_cursor_of_an_older_version_is_a_first_look(arrivals, lake, cursor):
    lake.put_day(1)
    arrivals.cursor = cursor
    assert days(arrivals.look()) == [DAY]
    assert arrivals.look().runs == ()


def test_the_cursor_stays_small(arrivals, lake):
    touch(lake, *(raw_key(TODAY, f"{n:05}.txt") for n in range(2_000)))
    arrivals.look()
    assert len(arrivals.cursor) < 300


# --- the thorough look ---


class Comparison:
    """The reconciliation's memory, its clock, and the work that its runs do."""

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self.store = WatchedStore(lake.store)
        self.cursor: str | None = None
        self.now = NOON
        self.built = 0

    def look(
        self, *, started: frozenset[date] = NO_DAYS, today: date = TODAY, area: ServiceArea = DEFAULT_SERVICE_AREA
    ) -> RunPlan:
        plan = plan_reconciliation_runs(
            self.store, self.lake.layout, self.cursor, area=area, now=self.now, today=today, started=started
        )
        self.cursor = plan.cursor
        return plan

    def run(self, dt: date = DAY, *, enhanced: bool = True, allow_shrink: bool = False) -> None:
        """What the processing job does."""
        self.built += 1
        at = datetime(2025, 8, 21, 20, tzinfo=UTC) + self.built * MINUTE
        layout = self.lake.layout
        result = process_partition(
            self.lake.store, layout, dt, parsed_at=at, full_rebuild=False, allow_shrink=allow_shrink
        )
        from wrm_pipeline.lake.published_partitions import PartitionFile, PublishedPartitions

        partitions = PublishedPartitions(self.lake.store, layout)
        if result.build is not None:
            partitions.publish(
                "processed",
                dt,
                PartitionFile(result.build.data, result.build.row_count, result.rows_before, allow_shrink),
            )
        if enhanced:
            done = enhance_partition(
                partitions.read("processed", dt), partitions, dt, area=DEFAULT_SERVICE_AREA, built_at=at
            )
            rows = done.build.row_count
            partitions.publish("enhanced", dt, PartitionFile(done.build.data, rows, 0, allow_shrink))


@pytest.fixture
def comparison(lake: Lake) -> Comparison:
    return Comparison(lake)


def test_a_lake_that_is_all_published_needs_nothing(comparison, lake):
    assert comparison.look().runs == ()
    lake.put_day(2)
    assert days(comparison.look()) == [DAY]
    comparison.run()
    assert comparison.look().runs == ()


@pytest.mark.parametrize("change", ["late", "older", "rewritten", "same size", "foreign name", "other version"])
def test_raw_objects_that_the_cursor_passed_by(comparison, lake, change):
    keys = lake.put_day(5, first=10)
    comparison.run()
    assert comparison.look().runs == ()
    match change:
        case "late":
            lake.put_day(1, first=30)
        case "older":
            lake.put_day(1, first=0)
        case "rewritten":
            lake.store.put(keys[2], snapshot(NOON, 30))
        case "same size":
            lake.store.put(keys[2], lake.store.get(keys[2]).replace(b"Stacja 1", b"Stacja 9"))
        case "foreign name":
            lake.store.put(raw_key(DAY, "a_2025-08-21_09-00-00.txt"), snapshot(NOON))
        case "other version":
            lake.store.delete(lake.partition_key("processed"))
    assert days(comparison.look()) == [DAY]
    comparison.run(allow_shrink=True)
    assert comparison.look().runs == ()


@pytest.mark.parametrize("count", [1, 5])
def test_raw_objects_that_vanish_are_a_finding_until_they_are_back_or_missed_by_nobody(comparison, lake, count):
    keys = lake.put_day(5, first=10)
    comparison.run()
    bodies = {key: lake.store.get(key) for key in keys[:count]}
    findings = LakeFindings(lake.store, lake.layout)
    for key in bodies:
        lake.store.delete(key)
        plan = comparison.look()
        assert plan.runs == ()
        findings.update(plan.compared, plan.days)
    (found,) = findings.read().values()
    assert (found.found[VANISHED].count, found.found[VANISHED].named) == (count, tuple(keys[:count]))
    if count == 1:
        for key, body in bodies.items():
            lake.store.put(key, body)
        assert days(comparison.look()) == [DAY]
        comparison.run()
    else:
        comparison.run(allow_shrink=True)
    plan = comparison.look()
    assert plan.runs == ()
    findings.update(plan.compared, plan.days)
    assert findings.read() == {}
    assert lake.keys("findings/") == []
    assert len(lake.rows("enhanced")) == (55 if count == 1 else 0)


@pytest.mark.parametrize("layer", ["processed", "enhanced"])
def test_a_parquet_object_of_another_writer_is_seen_until_a_run_removes_it(comparison, lake, layer):
    lake.put_day(2)
    comparison.run()
    stray = lake.partition_key(layer).replace("_000000", "_130502")
    lake.store.put(stray, lake.store.get(lake.partition_key(layer)))
    assert days(comparison.look()) == [DAY]
    assert build_day().success
    assert stray not in lake.etags()
    comparison.now += MINUTE
    assert comparison.look().runs == ()


def test_an_enhanced_layer_that_is_missing_or_lags_behind(comparison, lake):
    lake.put_day(2)
    comparison.run(enhanced=False)
    assert days(comparison.look()) == [DAY]
    comparison.run()
    lake.put_day(1, first=2)
    comparison.run(enhanced=False)
    assert days(comparison.look()) == [DAY]
    comparison.run()
    assert comparison.look().runs == ()


def test_an_enhanced_layer_that_was_made_for_another_area(comparison, lake):
    lake.put_day(1)
    comparison.run()
    assert days(comparison.look(area=ServiceArea(50.0, 52.0, 16.0, 18.0))) == [DAY]


OLD_DAYS = [DAY + timedelta(days=n) for n in range(-5, 0)]


def published_by(comparison: Comparison, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Days that an older parser, or older rules, made."""
    with monkeypatch.context() as older:
        older.setattr(enhanced_build if what == "RULES_VERSION" else partition_build, what, "0")
        for dt in OLD_DAYS:
            comparison.lake.put_raw(NOON + (dt - DAY))
            comparison.run(dt)


@pytest.mark.parametrize("what", ["PARSER_VERSION", "RULES_VERSION"])
def test_days_of_an_older_version_are_rebuilt_a_few_at_a_time_the_newest_first(comparison, lake, monkeypatch, what):
    published_by(comparison, monkeypatch, what)
    asked = []
    for _ in range(3):
        plan = comparison.look()
        assert len(plan.runs) <= MAX_UPGRADES_PER_TICK
        for dt in days(plan):
            comparison.run(dt)
            asked.append(dt)
    assert asked == OLD_DAYS[::-1]
    assert comparison.look().runs == ()
    assert {column for dt in OLD_DAYS for column in lake.rows("processed", dt)[0]} == set(PROCESSED.columns)


def test_days_of_an_older_version_wait_for_everything_else(comparison, lake, monkeypatch):
    published_by(comparison, monkeypatch, "PARSER_VERSION")
    assert comparison.look(started=frozenset({OLD_DAYS[0]})).runs == (), "another day is being worked on"
    lake.put_day(1)
    assert days(comparison.look()) == [DAY], "new data first"
    comparison.run()
    assert days(comparison.look(started=frozenset({TODAY}))) == [OLD_DAYS[-1], OLD_DAYS[-2]]


def test_a_day_of_an_older_version_that_cannot_be_rebuilt_keeps_no_other_waiting(comparison, monkeypatch):
    published_by(comparison, monkeypatch, "PARSER_VERSION")
    assert days(comparison.look()) == OLD_DAYS[:-3:-1]
    assert days(comparison.look()) == OLD_DAYS[-3:-5:-1], "the first two failed, and are asked for again later"
    comparison.now += 6 * MINUTE
    assert days(comparison.look()) == OLD_DAYS[:-3:-1]


def test_a_dead_letter_that_a_person_corrected(comparison, lake):
    lake.put_raw(NOON, snapshot(NOON, 3, line(id="7", bikes="many")))
    comparison.run()
    assert comparison.look().runs == ()
    (letter,) = lake.letters()
    entry = json.loads(lake.store.get(letter))
    entry["records"][0]["corrected_data"] = line(id="7", bikes="4")
    lake.store.put(letter, json.dumps(entry).encode())
    assert days(comparison.look()) == [DAY]
    comparison.run()
    assert [row["bikes"] for row in lake.rows("processed") if row["station_id"] == "7"] == [4]
    assert comparison.look().runs == ()


def test_a_run_that_fails_is_asked_for_again_ever_more_rarely(comparison, lake):
    lake.put_day(1)
    asked = []
    for _ in range(24 * 12):
        asked += [(comparison.now, run.run_key) for run in comparison.look().runs]
        comparison.now += 5 * MINUTE
    waits = [(later - earlier) // MINUTE for (earlier, _), (later, _) in pairwise(asked)]
    assert waits[:7] == [5, 10, 20, 40, 80, 160, 320]
    assert set(waits[7:]) <= {360}
    assert len({key for _, key in asked}) == len(asked)


def test_what_succeeded_is_forgotten_and_a_new_failure_is_asked_for_at_once(comparison, lake):
    lake.put_day(1)
    for _ in range(3):
        comparison.look()
        comparison.now += timedelta(hours=1)
    comparison.run()
    comparison.look()
    assert json.loads(comparison.cursor)["tries"] == {}
    lake.put_day(1, first=5)
    assert days(comparison.look()) == [DAY]


def test_another_arrival_does_not_wait_for_the_back_off_of_the_last_failure(comparison, lake):
    lake.put_day(1)
    assert days(comparison.look()) == [DAY]
    assert days(comparison.look()) == []
    lake.put_day(1, first=1)
    assert days(comparison.look()) == [DAY]


def test_a_day_under_way_is_left_alone_and_is_not_a_failure(comparison, lake):
    lake.put_day(1)
    assert comparison.look(started=frozenset({DAY})).runs == ()
    assert days(comparison.look()) == [DAY]


def test_old_days_are_compared_in_turn_and_the_newest_always(comparison, lake):
    past = [date(2025, 6, 1) + timedelta(days=n) for n in range(40)]
    for dt in past:
        lake.put_day(1, dt=dt)
        comparison.run(dt)
    compared: list[set[date]] = []
    for _ in range(5):
        comparison.store.calls.clear()
        assert comparison.look().runs == ()
        read = {key[-23:-15] for operation, key in comparison.store.calls if operation == "get"}
        compared.append({datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date() for text in read})
    newest = set(past[-3:])
    assert all(newest <= looked for looked in compared)
    assert [len(looked - newest) for looked in compared] == [10, 10, 10, 7, 10]
    assert set.union(*compared[:4]) == set(past)

    late = past[17]
    lake.put_day(1, dt=late, first=50)
    found = [days(comparison.look()) for _ in range(4)]
    assert sorted(found) == [[], [], [], [late]]


def test_folders_of_unknown_dates_are_reported_and_cost_nothing(comparison, lake):
    lake.put_day(1)
    touch(lake, *(raw_key(day, "x.txt") for day in ("1999-01-01", "2025-08-22", "garbage")))
    plan = comparison.look()
    assert days(plan) == [DAY]
    assert len(plan.unknown_keys) == 3


def test_a_folder_without_a_snapshot_needs_no_run(comparison, lake):
    touch(lake, raw_key(DAY, "README.md"))
    assert comparison.look().runs == ()


@pytest.mark.parametrize("spoiled", ["dead letter", "archive index", "processed", "enhanced"])
def test_an_object_that_cannot_be_read_does_not_hide_the_other_days(comparison, lake, spoiled):
    good = date(2025, 8, 20)
    for dt in (good, DAY):
        lake.put_day(1, dt=dt)
        comparison.run(dt)
    lake.put_day(1, dt=good, first=5)
    keys = {
        "dead letter": f"{lake.layout.dead_letter_folder(DAY)}x.json",
        "archive index": lake.layout.archive_index_key(DAY),
    }
    lake.store.put(keys.get(spoiled) or lake.partition_key(spoiled), b"[" * 200_000)

    # The spoiled day's run fails and says which object it is; a dead letter fails none.
    assert days(comparison.look()) == ([good] if spoiled == "dead letter" else [good, DAY])
    assert days(comparison.look()) == []


def test_a_store_that_fails_is_an_error_and_not_a_difference(comparison, lake):
    lake.put_day(1)
    for operation in ("list_folders", "list", "get"):
        comparison.store.fails = lambda asked, _key, operation=operation: asked == operation
        with pytest.raises(ExternalError):
            comparison.look()


@pytest.mark.parametrize("cursor", ["x", "{}", '{"version": 7}', '{"version": 1, "after": 3, "tries": []}'])
def test_a_cursor_of_another_version_starts_again(comparison, lake, cursor):
    lake.put_day(1)
    comparison.cursor = cursor
    assert days(comparison.look()) == [DAY]


def test_more_days_than_a_tick_asks_for_wait_for_their_turn(comparison, lake):
    for n in range(15):
        lake.put_day(1, dt=date(2025, 6, 1) + timedelta(days=n))
    first, second = comparison.look(), comparison.look()
    assert len(first.runs) == 13
    assert len(second.runs) == 2
    assert len({*days(first), *days(second)}) == 15


# --- clocks that were ahead, and cursors that are not ours ---


@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=93), timedelta(days=365 * 70)])
def test_a_clock_that_was_ahead_for_a_minute_blinds_nobody(arrivals, lake, ahead):
    lake.put_raw(NOON)
    assert days(arrivals.look()) == [TODAY]
    lake.put_raw(NOON + ahead)
    assert days(arrivals.look(today=TODAY + ahead)) == [TODAY + ahead]
    lake.put_raw(NOON + MINUTE)
    assert days(arrivals.look()) == [TODAY]
    assert days(arrivals.look()) == []
    lake.put_raw(NOON + 2 * MINUTE)
    assert days(arrivals.look()) == [TODAY]
    assert arrivals.store.listed <= 2, "from where it was, up to the first key beyond today"


def test_a_day_that_waited_while_the_clock_was_ahead_waits_no_more(arrivals, lake):
    tomorrow = TODAY + timedelta(days=1)
    lake.put_raw(NOON + timedelta(days=1))
    assert arrivals.look(today=tomorrow, started=frozenset({tomorrow})).waiting == (tomorrow,)
    assert arrivals.look().waiting == ()


@pytest.mark.parametrize(
    "not_before", ["2030-01-01T00:00:00+00:00", "2025-08-21T19:00:00+00:00"], ids=["years ahead", "7 hours ahead"]
)
def test_a_day_that_a_clock_ahead_has_put_off_is_asked_for_now(lake, not_before):
    lake.put_raw(NOON)
    first = plan_reconciliation_runs(
        lake.store, lake.layout, None, area=DEFAULT_SERVICE_AREA, now=NOON, today=TODAY, started=NO_DAYS
    )
    state = json.loads(first.cursor)
    state["tries"][str(TODAY)]["not_before"] = not_before
    again = plan_reconciliation_runs(
        lake.store, lake.layout, json.dumps(state), area=DEFAULT_SERVICE_AREA, now=NOON, today=TODAY, started=NO_DAYS
    )
    assert days(again) == [TODAY]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(str(TODAY)) | st.just("2025-02-30"),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text() | st.just(str(TODAY)), children),
    max_leaves=8,
)
_CURSORS = st.one_of(
    st.text(),
    _JSON.map(json.dumps),
    st.fixed_dictionaries({"version": st.sampled_from([1, 1.0, True, 2, "1"]), "after": _JSON, "waiting": _JSON,
                           "tries": _JSON, "found": _JSON}).map(json.dumps),
    st.sampled_from([
        "[" * 200_000,
        '{"version":1,"after":"' + "9" * 100_000 + '","waiting":{}}',
        '{"version":1,"after":"\\ud800","waiting":{}}',
        '{"version":1,"after":"bike-data/gen_info/raw/\\ud800","waiting":{}}',
        '{"version":1,"after":"bike-data/gen_info/raw/\\u0000","waiting":{}}',
        '{"version":1,"after":"bike-data/gen_info/raw/","waiting":{"2025-02-30":"a"}}',
        '{"version":1,"after":"bike-data/gen_info/raw/","waiting":{"2025-W34-4":"a"}}',
        '{"version":1,"after":"bike-data/gen_info/raw/","waiting":{"2025-08-21":7}}',
        '{"version":1,"after":"other/raw/","waiting":{}}',
        '{"version":1,"after":"","tries":{"2025-08-21":{"digest":"x","count":1e400,"not_before":"soon"}}}',
        '{"version":1,"after":"","tries":{"2025-08-21":{"digest":"x","count":' + "9" * 4000 + ',"not_before":"soon"}}}',
        '{"version":1,"after":"","tries":{"2025-08-21":{"digest":"x","count":1,"not_before":"2025-08-21T12:00:00"}}}',
        '{"version":1,"after":"","tries":{"2025-08-21":[]}}',
    ]),
)  # fmt: skip


@pytest.fixture(scope="module")
def one_day(tmp_path_factory) -> LocalObjectStore:
    store, layout = LocalObjectStore(tmp_path_factory.mktemp("lake")), Layout()
    store.put(layout.raw_key(NOON), snapshot(NOON))
    return store


@property_settings(150)
@given(_CURSORS)
def test_a_cursor_that_is_not_ours_counts_as_a_first_look(one_day, cursor):
    """Nothing raises, and the day is asked for: hypothesis cannot guess a cursor that says it was seen."""
    layout = Layout()
    plan = plan_new_data_runs(one_day, layout, cursor, today=TODAY, started=NO_DAYS)
    assert days(plan) == [TODAY]
    assert plan_new_data_runs(one_day, layout, plan.cursor, today=TODAY, started=NO_DAYS).runs == ()
    options = {"area": DEFAULT_SERVICE_AREA, "now": NOON, "today": TODAY, "started": NO_DAYS}
    plan = plan_reconciliation_runs(one_day, layout, cursor, **options)
    assert days(plan) == [TODAY]
    assert plan_reconciliation_runs(one_day, layout, plan.cursor, **options).runs == ()
