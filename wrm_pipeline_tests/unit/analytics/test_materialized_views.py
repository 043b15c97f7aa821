"""The materialized views: right by an independent computation, refreshed by day, all or nothing."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.analytics import refresh
from wrm_pipeline.analytics.enhanced_days import PartitionGoneError
from wrm_pipeline.analytics.registry import TABLES, tables_of
from wrm_pipeline.analytics.registry.daily import DAILY_VIEWS, MV_FLOWS
from wrm_pipeline.analytics.registry.latest import LATEST_VIEWS
from wrm_pipeline.analytics.registry.planner import PLANNER_TABLES
from wrm_pipeline.clients.errors import ObjectArchivedError, TransientError
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import folder_date
from wrm_pipeline_tests.fixtures import brute_force
from wrm_pipeline_tests.fixtures.brute_force import reports_of_day
from wrm_pipeline_tests.fixtures.history import History, with_lines_lost
from wrm_pipeline_tests.fixtures.lake import Lake, RefusingStore, WatchedStore

AUTUMN, SPRING = date(2025, 10, 26), date(2026, 3, 29)
# The days before spring's: a Sunday, three working days that make a profile, one more, and a Saturday.
SUNDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY, SATURDAY = (date(2026, 3, day) for day in (22, 24, 25, 26, 27, 28))
DAYS = [view.name for view in DAILY_VIEWS]
PLANNED = [view.name for view in PLANNER_TABLES]
ALL = [*DAYS, *(view.name for view in LATEST_VIEWS), "mv_rides", *PLANNED]


@pytest.fixture
def history(lake: Lake) -> History:
    return History(lake)


def small_days(history: History, *days: date) -> None:
    """Days of four snapshots."""
    for day in days:
        history.put(day, history.times(day, 360))


def expected_tables(history: History) -> brute_force.Tables:
    """From whatever is raw in the lake."""
    folder = history.lake.settings.lake_dir / history.lake.layout.raw_prefix
    days = {day: reports_of_day(path) for path in folder.iterdir() if (day := folder_date(path.name))}
    return brute_force.tables_of({day: snapshots for day, snapshots in days.items() if snapshots})


def close(found: object, expected: object, tolerance: float) -> bool:
    if isinstance(expected, list) and isinstance(found, list):
        return len(found) == len(expected) and all(map(lambda f, e: close(f, e, tolerance), found, expected))
    if isinstance(expected, float) and isinstance(found, (float, int)):
        return abs(found - expected) <= tolerance
    return found == expected


def assert_equal_to_brute_force(history: History) -> brute_force.Tables:
    """Every table, row by row, column by column."""
    expected = expected_tables(history)
    with history.database.reading() as connection:
        for view in tables_of(asset_names.MATERIALIZED_VIEWS)[:-1]:
            if view in PLANNER_TABLES:  # test_planner.py
                continue
            found = connection.execute(f"FROM wrm_analytics.{view.name}").to_arrow_table().to_pylist()
            names = [column.name for column in view.columns]
            key = sorted_by(names)
            wanted = sorted(expected[view.name], key=key)
            assert len(found) == len(wanted), view.name
            for row, right in zip(sorted(found, key=key), wanted, strict=True):
                assert list(row) == names
                for name in names:
                    # A metre may be rounded the other way, and a mean of means.
                    tolerance = {"distance_m": 1, "expected_bikes": 0.0051}.get(name, 1e-9)
                    assert close(row[name], right[name], tolerance), (view.name, name, row, right)
    return expected


def sorted_by(names):
    by = [name for name in ("dt", "hour_start", "station_id", "bike_id", "left_at", "arrived_at") if name in names]
    return lambda row: [str(row[name]) for name in by]


def refreshed(history: History) -> dict[tuple, object]:
    return {
        (name, dt): at
        for name, dt, at in history.query("SELECT table_name, dt, refreshed_at FROM wrm_analytics.mv_refreshes")
    }


# --- right ---


def test_all_are_as_computed_by_hand_from_the_raw_text(history):
    # Half an hour between snapshots: every difference is over a gap. Ten minutes: none is.
    for day in (SUNDAY, TUESDAY, WEDNESDAY):
        history.put(day, history.times(day, 30))
    history.put(AUTUMN, history.times(AUTUMN, 10))
    history.put(THURSDAY, history.times(THURSDAY, 10))
    late = history.times(FRIDAY, 10)
    history.put(FRIDAY, late[:40] + late[44:])
    done = history.refresh()
    assert len(done.days_refreshed) == 6
    expected = assert_equal_to_brute_force(history)
    hours = dict(history.query("SELECT dt, count(*) FROM wrm_analytics.mv_city_hourly GROUP BY dt"))
    assert (hours[AUTUMN], hours[THURSDAY]) == (25, 24)
    twice = f"SELECT count(*) FROM wrm_analytics.mv_city_hourly WHERE dt = '{AUTUMN}' AND local_hour = 2"
    assert history.query(twice) == [(2,)]

    # A day with two outages, missing snapshots, and lines that are missing here and there; then 23 hours.
    times = history.times(SATURDAY, 5)
    gaps = [at for number, at in enumerate(times) if not (60 <= number < 90 or 200 <= number < 204 or number % 37 == 0)]
    history.put(SATURDAY, gaps, with_lines_lost(0.02))
    history.put(SPRING, history.times(SPRING, 10))
    done = history.refresh()
    assert done.days_refreshed == (SATURDAY, SPRING)
    expected = assert_equal_to_brute_force(history)
    assert len([row for row in expected["mv_city_hourly"] if row["dt"] == SPRING]) == 23
    assert 2 not in {row["local_hour"] for row in expected["mv_city_hourly"] if row["dt"] == SPRING}
    # Every case occurs.
    assert {row["kind"] for row in expected["mv_bike_trips"]} == {"free_to_free", "free_to_station", "station_to_free"}
    assert any(row["gap_change"] for row in expected["mv_flows"] if row["dt"] == SATURDAY)
    assert any(row["departures"] for row in expected["mv_flows"] if row["dt"] == SATURDAY)

    # Late files, of an old day and of the newest; nothing else is computed again.
    before = refreshed(history)
    history.put(FRIDAY, late[40:44])
    done = history.refresh()
    assert done.days_refreshed == (FRIDAY,)
    assert_equal_to_brute_force(history)
    after = refreshed(history)
    changed = {part for part in after if after[part] != before.get(part)}
    assert changed == {
        *((name, FRIDAY) for name in (*DAYS, "mv_lost_demand", "mv_turnover")),
        *((name, None) for name in (*(view.name for view in LATEST_VIEWS), "mv_station_hours", "mv_imbalance")),
    }

    # A day's flows add up: bikes at its end are those at its start plus arrivals minus departures.
    balance = """
        WITH rows AS (SELECT * FROM wrm_analytics.mv_flows WHERE dt = ?),
        flows AS (SELECT station_id, sum(arrivals - departures + gap_change) AS change FROM rows GROUP BY station_id),
        ends AS (
            SELECT station_id, arg_max(bikes, file_timestamp) - arg_min(bikes, file_timestamp) AS change
            FROM wrm_analytics.wrm_stations_only WHERE dt = ? GROUP BY station_id
        )
        SELECT count(*) FROM flows JOIN ends USING (station_id, change)
    """
    history.create_views()
    with history.database.reading() as connection:
        assert connection.execute(balance, [SATURDAY, SATURDAY]).fetchone() == (12,)


def test_a_bike_that_drifts_flickers_or_comes_back_is_where_it_is(history):
    """Sightings by hand, minute by minute: place A, a drift of it, place B 1 km away."""
    a, drift, b = (51.10, 17.03), (51.1005, 17.03), (51.109, 17.03)
    seen = [a, a, drift, None, None, a, a, *[None] * 7, a, a, b, b]
    times = history.times(TUESDAY, 1)[: len(seen)]

    def change(body: bytes, at) -> bytes:
        place = seen[times.index(at)]
        header, first, *_ = body.splitlines()
        columns = first.decode().split(",")
        combined = columns[1]
        rows = [header.decode(), first.decode()]
        if place:
            rows.append(f"fb1,{combined},BIKE 1,{place[0]},{place[1]},1,0,true,false,true,0,,0")
        return ("\n".join(rows) + "\n").encode()

    history.put(TUESDAY, times, change)
    history.refresh()
    found = history.query("SELECT kind, left_at, arrived_at, distance_m FROM wrm_analytics.mv_bike_trips ORDER BY 2")
    assert [(kind, times.index(left), times.index(arrived)) for kind, left, arrived, _ in found] == [
        ("free_to_free", 6, 14),  # away for eight minutes and back: a round trip
        ("free_to_free", 15, 16),
    ]
    assert [metres for *_, metres in found] == [0, 1001]
    assert history.query("SELECT standing_since, idle_h FROM wrm_analytics.mv_bike_latest") == [(times[16], 0.02)]


# --- by day ---


def test_an_empty_lake_has_all_tables_with_the_columns_that_are_documented(history):
    done = history.refresh()
    assert (done.newest, set(done.rows)) == (None, set(ALL))
    for view in tables_of(asset_names.MATERIALIZED_VIEWS):
        with history.database.reading() as connection:
            found = connection.execute(f"FROM wrm_analytics.{view.name}")
            assert [column[0] for column in found.description] == [column.name for column in view.columns]
            assert view.name == "mv_refreshes" or found.fetchall() == []
        assert all(len(column.description) > 8 for column in view.columns)
        assert view.description
        assert view.formula
        assert view.limits


def test_without_a_change_the_database_is_left_alone(history):
    history.refresh()
    small_days(history, TUESDAY)
    history.refresh()
    written = history.database.path.stat()
    done = history.refresh()
    assert (done.days_refreshed, done.rows["mv_station_latest"]) == ((), 12)
    assert history.database.path.stat().st_mtime_ns == written.st_mtime_ns
    assert history.database.path.stat().st_ino == written.st_ino


def test_a_day_that_is_gone_leaves_the_tables(history):
    small_days(history, TUESDAY, WEDNESDAY)
    history.refresh()
    history.lake.store.delete(history.lake.partition_key("enhanced", WEDNESDAY))
    history.lake.settings.lake_dir.joinpath(history.lake.layout.raw_folder(WEDNESDAY)).rename(
        history.lake.settings.lake_dir / "elsewhere"
    )
    done = history.refresh()
    assert (done.days_refreshed, done.days_dropped, done.newest) == ((), (WEDNESDAY,), TUESDAY)
    assert_equal_to_brute_force(history)

    history.lake.store.delete(history.lake.partition_key("enhanced", TUESDAY))
    assert set(history.refresh().rows.values()) == {0}
    for name in ALL:
        assert history.query(f"FROM wrm_analytics.{name}") == []


def test_a_table_of_another_version_is_made_again_and_no_other(history):
    small_days(history, TUESDAY, WEDNESDAY)
    history.refresh()
    before = refreshed(history)
    with history.database.refresh() as connection:
        connection.execute("ALTER TABLE wrm_analytics.mv_flows DROP COLUMN gap_change")  # as an older one might be
        connection.execute("DROP TABLE wrm_analytics.mv_bike_latest")
        connection.execute("UPDATE wrm_analytics.mv_refreshes SET source = 'older' WHERE table_name = 'mv_city_hourly'")
    history.refresh()
    assert_equal_to_brute_force(history)
    after = refreshed(history)
    assert {name for name, dt in after if after[name, dt] != before[name, dt]} == {
        "mv_flows",
        "mv_bike_latest",
        "mv_city_hourly",
    }


def test_detailed_tables_keep_so_many_days_and_the_others_all(history, monkeypatch):
    for view in DAILY_VIEWS:
        monkeypatch.setitem(TABLES, view.name, replace(view, kept_days=2 if view.kept_days else None))
    small_days(history, TUESDAY, WEDNESDAY, THURSDAY)
    history.refresh()
    small_days(history, FRIDAY)
    history.refresh()

    def days(name: str) -> list:
        return [dt for (dt,) in history.query(f"SELECT DISTINCT dt FROM wrm_analytics.{name} ORDER BY dt")]

    assert days(MV_FLOWS.name) == days("mv_station_hourly") == [THURSDAY, FRIDAY]
    assert days("mv_daily_aggregates") == days("mv_city_hourly") == [TUESDAY, WEDNESDAY, THURSDAY, FRIDAY]
    assert history.refresh().days_refreshed == ()


def test_a_question_about_one_day_reads_one_file(history):
    small_days(history, TUESDAY, WEDNESDAY, THURSDAY)
    history.create_views()
    history.refresh()
    sql = (
        "SELECT round(avg(bikes), 2) FROM (SELECT sum(bikes) AS bikes FROM wrm_analytics.wrm_stations_only "
        f"WHERE dt = DATE '{WEDNESDAY}' GROUP BY file_timestamp)"
    )
    answer = f"SELECT bikes_mean FROM wrm_analytics.mv_daily_aggregates WHERE dt = DATE '{WEDNESDAY}'"
    assert history.query(sql) == history.query(answer)
    assert "Total Files Read: 1 " in history.query(f"EXPLAIN ANALYZE {sql}")[0][1]
    assert "Total Files Read" not in history.query(f"EXPLAIN ANALYZE {answer}")[0][1]


# --- all or nothing ---


def test_a_refresh_that_fails_halfway_leaves_the_tables_and_their_times(history):
    small_days(history, TUESDAY, WEDNESDAY)
    history.refresh()
    before, file = refreshed(history), history.database.path.read_bytes()
    rows = {name: history.query(f"FROM wrm_analytics.{name}") for name in ALL}

    # The first of two changed days is written by then; the second cannot be read.
    history.put(TUESDAY, history.times(TUESDAY, 300))
    history.put(WEDNESDAY, history.times(WEDNESDAY, 300))
    key = history.lake.partition_key("enhanced", WEDNESDAY)
    store = WatchedStore(history.lake.store, fails=lambda operation, name: (operation, name) == ("get", key))
    good, history.partitions = history.partitions, replace(history.partitions, store=store)
    with pytest.raises(TransientError, match=f"dt={WEDNESDAY}"):
        history.refresh()
    assert refreshed(history) == before
    assert history.database.path.read_bytes() == file
    assert {name: history.query(f"FROM wrm_analytics.{name}") for name in ALL} == rows

    history.partitions = good
    assert history.refresh().days_refreshed == (TUESDAY, WEDNESDAY)
    assert_equal_to_brute_force(history)


def test_a_day_that_goes_while_the_tables_are_refreshed_fails_the_refresh(history, monkeypatch):
    small_days(history, TUESDAY)
    listed = refresh.published_days(history.partitions)
    monkeypatch.setattr(refresh, "published_days", lambda _: listed | {WEDNESDAY: "gone by now"})
    with pytest.raises(PartitionGoneError, match="2026-03-25 was removed"):
        history.refresh()
    assert not history.database.path.exists()


def test_a_reader_that_stays_open_through_three_refreshes_meets_no_error(history):
    small_days(history, TUESDAY)
    history.refresh()
    script = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
for line in sys.stdin:
    print(connection.execute(line).fetchone()[0], flush=True)
"""
    question = "SELECT sum(snapshots) FROM wrm_analytics.mv_daily_aggregates\n"
    command = [sys.executable, "-c", script, str(history.database.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as reader:
        answers = []
        for days in range(1, 4):
            reader.stdin.write(question)
            answers.append(reader.stdout.readline())
            small_days(history, TUESDAY + timedelta(days=days))
            history.refresh()
        reader.stdin.write(question)
        answers.append(reader.stdout.readline())
        reader.stdin.close()
        assert reader.wait(60) == 0
    assert answers == ["4\n"] * 4
    assert history.query(question) == [(16,)]


# --- an unreadable day affects no other ---


def foreign_rows(data: bytes) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"], "bikes": ["many"]}), out)
    return out.getvalue()


def other_types(data: bytes) -> bytes:
    rows = pq.read_table(io.BytesIO(data))
    out = io.BytesIO()
    pq.write_table(rows.set_column(rows.schema.get_field_index("bikes"), "bikes", rows["bikes"].cast("string")), out)
    return out.getvalue()


def damaged_rows(data: bytes) -> bytes:
    return data[:4] + bytes(200) + data[204:]


@pytest.mark.parametrize("spoil", [lambda data: data[:-100], foreign_rows, other_types, damaged_rows])
def test_an_old_day_that_cannot_be_read_costs_itself(history, spoil):
    small_days(history, TUESDAY, WEDNESDAY, THURSDAY)
    key = history.lake.partition_key("enhanced", TUESDAY)
    good = history.lake.store.get(key)
    history.lake.store.put(key, spoil(good))
    done = history.refresh()
    assert (done.days_unreadable, done.newest) == ((TUESDAY,), THURSDAY)
    days = "SELECT dt FROM wrm_analytics.mv_daily_aggregates ORDER BY dt"
    assert history.query(days) == [(WEDNESDAY,), (THURSDAY,)]
    assert history.refresh().days_refreshed == ()  # not looked at again and again
    history.lake.store.put(key, good)
    assert history.refresh().days_refreshed == (TUESDAY,)
    assert_equal_to_brute_force(history)


@pytest.mark.parametrize("spoil", [lambda data: data[:-100], foreign_rows, other_types, damaged_rows])
def test_a_newest_day_that_cannot_be_read_costs_itself_and_the_day_before_is_now(history, spoil):
    small_days(history, TUESDAY, WEDNESDAY)
    history.refresh()
    before = {name: history.query(f"FROM wrm_analytics.{name}") for name in ALL}
    small_days(history, THURSDAY)
    history.refresh()
    key = history.lake.partition_key("enhanced", THURSDAY)
    good = history.lake.store.get(key)
    history.lake.store.put(key, spoil(good))
    done = history.refresh()
    assert (done.days_unreadable, done.newest) == ((THURSDAY,), WEDNESDAY)
    assert {name: history.query(f"FROM wrm_analytics.{name}") for name in ALL} == before
    assert history.refresh().newest == WEDNESDAY
    history.lake.store.put(key, good)
    assert history.refresh().newest == THURSDAY
    assert_equal_to_brute_force(history)


@pytest.mark.parametrize("day", [TUESDAY, THURSDAY])
def test_a_day_that_the_store_does_not_give_costs_itself_until_it_does(history, day):
    small_days(history, TUESDAY, WEDNESDAY, THURSDAY)
    store = RefusingStore(history.lake.store)
    history.partitions = replace(history.partitions, store=store)
    store.refused = frozenset({history.lake.partition_key("enhanced", day)})
    for _ in range(2):  # it is asked for each time
        done = history.refresh()
        assert done.days_unreadable == (day,)
        assert {dt for (dt,) in history.query("SELECT dt FROM wrm_analytics.mv_daily_aggregates")} == {
            *{TUESDAY, WEDNESDAY, THURSDAY} - {day}
        }
    assert done.newest == max({WEDNESDAY, THURSDAY} - {day})
    store.refused = frozenset()
    assert history.refresh().newest == THURSDAY
    assert history.refresh().days_refreshed == ()
    assert_equal_to_brute_force(history)


def test_a_store_that_gives_no_day_fails_the_refresh(history):
    small_days(history, TUESDAY, WEDNESDAY)
    history.refresh()
    file = history.database.path.read_bytes()
    small_days(history, THURSDAY)
    store = RefusingStore(history.lake.store)
    store.refused = frozenset(history.lake.partition_key("enhanced", day) for day in (TUESDAY, WEDNESDAY, THURSDAY))
    history.partitions = replace(history.partitions, store=store)
    with pytest.raises(ObjectArchivedError):
        history.refresh()
    assert history.database.path.read_bytes() == file


def test_many_days_that_the_store_does_not_give_are_asked_for_a_few_at_a_time(history, monkeypatch):
    monkeypatch.setattr(refresh, "_DENIED_AT_ONCE", 1)
    small_days(history, TUESDAY, WEDNESDAY, THURSDAY)
    store = RefusingStore(history.lake.store)
    history.partitions = replace(history.partitions, store=store)
    store.refused = frozenset(history.lake.partition_key("enhanced", day) for day in (TUESDAY, WEDNESDAY))
    assert history.refresh().days_unreadable == (TUESDAY, WEDNESDAY)
    assert history.refresh().days_unreadable == (WEDNESDAY,)
    store.refused = frozenset()
    assert history.refresh().days_refreshed == (WEDNESDAY,)
    assert history.refresh().days_refreshed == (TUESDAY,)
    assert_equal_to_brute_force(history)


# --- a clock that was ahead ---


def test_a_day_to_come_and_later_snapshots_are_not_what_is_now(history):
    history.now = datetime(2026, 3, 26, 11, 0, tzinfo=UTC)
    small_days(history, TUESDAY, WEDNESDAY)
    noon = [at for at in history.times(THURSDAY, 60) if at < history.now]
    history.put(THURSDAY, noon)
    history.refresh()
    now = {view.name: history.query(f"FROM wrm_analytics.{view.name}") for view in LATEST_VIEWS}
    assert {row[-1] for row in now["mv_station_latest"]} == {THURSDAY}
    history.put(THURSDAY, [history.now + timedelta(hours=3)])
    far = date(2026, 6, 27)
    small_days(history, far)
    done = history.refresh()
    assert (done.newest, done.days_refreshed) == (THURSDAY, (THURSDAY, far))
    assert {view.name: history.query(f"FROM wrm_analytics.{view.name}") for view in LATEST_VIEWS} == now
    assert history.query("SELECT max(dt) FROM wrm_analytics.mv_daily_aggregates") == [(far,)]
    # And with the far day there, what is new today is seen.
    at = history.now
    history.put(THURSDAY, [at])
    history.refresh()
    assert history.query("SELECT DISTINCT file_timestamp FROM wrm_analytics.mv_station_latest") == [(at,)]
