"""Classes and flags, by table and against a slow second opinion."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain.enhanced_build import enhance_rows
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA, ServiceArea
from wrm_pipeline.domain.schemas import ENHANCED, FLAGS, PROCESSED, arrow_schema, validate
from wrm_pipeline.domain.snapshot import dictionary_encoded
from wrm_pipeline_tests.fixtures.snapshots import AT, BATTERY, property_settings

DT = date(2025, 8, 21)
PROCESSED_AT = {"raw/a.txt": datetime(2025, 8, 21, 14, tzinfo=UTC), "raw/b.txt": datetime(2025, 8, 21, 15, tzinfo=UTC)}
ROW = {
    "station_id": "15001",
    "name": "Rynek",
    "timestamp": AT,
    "gmt_local_diff_sec": 7200,
    "gmt_servertime_diff_sec": -1,
    "lat": 51.1,
    "lon": 17.0,
    "bikes": 3,
    "spaces": 7,
    "total_docks": 10,
    "installed": True,
    "locked": None,
    "temporary": False,
    BATTERY: None,
    "battery_pct": None,
    "pedelecs": 0,
    "s3_source_key": "raw/a.txt",
    "file_timestamp": AT,
    "feed": "ucl",
    "count_capped": False,
}


def table(*changes: dict) -> pa.Table:
    return dictionary_encoded(pa.Table.from_pylist([ROW | change for change in changes], arrow_schema(PROCESSED)))


def enhanced(*changes: dict, area: ServiceArea = DEFAULT_SERVICE_AREA) -> list[dict]:
    rows = enhance_rows(table(*changes), area=area, dt=DT, processed_at=PROCESSED_AT)
    validate(rows, ENHANCED)
    assert rows.select(PROCESSED.columns).equals(table(*changes))
    return rows.to_pylist()


def flags(area: ServiceArea = DEFAULT_SERVICE_AREA, **change) -> set[str]:
    (row,) = enhanced(change, area=area)
    return {flag for flag in FLAGS if row[flag]}


def test_a_capped_count_stays_flagged():
    assert flags(count_capped=True) == {"count_capped"}


def test_rows_of_the_first_parser_are_enhanced_with_what_it_meant():
    old = table({}, {"station_id": "2"}).drop_columns(["feed", "count_capped"])
    assert enhance_rows(old, area=DEFAULT_SERVICE_AREA, dt=DT, processed_at=PROCESSED_AT).to_pylist() == enhanced(
        {}, {"station_id": "2"}
    )


def test_an_ordinary_station_has_no_flag():
    assert flags() == set()


@pytest.mark.parametrize(
    ("station_id", "name", "record_type"),
    [
        ("15001", "Rynek", "station"),
        ("0", "Rynek", "station"),
        ("007", "Rynek", "station"),
        ("15001", "", "station"),
        ("15001", "bike 5", "station"),
        ("15001", "Rynek BIKE", "station"),
        ("15001", "BIKE 591106", "unknown"),
        ("fb591106", "BIKE 591106", "bike"),
        ("fb", "BIKE", "bike"),
        ("fbx", "BIKES", "bike"),
        ("fb591106", "Rynek", "unknown"),
        ("fb591106", "bike 591106", "unknown"),
        ("FB591106", "BIKE 591106", "unknown"),
        ("15001a", "Rynek", "unknown"),
        ("-15001", "Rynek", "unknown"),
        (" 15001", "Rynek", "unknown"),
        ("١٥", "Rynek", "unknown"),
        ("²", "Rynek", "unknown"),
        ("590", "BIKE 590", "unknown"),
    ],
)
def test_a_row_is_about_what_its_id_and_its_name_agree_on(station_id, name, record_type):
    (row,) = enhanced({"station_id": station_id, "name": name})
    assert row["record_type"] == record_type


@pytest.mark.parametrize(
    ("bikes", "spaces", "total_docks", "expected"),
    [
        (3, 7, 10, set()),
        (3, 8, 10, {"over_capacity"}),
        (45, 0, 16, {"over_capacity"}),
        (0, 11, 10, {"over_capacity"}),
        (16, 0, 16, set()),
        (0, 0, 1, set()),
        (100_000, 100_000, 100_000, {"over_capacity"}),
        (1, 0, 0, {"no_docks"}),
        (0, 0, 0, {"no_docks"}),
        (3, None, 10, set()),
        (45, None, 16, set()),
        (100_000, None, 1, set()),
        (3, 7, None, set()),
        (0, None, None, set()),
        (0, None, 0, {"no_docks"}),
    ],
)
def test_capacity(bikes, spaces, total_docks, expected):
    assert flags(bikes=bikes, spaces=spaces, total_docks=total_docks) == expected


def test_a_free_standing_bike_needs_no_docks():
    assert flags(station_id="fb1", name="BIKE 1", total_docks=0, bikes=1, spaces=0) == set()
    assert flags(station_id="x", total_docks=0, bikes=1) == set()


@pytest.mark.parametrize(
    ("lat", "lon", "outside"),
    [
        (51.0, 16.7, False),
        (51.3, 17.3, False),
        (50.9999999, 17.0, True),
        (51.3000001, 17.0, True),
        (51.1, 16.6999999, True),
        (51.1, 17.3000001, True),
        (52.27, 21.03, True),
        (-51.1, 17.0, True),
        (51.248, 17.18, False),
    ],
)
def test_the_default_area_is_that_of_the_contract_with_its_edges(lat, lon, outside):
    assert flags(lat=lat, lon=lon) == ({"outside_service_area"} if outside else set())


def test_another_area_has_other_edges():
    warsaw = ServiceArea(52.0, 52.5, 20.5, 21.5)
    assert flags(area=warsaw) == {"outside_service_area"}
    assert flags(area=warsaw, lat=52.27, lon=21.03) == set()


@pytest.mark.parametrize(
    ("age", "stale"),
    [
        (timedelta(0), False),
        (timedelta(hours=1), False),
        (timedelta(hours=1, microseconds=1), True),
        (timedelta(days=4000), True),
        (-timedelta(days=1), False),
    ],
)
def test_a_report_more_than_an_hour_before_its_file_is_stale(age, stale):
    assert flags(timestamp=AT - age) == ({"stale"} if stale else set())


def test_each_row_knows_its_partition_and_when_its_file_was_processed():
    rows = enhanced({}, {"s3_source_key": "raw/b.txt"}, {})
    assert [row["date"] for row in rows] == [DT] * 3
    assert [row["processed_at"].hour for row in rows] == [14, 15, 14]


def test_a_key_that_only_the_dictionary_remembers_does_not_matter():
    rows = table({}, {"s3_source_key": "raw/gone.txt"}).slice(0, 1)
    assert "raw/gone.txt" in rows["s3_source_key"].chunk(0).dictionary.to_pylist()
    (row,) = enhance_rows(rows, area=DEFAULT_SERVICE_AREA, dt=DT, processed_at=PROCESSED_AT).to_pylist()
    assert row["processed_at"] == PROCESSED_AT["raw/a.txt"]


def test_a_row_whose_file_nobody_processed_does_not_pass_validation():
    rows = enhance_rows(
        table({"s3_source_key": "raw/gone.txt"}), area=DEFAULT_SERVICE_AREA, dt=DT, processed_at=PROCESSED_AT
    )
    with pytest.raises(Exception, match="processed_at"):
        validate(rows, ENHANCED)


# --- brute force ---


def second_opinion(row: dict, area: ServiceArea) -> dict:
    station = set(row["station_id"]) <= set("0123456789") and row["name"][:4] != "BIKE"
    bike = row["station_id"][:2] == "fb" and row["name"][:4] == "BIKE"
    return {
        "record_type": "station" if station else "bike" if bike else "unknown",
        "date": DT,
        "processed_at": PROCESSED_AT[row["s3_source_key"]],
        "over_capacity": None not in (row["spaces"], row["total_docks"])
        and row["bikes"] + row["spaces"] > row["total_docks"] > 0,
        "no_docks": station and row["total_docks"] == 0,
        "outside_service_area": not (
            area.lat_min <= row["lat"] <= area.lat_max and area.lon_min <= row["lon"] <= area.lon_max
        ),
        "stale": row["file_timestamp"] - row["timestamp"] > timedelta(hours=1),
    }


row_changes = st.fixed_dictionaries(
    {
        "station_id": st.one_of(st.text("0fb9", min_size=1, max_size=4), st.sampled_from(["fb1", "15001"])),
        "name": st.sampled_from(["BIKE 1", "BIKE", "BIK", "Rynek", ""]),
        "lat": st.one_of(st.sampled_from([51.0, 51.3]), st.floats(50.9, 51.4)),
        "lon": st.one_of(st.sampled_from([16.7, 17.3]), st.floats(16.6, 17.4)),
        "bikes": st.integers(0, 12),
        "spaces": st.none() | st.integers(0, 12),
        "total_docks": st.none() | st.integers(0, 12),
        "count_capped": st.booleans(),
        "timestamp": st.integers(-10, 10).map(lambda n: AT - timedelta(hours=1, microseconds=n)),
        "s3_source_key": st.sampled_from(sorted(PROCESSED_AT)),
    }
)


@property_settings(150)
@given(st.lists(row_changes, min_size=1, max_size=30))
def test_every_row_is_what_a_slow_second_opinion_says(changes):
    area = DEFAULT_SERVICE_AREA
    rows = enhance_rows(table(*changes), area=area, dt=DT, processed_at=PROCESSED_AT)
    assert rows.to_pylist() == [ROW | change | second_opinion(ROW | change, area) for change in changes]
    assert rows.schema.names == list(ENHANCED.columns)
