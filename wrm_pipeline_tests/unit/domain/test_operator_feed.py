"""The operator's JSON as rows: what each object becomes, and that each is accounted for, whatever it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wrm_pipeline.domain.drift import drift_of, new_example, old_example
from wrm_pipeline.domain.snapshot import FileReport, RawSnapshot, as_example, inspect_fetched, lines_of, parse_snapshots
from wrm_pipeline_tests.fixtures.operator_answers import answer, bike, free, station
from wrm_pipeline_tests.fixtures.snapshots import AT, property_settings

KEY = "raw/dt=2025-08-21/operator_2025-08-21_13-05-02.json"


def snapshot(body: bytes, corrections: dict[int, str] | None = None) -> RawSnapshot:
    return RawSnapshot(KEY, AT, body, corrections or {})


def rows_of(body: bytes, corrections: dict[int, str] | None = None) -> list[dict]:
    return parse_snapshots([snapshot(body, corrections)]).rows.to_pylist()


def report_of(body: bytes, corrections: dict[int, str] | None = None) -> FileReport:
    return parse_snapshots([snapshot(body, corrections)]).reports[0]


def test_a_station_and_a_free_bike():
    e_bike = bike(590072, electric=True, battery=53)
    body = answer([station(bikes=3, electric=2)], [free(e_bike, placeType="FREESTANDING_ELECTRIC_BIKE")])
    first, second = rows_of(body)
    unknown = dict.fromkeys(
        (
            "gmt_local_diff_sec",
            "gmt_servertime_diff_sec",
            "installed",
            "locked",
            "temporary",
            "givesbonus_acceptspedelecs_fbbattlevel",
        )
    )
    common = unknown | {"timestamp": AT, "file_timestamp": AT, "s3_source_key": KEY, "feed": "operator"}
    common |= {"count_capped": False}
    assert first == common | {
        "station_id": "15001",
        "name": "Rynek",
        "lat": 51.1097,
        "lon": 17.0326,
        "bikes": 3,
        "spaces": 7,
        "total_docks": 10,
        "pedelecs": 2,
        "battery_pct": None,
    }
    assert second == common | {
        "station_id": "fb590072",
        "name": "BIKE 590072",
        "lat": 52.25,
        "lon": 21.05,
        "bikes": 1,
        "spaces": 0,
        "total_docks": 0,
        "pedelecs": 1,
        "battery_pct": 53,
    }


def test_each_bike_of_a_free_standing_place_is_a_row():
    body = answer([free(bike(1), bike("2"), bike(3))])
    assert [row["station_id"] for row in rows_of(body)] == ["fb1", "fb2", "fb3"]


def test_what_is_not_said_is_unknown():
    status = {"bikes": 3, "freeRacks": None, "bikeRacks": -1}
    (row,) = rows_of(answer([station(bikes=3, availabilityStatus=status) | {"bikes": None}]))
    assert (row["bikes"], row["spaces"], row["total_docks"], row["pedelecs"]) == (3, None, None, None)


@pytest.mark.parametrize(
    ("place", "error_type", "field"),
    [
        (station(geoCoords=None), "bad_coordinates", "lat"),
        (station(geoCoords={"lat": 0, "lng": 0}), "bad_coordinates", "lat"),
        (station(geoCoords={"lat": "51,1", "lng": 17}), "bad_coordinates", "lat"),
        (station(bikes=None), "bad_count", "bikes"),
        (station(bikes=True), "bad_count", "bikes"),
        (station(bikes=-3), "bad_count", "bikes"),
        (station(bikes=[1, 2]), "bad_count", "bikes"),
        (station(number=0), "empty_id", "station_id"),
        (station(number=None), "empty_id", "station_id"),
        (station(number="#1"), "empty_id", "station_id"),
        (station(number={"no": 1}), "empty_id", "station_id"),
        (free(), "empty_id", "station_id"),
        (free(bike(None)), "empty_id", "station_id"),
        (free("591106"), "empty_id", "station_id"),
        ("a place", "bad_object", ""),
        (None, "bad_object", ""),
    ],
)
def test_an_object_that_is_not_a_row_is_a_dead_letter_with_its_json(place, error_type, field):
    report = report_of(answer([station(number=1), place, station(number=2)]))
    assert (report.counts.lines_in, report.counts.rows_out, report.counts.dead_lettered) == (3, 2, 1)
    assert report.fault is None
    (dead,) = report.dead_rows
    assert (dead.line_number, dead.error_type, dead.field) == (2, error_type, field)
    assert json.loads(dead.raw_data) == place


def test_a_correction_takes_the_place_of_an_object():
    body = answer([station(number=1), station(number=2, geoCoords=None)])
    assert [row["station_id"] for row in rows_of(body)] == ["1"]
    corrected = {2: json.dumps(station(number=2, name="Świdnicka\nRynek"))}
    assert [row["name"] for row in rows_of(body, corrected)] == ["Rynek", "Świdnicka Rynek"]
    (dead,) = report_of(body, {2: "{"}).dead_rows
    assert dead.error_message.startswith("The correction is not JSON")


def test_of_two_stations_of_one_number_one_stays():
    report = report_of(answer([station(bikes=1)], [station(bikes=2)]))
    assert (report.counts.rows_out, report.counts.duplicate_rows) == (1, 1)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "file_empty"),
        (b" \n ", "file_empty"),
        (b"<!DOCTYPE html>\n<html></html>", "file_not_json"),
        (answer([station()])[:-9], "file_not_json"),
        (b"[" * 100_000, "file_not_json"),
        (b"\xff\xfe\x00", "file_not_text"),
        (b"[]", "file_no_header"),
        (b'{"error": "no"}', "file_no_header"),
        (b'{"data": [{"cities": [{}]}]}', "file_no_header"),
        (answer([]), "file_no_valid_row"),
        (answer([station(geoCoords=None), None]), "file_no_valid_row"),
    ],
)
def test_a_body_without_a_row_says_why(body, fault):
    report = inspect_fetched(body, AT, "operator")
    assert report.fault is not None
    assert report.fault.error_type == fault
    assert report.counts.balanced
    assert report.counts.rows_out == 0


def test_when_a_fifth_dies_of_the_same_the_format_has_drifted():
    good = [station(number=n) for n in range(1, 8)]
    moved = [station(number=n, geoCoords={"latitude": 51.1, "lng": 17.0}) for n in range(8, 11)]
    file = snapshot(answer([*good, *moved]))
    report = parse_snapshots([file]).reports[0]
    drift = drift_of(report)
    assert drift is not None
    assert (drift.field, drift.dead, drift.rows, drift.whole) == ("lat", 3, 10, False)
    lines, first_line = as_example(file)
    assert old_example(drift, lines, report, first_line) == "'51.1097'"
    assert new_example(drift, lines, first_line) == "''"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_object_of_a_row_is_where_it_says(encoding, indent):
    places = [station(number=1), free(bike(7), bike(8)), station(number=2, name="Świdnicka 💡")]
    body = answer(places[:2], places[2:], indent=indent).decode().encode(encoding)
    for station_id, number, place in (("1", 1, places[0]), ("fb8", 3, places[1]), ("2", 4, places[2])):
        (found,) = lines_of(snapshot(body), station_id)
        assert (found.line_number, found.unit, found.reported_at) == (number, "object", AT)
        assert body[found.offset : found.offset + found.length].decode(found.encoding) == found.text
        assert json.loads(found.text) == place


# --- any JSON at all ---

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["15001", "5+", "src", "# x", '"', ",", "\r\n", "\ud800", "N/A", "x" * 2_000]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
members = ("number", "name", "placeType", "geoCoords", "availabilityStatus", "bikes")


@st.composite
def odd_places(draw) -> object:
    if draw(st.integers(0, 9)) == 0:
        return draw(values)
    number = draw(st.integers(1, 5))
    place = draw(st.sampled_from([station(number), free(bike(number)), free(bike(number), bike(9))]))
    return place | draw(st.dictionaries(st.sampled_from(members), values, max_size=2))


@property_settings(150)
@given(st.lists(st.lists(odd_places(), max_size=5), max_size=3))
@example([[station(name="\ud800"), station(number="1,2"), station(number="\ud800", bikes="x")]])
def test_each_object_is_accounted_for_and_each_row_has_its_object(cities):
    body = answer(*cities, escaped=True)
    batch = parse_snapshots([snapshot(body)])
    report = batch.reports[0]
    assert report.counts.balanced
    assert report.counts.remark_lines == 0
    for dead in report.dead_rows:
        dead.raw_data.encode()  # it is stored in a dead letter
    assert report.counts.rows_out == batch.rows.num_rows
    assert (report.fault is not None) == (batch.rows.num_rows == 0)
    if any(cities):
        objects = [max(1, len(p["bikes"])) if _has_bikes(p) else 1 for city in cities for p in city]
        assert report.counts.lines_in == sum(objects)
    for row in batch.rows.to_pylist():
        source = lines_of(snapshot(body), row["station_id"])[-1]
        assert body[source.offset : source.offset + source.length].decode() == source.text


def _has_bikes(place: object) -> bool:
    is_free = isinstance(place, dict) and str(place.get("placeType")).startswith("FREESTANDING")
    return is_free and isinstance(place.get("bikes"), list)


@property_settings(100)
@given(st.one_of(st.binary(max_size=60), values.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_refused_or_read(body):
    report = inspect_fetched(body, AT, "operator")
    assert report.counts.balanced
    assert (report.fault is not None) == (report.counts.rows_out == 0)
