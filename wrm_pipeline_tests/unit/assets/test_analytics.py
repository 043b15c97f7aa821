"""Views, summary, density and map, materialized as Dagster does it."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from statistics import mean

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline_tests.fixtures.lake import (
    DAY,
    NOON,
    Lake,
    build_day,
    definitions,
    failure_of,
    materialize,
    metadata_of,
    run_job,
)
from wrm_pipeline_tests.fixtures.snapshots import body, line

VIEWS, SUMMARY = "create_duckdb_enhanced_views", "query_station_summary"
DENSITY, MAP = "bike_density_spatial_analysis", "bike_density_map"


def query(lake: Lake, sql: str) -> list[tuple]:
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(sql).fetchall()


def test_views_are_there_on_an_empty_lake(lake):
    metadata = metadata_of(materialize(VIEWS), VIEWS)
    assert (metadata["newest_partition"], metadata["unchanged"]) == ("None", False)
    assert query(lake, "SELECT count(*) FROM wrm_analytics.wrm_stations_latest") == [(0,)]


@pytest.mark.parametrize("asset", [SUMMARY, DENSITY, MAP])
def test_without_data_the_others_say_what_to_do(lake, asset):
    materialize(VIEWS)
    message = failure_of(materialize(asset, raise_on_error=False))
    assert "Materialize wrm_stations_processed_data_all and wrm_stations_enhanced_data_all" in message


def test_views_are_left_alone_until_there_is_a_new_day(lake):
    lake.put_day(1, dt=date(2025, 8, 20))
    build_day(date(2025, 8, 20))
    assert metadata_of(materialize(VIEWS), VIEWS)["unchanged"] is False
    written = lake.settings.database_path.stat().st_mtime_ns

    lake.put_day(1, dt=date(2025, 8, 20), first=1)
    build_day(date(2025, 8, 20))
    assert metadata_of(materialize(VIEWS), VIEWS)["unchanged"] is True
    assert lake.settings.database_path.stat().st_mtime_ns == written
    assert query(lake, "SELECT count(*) FROM wrm_analytics.wrm_stations_enhanced_data") == [(22,)]

    lake.put_day(1)
    build_day()
    metadata = metadata_of(materialize(VIEWS), VIEWS)
    assert (metadata["unchanged"], metadata["newest_partition"]) == (False, "2025-08-21")
    assert query(lake, "SELECT DISTINCT dt FROM wrm_analytics.wrm_stations_latest") == [(DAY,)]
    assert "wrm_analytics.wrm_stations_latest" in metadata["views"]


def test_a_database_that_was_lost_is_made_again(lake):
    lake.put_day(1)
    build_day()
    materialize(VIEWS)
    lake.settings.database_path.unlink()
    assert metadata_of(materialize(VIEWS), VIEWS)["unchanged"] is False
    assert query(lake, "SELECT count(*) FROM wrm_analytics.wrm_stations_latest") == [(10,)]


def test_the_summary_has_one_row_for_each_station(lake):
    lake.put_day(4)
    build_day()
    result = materialize(VIEWS, SUMMARY)

    rows = lake.rows("processed")
    expected = []
    for station in sorted({row["station_id"] for row in rows} - {"fb591106"}):
        bikes = [row["bikes"] for row in rows if row["station_id"] == station]
        empty = [count == 0 for count in bikes]
        expected.append((station, bikes[-1], round(mean(bikes), 2), min(bikes), max(bikes), round(mean(empty), 4), 4))
    found = query(
        lake,
        "SELECT station_id, bikes_latest, bikes_mean, bikes_min, bikes_max, share_empty, snapshots "
        "FROM wrm_analytics.query_station_summary ORDER BY station_id",
    )
    assert found == expected
    assert query(lake, "SELECT DISTINCT dt, last_snapshot FROM wrm_analytics.query_station_summary") == [
        (DAY, datetime(2025, 8, 21, 12, 3, tzinfo=UTC))
    ]
    metadata = metadata_of(result, SUMMARY)
    assert (metadata["day"], metadata["stations"], metadata["dagster/row_count"]) == ("2025-08-21", 10, 10)
    assert "Stacja" in metadata["emptiest_stations"]


@pytest.fixture
def three_days(lake: Lake) -> Lake:
    """Three days with one, two and three snapshots, the newest DAY, and the views."""
    for snapshots, day in enumerate(DAYS, start=1):
        lake.put_day(snapshots, dt=day)
        build_day(day)
    materialize(VIEWS)
    return lake


DAYS = [DAY - timedelta(days=2), DAY - timedelta(days=1), DAY]
COUNTS = "SELECT dt, max(snapshots) FROM wrm_analytics.query_station_summary{} GROUP BY dt ORDER BY dt"


def test_each_run_replaces_its_day_and_the_view_shows_the_newest(three_days):
    for day in (DAYS[1], DAYS[0], DAYS[1]):
        result = materialize(SUMMARY, DENSITY, dt=day)
        assert {metadata_of(result, asset)["day"] for asset in (SUMMARY, DENSITY)} == {str(day)}
    assert query(three_days, COUNTS.format("")) == [(DAYS[0], 1), (DAYS[1], 2)]
    assert query(three_days, COUNTS.format("_latest")) == [(DAYS[1], 2)]
    metadata = metadata_of(result, SUMMARY)
    assert (metadata["dagster/partition_row_count"], metadata["dagster/row_count"]) == (10, 20)
    assert metadata_of(result, DENSITY)["snapshots"] == 2
    cells = "SELECT dt, count(*) FROM wrm_analytics.bike_density_spatial_analysis GROUP BY dt ORDER BY dt"
    assert query(three_days, cells) == [(DAYS[0], 1), (DAYS[1], 1)]
    # A run that names no day builds the newest.
    assert metadata_of(materialize(SUMMARY), SUMMARY)["day"] == str(DAY)
    assert query(three_days, COUNTS.format("_latest")) == [(DAY, 3)]


def test_a_range_of_days_is_one_run_and_each_says_what_it_is_about(three_days):
    tags = {f"dagster/asset_partition_range_{end}": str(day) for end, day in (("start", DAYS[0]), ("end", DAYS[2]))}
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions().resolve_job_def("wrm_daily_analytics_job")
        result = job.execute_in_process(instance=instance, tags=tags)
        for asset in (SUMMARY, DENSITY):
            assert instance.get_materialized_partitions(dg.AssetKey(asset)) == set(map(str, DAYS))
    made = result.asset_materializations_for_node(DENSITY)
    assert {event.partition: event.metadata["snapshots"].value for event in made} == {
        str(day): number for number, day in enumerate(DAYS, start=1)
    }
    assert query(three_days, COUNTS.format("")) == [(day, number) for number, day in enumerate(DAYS, start=1)]


def test_a_day_may_be_chosen_in_the_config_of_a_run_without_one(three_days):
    chosen = {SUMMARY: {"date": str(DAYS[1])}}
    assert metadata_of(materialize(SUMMARY, config=chosen), SUMMARY)["day"] == str(DAYS[1])
    assert "Leave `date` out" in failure_of(materialize(SUMMARY, config=chosen, dt=DAY, raise_on_error=False))
    wrong = {SUMMARY: {"date": "yesterday"}}
    assert "'yesterday' is not a date" in failure_of(materialize(SUMMARY, config=wrong, raise_on_error=False))


def test_a_day_without_data_is_done_and_says_so(three_days):
    result = materialize(SUMMARY, DENSITY, dt=DAY + timedelta(days=1))
    for asset in (SUMMARY, DENSITY):
        metadata = metadata_of(result, asset)
        assert "no enhanced rows of 2025-08-22" in metadata["nothing_to_do"]
        assert metadata["dagster/partition_row_count"] == 0
    assert query(three_days, COUNTS.format("")) == []


def test_the_table_of_an_older_release_is_made_again(three_days):
    with duckdb.connect(str(three_days.settings.database_path)) as connection:
        connection.execute("CREATE TABLE wrm_analytics.query_station_summary AS SELECT 'x' AS station_id, 1 AS bikes")
        connection.execute("CREATE TABLE wrm_analytics.bike_density_spatial_analysis AS SELECT 1 AS cell_x")
    materialize(SUMMARY, DENSITY, dt=DAY)
    assert query(three_days, COUNTS.format("")) == query(three_days, COUNTS.format("_latest")) == [(DAY, 3)]
    assert query(three_days, "SELECT count(*) FROM wrm_analytics.bike_density_spatial_analysis_latest") == [(1,)]


def test_a_day_to_come_is_not_the_latest(three_days):
    materialize(SUMMARY, dt=DAY)
    with duckdb.connect(str(three_days.settings.database_path)) as connection:
        connection.execute(
            "INSERT INTO wrm_analytics.query_station_summary BY NAME "
            "SELECT * REPLACE (DATE '2099-01-01' AS dt) FROM wrm_analytics.query_station_summary"
        )
    assert query(three_days, COUNTS.format("_latest")) == [(DAY, 3)]


def test_the_map_is_of_the_day_of_the_run(three_days):
    drawn = metadata_of(run_job("wrm_analytics_job", dt=DAYS[1]), MAP)
    assert drawn["day"] == str(DAYS[1])
    assert datetime.fromtimestamp(drawn["as_of"], UTC).date() == DAYS[1]
    assert metadata_of(run_job("wrm_analytics_job"), MAP)["day"] == str(DAY)


def test_the_analytics_job_makes_tables_the_published_database_and_the_map(lake):
    lake.put_day(3)
    build_day()
    result = run_job("wrm_analytics_job")

    density, drawn = metadata_of(result, DENSITY), metadata_of(result, MAP)
    assert density["adds_up"] is True
    assert density["rows_in"] == 33
    assert (drawn["rows_drawn"], drawn["rows_outside_area"]) == (11, 0)
    page = lake.store.get("bike-data/gen_info/reports/bike_density_map.html").decode()
    assert drawn["size_bytes"] == len(page.encode())
    assert "Stacja 3" in page
    assert drawn["map"] == f"file://{lake.settings.lake_dir}/bike-data/gen_info/reports/bike_density_map.html"
    cells = query(lake, "SELECT count(*), sum(bikes_mean) FROM wrm_analytics.bike_density_spatial_analysis")
    bikes = sum(row["bikes"] for row in lake.rows("processed")) / 3
    assert cells == [(1, pytest.approx(bikes))]
    # Published after the last table was written: nobody who fetches it misses one.
    assert lake.store.get(lake.layout.database_key) == lake.settings.database_path.read_bytes()


def damaged(data: bytes) -> bytes:
    return data[:-100]


def other_columns(data: bytes) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize("spoil", [damaged, other_columns])
def test_a_newest_day_that_cannot_be_read_costs_itself(lake, spoil):
    before = DAY - timedelta(days=1)
    for day in (before, DAY):
        lake.put_day(2, dt=day)
        build_day(day)
    run_job("wrm_analytics_job")
    key = lake.partition_key("enhanced")
    lake.store.put(key, spoil(lake.store.get(key)))
    result = run_job("wrm_analytics_job")
    for asset in (VIEWS, "create_materialized_views"):
        assert metadata_of(result, asset)["newest_partition"] == str(before)
    for asset in (SUMMARY, DENSITY, MAP):
        assert metadata_of(result, asset)["day"] == str(before)
    for table in ("wrm_stations_latest", "wrm_stations_enhanced_data", "mv_station_latest", "mv_daily_aggregates"):
        assert query(lake, f"SELECT max(dt) FROM wrm_analytics.{table}") == [(before,)]
    (check,) = (c for c in result.get_asset_check_evaluations() if c.check_name == "enhanced_files_are_readable")
    assert not check.passed
    assert str(DAY) in (check.description or "")
    # Asked for by its name, it keeps the rows that the tables have of it.
    kept = metadata_of(run_job("wrm_analytics_job", dt=DAY), SUMMARY)
    assert "cannot be read" in kept["nothing_to_do"]
    assert query(lake, COUNTS.format("_latest")) == [(DAY, 2)]
    # It is built again like any day, and is now again.
    build_day(config={"full_rebuild": True})
    assert metadata_of(run_job("wrm_analytics_job"), SUMMARY)["day"] == str(DAY)


def test_a_newest_day_without_a_row_leaves_the_map_of_before(lake):
    lake.put_day(1)
    build_day()
    run_job("wrm_analytics_job")
    html = lake.store.get(lake.layout.report_key("bike_density_map.html"))
    lake.put_raw(NOON + timedelta(days=1), body(line(combined="not a time")))
    build_day(DAY + timedelta(days=1))
    drawn = metadata_of(run_job("wrm_analytics_job"), MAP)
    assert (drawn["day"], drawn["rows_drawn"]) == ("2025-08-22", 0)
    assert lake.store.get(lake.layout.report_key("bike_density_map.html")) == html


def test_a_run_that_fails_leaves_the_old_tables(lake):
    lake.put_day(1)
    build_day()
    run_job("wrm_analytics_job")
    before = query(lake, "SELECT * FROM wrm_analytics.query_station_summary ORDER BY station_id")
    lake.store.put(lake.partition_key("enhanced"), b"PAR1 damaged PAR1")
    assert not materialize(SUMMARY, dt=DAY, raise_on_error=False).success
    assert query(lake, "SELECT * FROM wrm_analytics.query_station_summary ORDER BY station_id") == before
