"""The operator's answers -> bike_positions/, materialized as Dagster does it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.analytics.rides_by_day import RidesByDay
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.schemas import BIKE_POSITIONS, arrow_schema
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, ENHANCED, NOON, PROCESSED, definitions, materialize, metadata_of
from wrm_pipeline_tests.fixtures.operator_answers import answer, bike, free, station

MINUTE = timedelta(minutes=1)
KEY = "bike-data/gen_info/bike_positions/dt=2025-08-21/bike_positions_20250821_000000.parquet"
HERE, FAR = {"lat": 51.1000, "lng": 17.0300}, {"lat": 51.1030, "lng": 17.0300}
NEAR = {"lat": 51.1005, "lng": 17.0300}  # 56 m from HERE


def place(number: int, *numbers: int) -> dict[str, object]:
    return station(number, bikes=len(numbers)) | {"bikes": [bike(n) for n in numbers]}


def put(lake, minute: int, *places: object, content: bytes | None = None, dt: date = DAY) -> str:
    at = datetime(dt.year, dt.month, dt.day, 12, tzinfo=UTC) + minute * MINUTE
    key = lake.layout.raw_key(at, KINDS["operator"])
    lake.store.put(key, answer(places) if content is None else content)
    return key


def build(lake, dt: date = DAY, **config: object):
    return materialize("bike_positions", dt=dt, config={"bike_positions": config} if config else None)


def stays(lake, dt: date = DAY) -> list[tuple[object, ...]]:
    """(bike, station, first minute, last minute) of each stay."""
    noon = datetime(dt.year, dt.month, dt.day, 12, tzinfo=UTC)
    return [
        (
            row["bike_id"],
            row["station_id"],
            (row["arrived_at"] - noon) // MINUTE,
            None if row["left_at"] is None else (row["left_at"] - noon) // MINUTE,
        )
        for row in lake.rows("bike_positions", dt)
    ]


def test_one_row_for_each_stay_of_a_bike_at_a_place(lake):
    put(lake, 0, place(15001, 1, 2), free(bike(3, electric=True, battery=80.5), geoCoords=HERE))
    put(lake, 1, place(15001, 1), free(bike(3, electric=True, battery=79), geoCoords=NEAR))
    put(lake, 2, place(15001, 1), place(15002, 2), free(bike(3, electric=True, battery=79), geoCoords=FAR))
    result = build(lake)

    assert lake.keys("bike_positions/") == [KEY]
    assert stays(lake) == [
        ("1", "15001", 0, None),
        ("2", "15001", 0, 0),
        ("2", "15002", 2, None),
        ("3", None, 0, 1),
        ("3", None, 2, None),
    ]
    schema = pq.read_schema(pa.BufferReader(lake.store.get(KEY))).remove_metadata()
    assert schema.equals(arrow_schema(BIKE_POSITIONS))
    electric = [row for row in lake.rows("bike_positions") if row["bike_id"] == "3"]
    assert [(row["lat"], row["battery_pct"], row["bike_type"], row["feed"]) for row in electric] == [
        (51.1, 79, "ELECTRIC_4G", "operator"),
        (51.103, 79, "ELECTRIC_4G", "operator"),
    ]
    metadata = metadata_of(result, "bike_positions")
    assert (metadata["bikes_seen"], metadata["bikes_in_last_snapshot"], metadata["rows_out"]) == (3, 3, 5)
    assert metadata["share_of_bikes_missing"] == pytest.approx(1 / 9, abs=1e-4)
    assert "bikes at stations and outside them" in metadata["by_hour"]


def test_a_run_reads_only_what_is_new_and_gives_the_rows_of_a_rebuild(lake):
    minutes = [
        (place(15001, 1, 2, 4), free(bike(3), geoCoords=HERE)),
        (place(15001, 2, 4),),
        (place(15001, 2, 4), place(15002, 1), free(bike(3), geoCoords=NEAR)),
        (place(15001, 2, 4, 1), free(bike(3), geoCoords=NEAR)),
    ]
    read = []
    for minute, places in enumerate(minutes):
        put(lake, minute, *places)
        read.append(metadata_of(build(lake), "bike_positions")["snapshots_read_now"])
    grown = lake.rows("bike_positions")
    unchanged = metadata_of(build(lake), "bike_positions")
    build(lake, full_rebuild=True)

    assert read == [1, 1, 1, 1]
    assert unchanged["unchanged"] is True
    assert lake.rows("bike_positions") == grown
    assert len(grown) == 7


def test_a_late_answer_is_put_where_it_belongs(lake):
    put(lake, 0, place(15001, 1))
    put(lake, 2, place(15001, 1))
    build(lake)
    put(lake, 1, place(15002, 1))
    build(lake)
    assert stays(lake) == [("1", "15001", 0, 0), ("1", "15002", 1, 1), ("1", "15001", 2, None)]


def test_stays_of_an_answer_that_is_gone_remain_until_someone_agrees(lake):
    gone = put(lake, 0, place(15001, 1))
    put(lake, 1, place(15002, 1))
    build(lake)
    lake.store.delete(gone)
    put(lake, 2, place(15002, 1))
    metadata = metadata_of(build(lake), "bike_positions")

    assert metadata["raw_objects_vanished"] == 1
    assert stays(lake) == [("1", "15001", 0, 0), ("1", "15002", 1, None)]
    build(lake, allow_shrink=True)
    assert stays(lake) == [("1", "15002", 1, None)]


def test_an_answer_without_most_bikes_or_of_another_kind_is_not_used(lake):
    fleet = range(1, 11)
    put(lake, 0, place(15001, *fleet))
    put(lake, 1, place(15001, *range(101, 111)))  # another city's
    put(lake, 2, content=b"<html>busy</html>")
    put(lake, 3, place(15001, *fleet))
    metadata = metadata_of(build(lake), "bike_positions")

    assert stays(lake) == [(str(n), "15001", 0, None) for n in sorted(map(str, fleet))]
    assert (metadata["snapshots"], metadata["snapshots_refused"]) == (2, 2)
    assert "It has 0 of the 10 bikes of the answer before" in metadata["refused"]


def test_a_bike_that_is_listed_twice_is_at_the_station(lake):
    put(lake, 0, free(bike(1), geoCoords=FAR), place(15001, 1), free(bike(1), geoCoords=HERE))
    build(lake)
    assert stays(lake) == [("1", "15001", 0, None)]


def test_places_and_bikes_without_number_or_position_are_left_out(lake):
    nowhere = place(15001, 1) | {"geoCoords": {"lat": None, "lng": 17.0}}
    odd = place(15003) | {"bikes": [bike(0), bike(True), "bike", bike(None), bike("77")]}
    put(lake, 0, nowhere, place(0, 2), odd, place(15002, 3) | {"bikes": None})
    build(lake)
    assert stays(lake) == [("77", "15003", 0, None)]


def test_without_the_operators_feed_there_is_nothing_to_do(lake):
    lake.put_day(2)
    metadata = metadata_of(build(lake), "bike_positions")
    assert "only that feed says which bike is where" in metadata["nothing_to_do"]
    assert lake.keys("bike_positions/") == []


def test_the_job_of_each_minute_builds_it_where_the_feed_is_fetched(monkeypatch):
    def built() -> set[str]:
        job = definitions().resolve_job_def("wrm_stations_processing_job")
        return {key.to_user_string() for key in job.asset_layer.executable_asset_keys}

    assert "bike_positions" not in built()
    monkeypatch.setenv("WRM_FEEDS", "ucl,operator")
    assert "bike_positions" in built()


def test_a_stay_that_goes_on_over_midnight_is_a_row_in_each_day(lake):
    other = date(2025, 8, 22)
    put(lake, 0, place(15001, 1))
    put(lake, 0, place(15001, 1), dt=other)
    build(lake)
    build(lake, other)
    assert stays(lake) == [("1", "15001", 0, None)]
    assert stays(lake, other) == [("1", "15001", 0, None)]


def test_a_damaged_partition_is_built_again(lake):
    put(lake, 0, place(15001, 1))
    build(lake)
    good = lake.rows("bike_positions")
    lake.store.put(KEY, b"PAR1 and nothing else")
    build(lake)
    assert lake.rows("bike_positions") == good
    assert any(key.startswith("bike-data/gen_info/superseded/bike_positions/") for key in lake.keys("superseded/"))


def test_the_database_shows_stays_and_rides(lake, monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "ucl,operator")
    fleet = range(100, 110)
    lake.put_day(1)
    put(lake, 0, place(15001, 1, *fleet), place(15002, 2))
    for minute in range(1, 7):
        put(lake, minute, place(15001, *fleet), place(15002, 2))
    put(lake, 7, place(15001, *fleet), place(15002, 2, 1) | {"geoCoords": FAR})
    tables = ("create_duckdb_enhanced_views", "create_materialized_views")
    result = materialize(PROCESSED, ENHANCED, "bike_positions", dt=DAY)
    assert result.success
    metadata = metadata_of(materialize(*tables), "create_materialized_views")

    assert (metadata["rides_day"], metadata["bikes_ride"]) == ("2025-08-21", 1)
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        (ride,) = connection.execute(
            "SELECT dt, bike_id, left_station_id, arrived_station_id, duration_s, kind FROM wrm_analytics.mv_rides"
        ).fetchall()
        trips = connection.execute("SELECT * EXCLUDE (dt) FROM wrm_analytics.mv_origin_destination").fetchall()
        turnover = connection.execute("FROM wrm_analytics.mv_turnover").fetchall()
        idle = connection.execute(
            "SELECT bike_id, station_id, epoch(seen_at - since) / 60, idle_h FROM wrm_analytics.mv_idle_bikes "
            "ORDER BY bike_id"
        ).fetchall()
        shown = connection.execute("SELECT count(*), min(dt) FROM wrm_analytics.bike_positions").fetchone()
        departures = connection.execute(
            "SELECT station_id, departures, departures_lo, departures_hi FROM wrm_analytics.mv_departures ORDER BY ALL"
        ).fetchall()
        by_hour = connection.execute(
            "SELECT sum(departures_estimate), sum(arrivals_estimate), sum(arrivals_hi) FROM wrm_analytics.mv_flows"
        ).fetchone()
    assert ride == (DAY, "1", "15001", "15002", 420, "ride")
    assert shown == (13, DAY)
    assert [row for row in departures if row[1]] == [("15001", 1, 1, 1)]
    assert by_hour == (1, 1, 1)
    assert trips == [("15001", "15002", 1, 420)]
    assert turnover == [(DAY, 12, 1, 0.08, "bikes")]
    assert (idle[0], idle[1], len(idle)) == (("1", "15002", 0, 0), ("100", "15001", 7, 0.12), 12)


def test_idle_bikes_outside_the_service_area_are_marked(lake, monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "ucl,operator")
    lake.put_day(1)
    put(lake, 0, place(15001, 1), free(bike(2), geoCoords=HERE), free(bike(3), geoCoords={"lat": 51.31, "lng": 17.03}))
    materialize(PROCESSED, ENHANCED, "bike_positions", dt=DAY)

    def outside() -> list[tuple[str, bool]]:
        assert materialize("create_duckdb_enhanced_views", "create_materialized_views").success
        sql = "SELECT bike_id, outside_service_area FROM wrm_analytics.mv_idle_bikes ORDER BY bike_id"
        with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    assert outside() == [("1", False), ("2", False), ("3", True)]
    monkeypatch.setenv("WRM_SERVICE_AREA", "51.0,51.4,16.7,17.3")
    assert outside() == [("1", False), ("2", False), ("3", False)]


def test_rides_of_a_day_are_made_again_when_the_day_beside_it_changes(lake, monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "ucl,operator")
    put(lake, 0, place(15001, 1))
    build(lake)
    now = datetime(2025, 9, 1, tzinfo=UTC)
    partitions = LakeResource.of(load_settings()).partitions
    before = RidesByDay(partitions, now).etags()
    put(lake, 0, place(15001, 1), dt=date(2025, 8, 22))
    build(lake, date(2025, 8, 22))
    after = RidesByDay(partitions, now).etags()
    assert before[DAY] != after[DAY]
    # Beside today, once an hour.
    today = datetime(2025, 8, 22, 10, 10, tzinfo=UTC)
    first, later, next_hour = (
        RidesByDay(partitions, at).etags()[DAY] for at in (today, today + 40 * MINUTE, today + 60 * MINUTE)
    )
    assert first == later != next_hour
    at_once = RidesByDay(partitions, today, up_to_now=True).etags()[DAY]
    assert at_once not in {first, RidesByDay(partitions, today + MINUTE, up_to_now=True).etags()[DAY]}
    monkeypatch.setenv("WRM_FEEDS", "ucl")
    assert RidesByDay(LakeResource.of(load_settings()).partitions, now).etags() == {}


def test_rentals_of_a_day_are_known_if_the_answers_cover_it(lake, monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "ucl,operator")
    put(lake, 0, place(15001, 1, 2))
    put(lake, 1, place(15001, 2), place(15002))
    put(lake, 9, place(15001, 2), place(15002, 1))
    put(lake, 10, place(15002, 1))
    build(lake)
    rides = RidesByDay(LakeResource.of(load_settings()).partitions, datetime(2025, 8, 21, 20, tzinfo=UTC))
    first = datetime(2025, 8, 21, 12, tzinfo=UTC)
    last = first + 10 * MINUTE
    ends = rides.rentals(DAY, first, last, 4).to_pylist()
    # Bike 2 is still away.
    assert sorted((end["station_id"], end["departures"], end["arrivals"]) for end in ends) == [
        ("15001", 1, 0),
        ("15001", 1, 0),
        ("15002", 0, 1),
    ]
    assert rides.rentals(DAY, first, last, 5) is None
    assert rides.rentals(DAY, first, last + 16 * MINUTE, 4) is None
    assert rides.rentals(date(2025, 8, 22), first, last, 4) is None


def test_turnover_is_estimated_if_the_answers_cover_a_part_of_the_day(lake, monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "ucl,operator")
    lake.put_day(60)
    for minute in range(8):
        put(lake, minute, place(15001, 1), place(15002, 2))
    materialize(PROCESSED, ENHANCED, "bike_positions", dt=DAY)
    materialize("create_duckdb_enhanced_views", "create_materialized_views")
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        ((method, bikes),) = connection.execute("SELECT method, bikes FROM wrm_analytics.mv_turnover").fetchall()
    assert method == "counts"
    assert bikes > 2


def test_rebuild_makes_bike_positions(lake):
    lake.put_day(1)
    put(lake, 0, place(15001, 1))
    settings = load_settings()
    built = rebuild_partition(lake.store, settings.layout, DAY, area=settings.area, now=NOON)
    again = rebuild_partition(lake.store, settings.layout, DAY, area=settings.area, now=NOON)
    assert built.written == ("processed", "enhanced", "bike_positions")
    assert again.written == ()
    assert stays(lake) == [("1", "15001", 0, None)]
