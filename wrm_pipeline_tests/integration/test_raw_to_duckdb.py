"""From the feed to SQL, through the jobs and the sensors, on a local folder and on a real S3 server.

What comes out is compared with what Python's own csv module finds in the raw bytes: no parser of ours judges itself.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from wrm_pipeline.analytics.database import give_s3_access
from wrm_pipeline.resources.lake import s3_access
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import Misbehaviour
from wrm_pipeline.simulator.server import SimulatedFeed, serve
from wrm_pipeline_tests.fixtures.lake import Lake, failure_of, metadata_of, run_job, tick

pytestmark = pytest.mark.integration

COLUMNS = (
    "station_id, name, epoch(timestamp)::BIGINT, lat, lon, bikes, spaces, total_docks, pedelecs, locked, "
    "record_type, dt"
)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, environment: Path) -> Lake:
    """An empty lake: a local folder, or a new bucket of a real server."""
    if request.param == "s3":
        server = request.getfixturevalue("seaweedfs")
        for name, value in server.variables(server.create_bucket()).items():
            monkeypatch.setenv(name, value)
    return Lake(load_settings())


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedFeed]:
    with serve(City(7)) as server:
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", server.url)
        yield server


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def fetch(feed: SimulatedFeed, minutes_ago: int, kind: Misbehaviour | None = None) -> None:
    """One run of the ingest job, while the city is as it was some minutes ago."""
    feed.clock = lambda: datetime.now(UTC) - timedelta(minutes=minutes_ago)
    if kind is not None:
        feed.plan(kind)
    run_job("wrm_stations_ingest_job", raise_on_error=kind is not Misbehaviour.HTML)


def run_what_sensors_ask_for(instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[str], str | None]:
    """One tick of the sensor and the runs that it asks for; gives the days and the cursor."""
    asked = tick("wrm_stations_raw_data_sensor", instance, cursor)
    days = [request.partition_key for request in asked.run_requests]
    for day in days:
        run_job("wrm_stations_processing_job", dt=date.fromisoformat(day), instance=instance)
    return days, asked.cursor


def rows_of_raw(lake: Lake) -> list[tuple]:
    """The expected rows of the raw bytes, from the csv module and a few lines that know the simulated faults."""
    found = []
    for key in lake.keys("raw/"):
        day = date.fromisoformat(key.partition("/dt=")[2][:10])
        stations: dict[str, tuple] = {}
        for row in csv.DictReader(io.StringIO(lake.store.get(key).decode())):
            number, lat = row["#id"], row["lat"]
            if not number or number.startswith(("src", "#", "991")) or lat is None:
                continue  # remarks, and the rows that the simulated feed spoils: numbers 99100 and up
            reported = int(row["timestamp|gmt_local_diff_sec|gmt_servertime_diff_sec"].split("|")[0])
            kind = "bike" if number.startswith("fb") else "station"
            counts = (int(row[name]) for name in ("bikes", "spaces", "total_docks", "pedelecs"))
            values = (
                number,
                row["name"].strip(),
                reported,
                float(lat),
                float(row["lon"]),
                *counts,
                row["locked"] == "true",
            )
            if number not in stations or stations[number][2] <= reported:
                stations[number] = (*values, kind, day)
        found.extend(stations.values())
    return sorted(found)


def query(lake: Lake, sql: str) -> list[tuple]:
    """Ask the local database as a person would: a fresh connection, read-only, with access to the bucket."""
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        access = s3_access(lake.settings)
        if access is not None:
            give_s3_access(connection, access)
        return connection.execute(sql).fetchall()


def rows_of_views(lake: Lake) -> list[tuple]:
    return sorted(query(lake, f"SELECT {COLUMNS} FROM wrm_analytics.wrm_stations_enhanced_data"))


def everything(lake: Lake) -> list[tuple]:
    columns = "* EXCLUDE (processed_at)"
    return query(
        lake, f"SELECT {columns} FROM wrm_analytics.wrm_stations_enhanced_data ORDER BY file_timestamp, station_id"
    )


def parquet_keys(lake: Lake) -> list[str]:
    return [key for key in lake.keys("") if key.endswith(".parquet")]


def test_from_the_feed_to_sql_and_again_from_nothing_but_raw(place: Lake, feed, instance):
    lake = place
    fetch(feed, 30)
    fetch(feed, 20, Misbehaviour.DEAD_LETTER_ROWS)
    days, cursor = run_what_sensors_ask_for(instance, None)
    assert days
    fetch(feed, 10, Misbehaviour.DUPLICATE_STATION)
    fetch(feed, 5, Misbehaviour.REMARKS)
    fetch(feed, 3, Misbehaviour.HTML)
    again, cursor = run_what_sensors_ask_for(instance, cursor)
    assert again
    result = run_job("wrm_analytics_job", instance=instance)

    # The rows are those of the raw bytes.
    expected = rows_of_raw(lake)
    assert len(expected) > 1_000
    assert rows_of_views(lake) == expected
    assert len(lake.keys("raw/")) == 4
    assert len(lake.keys("quarantine/")) == 1
    folders = {key.rpartition("/")[0] for key in parquet_keys(lake)}
    assert len(parquet_keys(lake)) == len(folders) == 2 * len(lake.store.list_folders(lake.layout.raw_prefix))

    # On S3 it is httpfs that reads them: there is no Parquet on this machine.
    if lake.settings.bucket_name:
        assert list(lake.settings.data_dir.rglob("*.parquet")) == []
        ((definition,),) = query(
            lake,
            "SELECT definition FROM wrm_analytics.view_definitions WHERE view_name = 'wrm_stations_enhanced_data'",
        )
        assert f"read_parquet('s3://{lake.settings.bucket_name}/bike-data/" in definition

    # Latest and the summary are of the newest day's last snapshot.
    newest = max(row[-1] for row in expected)
    last_raw = max(key for key in lake.keys("raw/") if f"dt={newest}" in key)
    last = list(csv.DictReader(io.StringIO(lake.store.get(last_raw).decode())))
    now = {row["#id"]: int(row["bikes"]) for row in last if row["lat"] and not row["#id"].startswith(("fb", "src"))}
    assert dict(query(lake, "SELECT station_id, bikes FROM wrm_analytics.wrm_stations_latest")) == now
    assert dict(query(lake, "SELECT station_id, bikes FROM wrm_analytics.mv_station_latest")) == now
    assert dict(query(lake, "SELECT station_id, bikes_latest FROM wrm_analytics.query_station_summary")) == now
    assert metadata_of(result, "bike_density_spatial_analysis")["adds_up"] is True
    assert "<html" in lake.store.get(lake.layout.report_key("bike_density_map.html")).decode().lower()

    # The published database, attached where it lies by a connection that knows nothing else.
    with duckdb.connect() as fresh:
        access = s3_access(lake.settings)
        if access is not None:
            give_s3_access(fresh, access)
        fresh.execute(f"ATTACH '{lake.store.url(lake.layout.database_key)}' AS published (READ_ONLY)")
        summary = fresh.execute("SELECT station_id, bikes_latest FROM published.wrm_analytics.query_station_summary")
        assert dict(summary.fetchall()) == now
        latest = fresh.execute("SELECT station_id, bikes FROM published.wrm_analytics.mv_station_latest")
        assert dict(latest.fetchall()) == now
        fresh.execute("USE published.wrm_analytics")
        assert fresh.execute("SELECT count(*) FROM wrm_stations_enhanced_data").fetchone() == (len(expected),)

    # Once more, all of it: the same rows, the same objects.
    before, keys = everything(lake), lake.keys()
    days = sorted({*days, *again})
    for day in days:
        full = {name: {"full_rebuild": True} for name in ("wrm_stations_processed_data_all",)}
        run_job("wrm_stations_processing_job", dt=date.fromisoformat(day), config=full, instance=instance)
    run_job("wrm_analytics_job", instance=instance)
    assert lake.keys() == keys
    assert everything(lake) == before

    # And from nothing but raw/ and dlq/.
    for key in keys:
        if "/raw/" not in key and "/dlq/" not in key:
            lake.store.delete(key)
    lake.settings.database_path.unlink()
    for day in days:
        run_job("wrm_stations_processing_job", dt=date.fromisoformat(day), instance=instance)
    run_job("wrm_analytics_job", instance=instance)
    assert everything(lake) == before
    assert [key for key in keys if "/quarantine/" not in key] == lake.keys()


def test_an_empty_lake_has_views_and_a_plain_message(place: Lake):
    result = run_job("wrm_analytics_job", raise_on_error=False)
    assert query(place, "SELECT count(*) FROM wrm_analytics.wrm_stations_latest") == [(0,)]
    assert failure_of(result).count("No enhanced partition is published") == 2


def test_three_then_two_then_three_raw_files(place: Lake, instance):
    lake = place
    day, neighbour = date(2025, 8, 21), date(2025, 8, 20)
    lake.put_day(2, dt=neighbour)
    run_job("wrm_stations_processing_job", dt=neighbour, instance=instance)
    others = {key: etag for key, etag in lake.etags().items() if f"dt={neighbour}" in key}
    keys = lake.put_day(3)
    count = f"SELECT count(*) FROM wrm_analytics.wrm_stations_enhanced_data WHERE dt = DATE '{day}'"
    shrink = {
        name: {"allow_shrink": True} for name in ("wrm_stations_processed_data_all", "wrm_stations_enhanced_data_all")
    }
    counts = []

    run_job("wrm_stations_processing_job", dt=day, instance=instance)
    counts.append(query(lake, count))
    content = lake.store.get(keys[0])
    lake.store.delete(keys[0])
    run_job("wrm_stations_processing_job", dt=day, instance=instance)
    counts.append(query(lake, count))
    run_job("wrm_stations_processing_job", dt=day, config=shrink, instance=instance)
    counts.append(query(lake, count))
    lake.store.put(keys[0], content)
    run_job("wrm_stations_processing_job", dt=day, instance=instance)
    counts.append(query(lake, count))

    assert counts == [[(33,)], [(33,)], [(22,)], [(33,)]]
    assert len(parquet_keys(lake)) == 4
    assert {key: etag for key, etag in lake.etags().items() if f"dt={neighbour}" in key} == others


def test_a_query_reads_the_day_it_asks_for(place: Lake, instance):
    for day in (19, 20, 21):
        place.put_day(1, dt=date(2025, 8, day))
        run_job("wrm_stations_processing_job", dt=date(2025, 8, day), instance=instance)
    sql = "EXPLAIN ANALYZE SELECT sum(bikes) FROM wrm_analytics.wrm_stations_only WHERE dt = DATE '2025-08-20'"
    assert "Total Files Read: 1 " in query(place, sql)[0][1]


def test_while_the_server_refuses_snapshots_wait_and_then_all_arrive(request, monkeypatch, environment, feed):
    server = request.getfixturevalue("seaweedfs")
    monkeypatch.setenv("BUCKET_NAME", server.create_bucket())
    monkeypatch.setenv("S3_ENDPOINT_URL", server.endpoint_url)
    monkeypatch.setenv("S3_ACCESS_KEY_ID", server.access_key_id)
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "wrong")
    waiting = []
    for minutes_ago in (30, 20):
        feed.clock = lambda minutes_ago=minutes_ago: datetime.now(UTC) - timedelta(minutes=minutes_ago)
        metadata = metadata_of(run_job("wrm_stations_ingest_job"), "wrm_stations_raw_data")
        assert metadata["spooled"] is True
        assert "Check the S3 keys" in metadata["spool_reason"]
        assert "wrong" not in metadata["spool_reason"]
        waiting.append(metadata["key"])

    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", server.secret_access_key)
    fetch(feed, 10)
    keys = Lake(load_settings()).keys("raw/")
    assert len(keys) == 3
    assert set(waiting) <= set(keys)
