"""The quality tables as days come, change and go, and as things fail."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest

from wrm_pipeline.analytics.quality_tables import refresh_quality_tables
from wrm_pipeline.analytics.refresh import Refresh
from wrm_pipeline.analytics.registry.quality import QUALITY_TABLES, REFRESHES
from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.domain.anomaly_options import ISOLATION_FOREST, AnomalyOptions
from wrm_pipeline.domain.business_rules import business_rules
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.flows.enhance import enhance_partition
from wrm_pipeline.flows.process import process_partition
from wrm_pipeline.lake.published_partitions import PartitionFile, PublishedPartitions
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, RefusingStore, WatchedStore, snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE = DAY - timedelta(days=1)


def run(lake: Lake, *, now: datetime = NOW, store: object = None, **options: object) -> Refresh:
    resource = LakeResource.of(lake.settings)
    partitions = PublishedPartitions(store or lake.store, lake.layout)  # type: ignore[arg-type]
    area = options.pop("area", lake.settings.area)
    return refresh_quality_tables(resource.database, partitions, area=area, refreshed_at=now, **options)  # type: ignore[arg-type]


def days_of(done: Refresh) -> tuple[tuple[date, ...], ...]:
    """Refreshed, dropped, waiting."""
    return done.days_refreshed, done.days_dropped, done.days_waiting


def ask(lake: Lake, sql: str) -> list[tuple]:
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET schema = 'wrm_analytics'")
        return connection.execute(sql).fetchall()


def everything(lake: Lake) -> dict[str, list[tuple]]:
    return {table.name: sorted(ask(lake, f"FROM {table.name}"), key=repr) for table in QUALITY_TABLES}


def build_day(lake: Lake, dt: date = DAY) -> None:
    """Both layers of a day, as the assets publish them."""
    partitions, area = PublishedPartitions(lake.store, lake.layout), lake.settings.area
    at = datetime.now(UTC)
    processed = process_partition(lake.store, lake.layout, dt, parsed_at=at, full_rebuild=False)
    enhanced = enhance_partition(processed.file, partitions, dt, area=area, built_at=at)
    for layer, build in (("processed", processed.build), ("enhanced", enhanced.build)):
        assert build is not None
        partitions.publish(layer, dt, PartitionFile(build.data, build.row_count, 0))


def put_day(lake: Lake, dt: date, count: int = 2, first: int = 0) -> None:
    lake.put_day(count, dt=dt, first=first)
    build_day(lake, dt)


def test_the_tables_are_as_they_are_defined(lake):
    put_day(lake, DAY)
    run(lake)
    for table in QUALITY_TABLES:
        found = ask(
            lake,
            "SELECT column_name, replace(data_type, 'TIMESTAMP WITH TIME ZONE', 'TIMESTAMPTZ') "
            f"FROM information_schema.columns WHERE table_name = '{table.name}' ORDER BY ordinal_position",
        )
        assert found == [(column.name, column.type) for column in table.columns], table.name
        assert table.description
        assert all(column.description for column in table.columns)


def test_the_feeds_of_a_day_are_judged_by_the_hour(lake):
    for minute in range(80):
        at = NOON + timedelta(minutes=minute)
        lake.put_raw(at, snapshot(at, bikes=min(minute, 30)))
    build_day(lake)
    run(lake)
    columns = "hour_start, feed, snapshots, published, sound, frozen, stations_min, bikes_min, longest_silence_s"
    assert ask(lake, f"SELECT {columns} FROM quality_feeds ORDER BY hour_start") == [
        (NOON, "ucl", 60, 60, 50, 10, 10, 46, 29 * 60),
        (NOON + timedelta(hours=1), "ucl", 20, 20, 0, 20, 10, 46, 19 * 60),
    ]
    ((reason,),) = ask(lake, f"SELECT reason FROM quality_feeds WHERE hour_start = '{NOON}'")
    assert reason.startswith("counts of all 10 stations unchanged for 29 minutes while report times move")


def test_a_day_is_accounted_for_and_profiled(lake):
    lake.put_day(2)
    lake.put_raw(NOON + timedelta(minutes=2), snapshot(NOON + timedelta(minutes=2), 10, "15099,nonsense"))
    build_day(lake)
    assert days_of(run(lake)) == ((DAY,), (), ())
    assert ask(lake, "FROM quality_accounting") == [
        (DAY, 34, 33, 1, 0, 0, 3, NOON, NOON + timedelta(minutes=2)),
    ]
    rules = {rule.name for rule in business_rules(lake.settings.area)}
    assert {rule for (rule,) in ask(lake, "SELECT rule FROM quality_rules")} == rules
    hits = {
        rule: (count, checked)
        for rule, count, checked in ask(lake, "SELECT rule, hits, rows_checked FROM quality_rule_hits")
    }
    assert set(hits) == rules
    assert hits["line_is_no_row"] == (1, 34)
    assert hits["no_docks"] == (0, 30)
    ((samples,),) = ask(lake, "SELECT samples FROM quality_rule_hits WHERE rule = 'line_is_no_row'")
    assert json.loads(samples)[0]["s3_source_key"].endswith("12-02-00.txt")
    profile = ask(
        lake, "SELECT rows, nulls, distinct_values, minimum, drift FROM quality_profile WHERE column_name = 'bikes'"
    )
    assert profile == [(33, 0, 10, "0", None)]
    assert ask(lake, "SELECT count(*), min(snapshots), max(bikes_mean) FROM quality_station_hours")[0][:2] == (10, 3)


def test_only_new_and_changed_days_are_computed(lake):
    put_day(lake, BEFORE)
    put_day(lake, DAY)
    assert run(lake).days_refreshed == (BEFORE, DAY)
    written = lake.settings.database_path.stat().st_mtime_ns

    store = WatchedStore(lake.store)
    assert days_of(run(lake, store=store, now=NOW + timedelta(hours=1))) == ((), (), ())
    assert set(store.counts) == {"list"}
    assert lake.settings.database_path.stat().st_mtime_ns == written

    put_day(lake, DAY, count=1, first=2)
    store = WatchedStore(lake.store)
    later = NOW + timedelta(hours=2)
    assert run(lake, store=store, now=later).days_refreshed == (DAY,)
    assert [key for operation, key in store.calls if operation == "get" and BEFORE.isoformat() in key] == []
    assert ask(lake, "SELECT dt, rows, refreshed_at FROM quality_refreshes ORDER BY dt") == [
        (BEFORE, 22, NOW),
        (DAY, 33, later),
    ]
    assert ask(lake, "SELECT dt, rows_out FROM quality_accounting ORDER BY dt") == [(BEFORE, 22), (DAY, 33)]


def test_what_is_computed_bit_by_bit_is_what_is_computed_at_once(lake):
    for n in range(3):
        put_day(lake, BEFORE, count=1, first=n)
        put_day(lake, DAY, count=1, first=n)
        run(lake)
    grown = everything(lake)
    lake.settings.database_path.unlink()
    run(lake)
    assert everything(lake) == grown


def test_another_area_computes_all_days_again(lake):
    put_day(lake, DAY)
    run(lake)
    assert run(lake, area=ServiceArea(52.0, 52.5, 20.5, 21.5)).days_refreshed == (DAY,)
    assert "52.0" in ask(lake, "SELECT reason FROM quality_rules WHERE rule = 'outside_service_area'")[0][0]


def test_a_day_that_is_gone_leaves_the_tables(lake):
    put_day(lake, BEFORE)
    put_day(lake, DAY)
    run(lake)
    lake.store.delete(lake.partition_key("enhanced", BEFORE))
    assert days_of(run(lake)) == ((), (BEFORE,), ())
    for table in QUALITY_TABLES:
        if table.name != "quality_rules":
            assert ask(lake, f"SELECT count(*) FROM {table.name} WHERE dt = DATE '{BEFORE}'") == [(0,)], table.name


def test_a_table_with_other_columns_is_made_again_for_every_day_those_that_wait_included(lake):
    for dt in (BEFORE, DAY):
        put_day(lake, dt)
    run(lake)
    columns_by_day = "SELECT dt, count(*) FROM quality_profile GROUP BY dt ORDER BY dt"
    before = ask(lake, columns_by_day)
    with LakeResource.of(lake.settings).database.refresh() as connection:
        connection.execute("ALTER TABLE wrm_analytics.quality_profile DROP COLUMN drift")  # as an older one might be
    assert days_of(run(lake, max_days=1)) == ((DAY,), (), (BEFORE,))
    assert days_of(run(lake, max_days=1)) == ((BEFORE,), (), ())
    assert days_of(run(lake, max_days=1)) == ((), (), ())
    assert ask(lake, columns_by_day) == before
    assert len(before) == 2


def test_what_somebody_else_has_called_like_one_of_the_tables_is_set_aside(lake):
    with LakeResource.of(lake.settings).database.refresh() as connection:
        connection.execute("CREATE TABLE wrm_analytics.quality_profile AS SELECT 42 AS answer")
    put_day(lake, DAY)
    run(lake)
    assert ask(lake, "SELECT count(*) > 0 FROM quality_profile WHERE column_name = 'bikes'") == [(True,)]
    ((aside,),) = ask(lake, "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'quality_profile_before_%'")
    assert ask(lake, f"FROM {aside}") == [(42,)]


def test_a_failure_in_the_middle_leaves_the_old_tables(lake):
    put_day(lake, BEFORE)
    put_day(lake, DAY)
    run(lake)
    before = everything(lake)
    put_day(lake, BEFORE, count=1, first=2)
    put_day(lake, DAY, count=1, first=2)
    key = lake.partition_key("enhanced", DAY)
    store = WatchedStore(lake.store, fails=lambda operation, asked: operation == "get" and asked == key)
    with pytest.raises(TransientError):
        run(lake, store=store, now=NOW + timedelta(hours=1))
    # The day before was computed by then.
    assert ("get", lake.partition_key("enhanced", BEFORE)) in store.calls
    assert everything(lake) == before
    assert run(lake).days_refreshed == (BEFORE, DAY)
    assert everything(lake) != before


def test_a_long_backlog_is_taken_in_parts_and_the_newest_day_with_the_first(lake):
    days = [DAY - timedelta(days=n) for n in range(4, -1, -1)]
    for dt in days:
        put_day(lake, dt, count=1)
    first = run(lake, max_days=2)
    assert (first.days_refreshed, first.days_waiting) == ((days[0], DAY), tuple(days[1:4]))
    assert run(lake, max_days=2).days_waiting == (days[3],)
    assert days_of(run(lake, max_days=2)) == ((days[3],), (), ())
    assert days_of(run(lake, max_days=2)) == ((), (), ())


def test_stations_are_compared_with_the_end_of_the_day_before(lake):
    midnight = datetime(2025, 8, 20, 22, tzinfo=UTC)
    lake.put_raw(midnight - timedelta(minutes=1), snapshot(midnight - timedelta(minutes=1), 9))
    lake.put_raw(midnight, snapshot(midnight, 10))
    build_day(lake, BEFORE)
    build_day(lake)
    run(lake)
    hits = ask(lake, "SELECT dt, hits FROM quality_rule_hits WHERE rule = 'station_appeared' ORDER BY dt")
    assert hits == [(BEFORE, 0), (DAY, 1)]


@pytest.mark.parametrize(("dt", "hours"), [(date(2026, 3, 29), 23), (date(2025, 10, 26), 25)])
def test_days_on_which_the_clocks_change_have_their_hours(lake, dt, hours):
    at = datetime(dt.year, dt.month, dt.day, tzinfo=UTC) - timedelta(hours=2 if hours == 25 else 1)
    for n in range(hours):
        lake.put_raw(at + timedelta(hours=n), snapshot(at + timedelta(hours=n), 3))
    build_day(lake, dt)
    run(lake)
    found = ask(lake, "SELECT count(DISTINCT hour_start), count(*) FILTER (local_hour = 2) FROM quality_station_hours")
    assert found == [(hours, 6 if hours == 25 else 0)]
    assert ask(lake, "SELECT snapshots FROM quality_accounting") == [(hours,)]


def test_each_judged_hour_has_its_score(lake):
    for days in range(7, -1, -1):
        at = NOON - timedelta(days=days)
        lake.put_raw(at, snapshot(at, 10 if days else 11, bikes=days))  # a station that is new is not judged
        build_day(lake, DAY - timedelta(days=days))
    run(lake, options=AnomalyOptions(ISOLATION_FOREST, 0.5))
    scores = ask(lake, "SELECT dt, station_id, anomaly_score, anomaly FROM quality_station_hours")
    judged = [row for row in scores if row[2] is not None]
    assert {dt for dt, *_ in judged} == {DAY}
    assert {station for dt, station, *_ in scores if dt == DAY} - {row[1] for row in judged} == {"15011"}
    assert all(anomaly is (score > 1) for _, _, score, anomaly in judged)
    assert all(row[3] is None for row in scores if row not in judged)
    found = ask(lake, "SELECT dt, station_id, score, true FROM quality_anomalies WHERE method = 'isolation_forest'")
    assert sorted(found) == sorted(row for row in judged if row[3])
    assert found


def test_station_hours_are_kept_as_long_as_they_are_compared_with(lake):
    old = DAY - timedelta(days=40)
    put_day(lake, old, count=1)
    run(lake)
    put_day(lake, DAY, count=1)
    run(lake)
    assert ask(lake, "SELECT DISTINCT dt FROM quality_station_hours") == [(DAY,)]
    assert len(ask(lake, f"FROM {REFRESHES.name}")) == 2


def test_a_day_to_come_does_not_end_what_days_are_compared_with(lake):
    for dt in (BEFORE, DAY, DAY + timedelta(days=90)):
        put_day(lake, dt, count=1)
    run(lake, now=NOON)
    assert (BEFORE,) in ask(lake, "SELECT DISTINCT dt FROM quality_station_hours")


@pytest.mark.parametrize("layer", ["processed", "enhanced"])
def test_a_day_that_cannot_be_read_costs_itself(lake, layer):
    for day in (DAY - timedelta(days=1), DAY):
        put_day(lake, day, count=1)
    key = lake.partition_key(layer, DAY - timedelta(days=1))
    good = lake.store.get(key)
    lake.store.put(key, good[:-100])
    assert run(lake).days_refreshed == (DAY - timedelta(days=1), DAY)
    assert (DAY,) in ask(lake, "SELECT DISTINCT dt FROM quality_profile")
    assert ask(lake, "SELECT count(DISTINCT dt) FROM quality_accounting") == [(2 if layer == "enhanced" else 1,)]
    assert run(lake).days_refreshed == ()


def test_a_day_that_the_store_does_not_give_costs_itself_until_it_does(lake):
    for day in (BEFORE, DAY):
        put_day(lake, day, count=1)
    store = RefusingStore(lake.store)
    store.refused = frozenset({lake.partition_key("enhanced", BEFORE)})
    for _ in range(2):  # it is asked for each time
        done = run(lake, store=store)
        assert (done.days_unreadable, BEFORE in done.days_refreshed) == ((BEFORE,), True)
        assert ask(lake, "SELECT DISTINCT dt FROM quality_profile") == [(DAY,)]
    store.refused = frozenset()
    assert run(lake, store=store).days_refreshed == (BEFORE,)
    assert ask(lake, "SELECT DISTINCT dt FROM quality_profile ORDER BY dt") == [(BEFORE,), (DAY,)]
    assert run(lake, store=store).days_refreshed == ()
