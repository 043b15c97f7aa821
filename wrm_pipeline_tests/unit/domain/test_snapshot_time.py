"""When a snapshot was taken: by its name, by the reports inside, by the object's own time, in this order."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.manifest import RawObject
from wrm_pipeline.domain.snapshot_time import OUTSIDE_DAY, named, remembered, reported_times, settled
from wrm_pipeline_tests.fixtures.snapshots import body, line, property_settings

DAY = date(2025, 8, 21)
NOON = datetime(2025, 8, 21, 12, tzinfo=UTC)
COPIED = datetime(2025, 11, 27, 9, tzinfo=UTC)
LAYOUT = Layout("p/")
WARSAW = ZoneInfo("Europe/Warsaw")


def of_reports(*times: datetime) -> bytes:
    """A body with a station for each time."""
    return body(*(line(id=str(15001 + n), combined=f"{int(at.timestamp())}|7200|-1") for n, at in enumerate(times)))


def reported(content: bytes, dt: date = DAY, corrections: dict[int, str] | None = None) -> datetime | None:
    obj = RawObject("k", "e", len(content), COPIED, corrections or {})
    return reported_times([("k", content, obj)], dt)[0]


def object_of(name: str, dt: date = DAY, layout: Layout = LAYOUT) -> RawObject:
    key = layout.parse_raw_key(layout.raw_folder(dt) + name)
    return named(RawObject(key.key, "e", 1, COPIED), key)


@pytest.mark.parametrize(
    ("others", "count"),
    [
        ([], 0),
        ([NOON - timedelta(days=3)] * 5, 5),
        ([NOON - timedelta(hours=n + 2) for n in range(30)], 30),
        ([NOON + timedelta(hours=9)] * 5, 5),
        ([NOON - timedelta(days=400), NOON + timedelta(days=300), NOON + timedelta(days=9000)], 3),
    ],
    ids=["all at once", "silent for days", "most are silent", "clocks ahead", "absurd ones"],
)
def test_the_time_is_that_of_the_most_usual_hour(others, count):
    assert len(others) == count
    assert reported(of_reports(*[NOON] * 10, *others)) == NOON


def test_within_the_hour_it_is_the_median():
    assert reported(of_reports(*(NOON + timedelta(seconds=n) for n in range(61)))) == NOON + timedelta(seconds=30)


@pytest.mark.parametrize("content", [b"", b"<html>", of_reports(), b"\x00" * 100], ids=["empty", "HTML", "rows", "NUL"])
def test_without_a_row_there_is_no_time(content):
    assert reported(content) is None


def test_a_corrected_line_counts():
    dead = body(line(combined="soon|7200|-1"))
    assert reported(dead) is None
    assert reported(dead, corrections={2: line(combined=f"{int(NOON.timestamp())}|7200|-1")}) == NOON


@property_settings(60)
@given(st.lists(st.lists(st.integers(0, 50_000), max_size=8), max_size=6))
def test_bodies_that_are_read_together_say_what_each_says_alone(files):
    contents = [of_reports(*(NOON + timedelta(seconds=s) for s in seconds)) for seconds in files]
    together = reported_times(
        [(f"k{n}", content, RawObject(f"k{n}", "e", 1, COPIED)) for n, content in enumerate(contents)], DAY
    )
    assert together == [reported(content) for content in contents]
    for seconds, at in zip(files, together, strict=True):
        assert at is None if not seconds else (at - NOON).total_seconds() in seconds


def test_a_name_says_the_time_and_the_copy_of_an_object_does_not_change_it():
    obj = object_of("wrm_stations_2025-08-21_13-05-02.txt")
    assert (obj.file_timestamp, obj.readings, obj.fault) == (datetime(2025, 8, 21, 13, 5, 2, tzinfo=UTC), None, None)


@pytest.mark.parametrize(
    ("reports", "at"),
    [
        (NOON, NOON),
        (None, COPIED),  # it has no row, so no row gets this time
        (NOON + timedelta(hours=20), NOON + timedelta(hours=20)),
    ],
)
def test_a_name_without_a_time_leaves_it_to_the_reports(reports, at):
    open_one = object_of("content_0001.txt")
    assert open_one.readings == ()
    found = settled(open_one, DAY, reports)
    assert (found.file_timestamp, found.readings, found.fault) == (at, None, None)


def test_reports_of_another_day_yield_to_an_object_of_this_day():
    obj = RawObject("k", "e", 1, NOON, readings=())
    found = settled(obj, DAY, NOON - timedelta(days=9))
    assert (found.file_timestamp, found.fault) == (NOON, None)


def test_neither_reports_nor_object_of_the_day_are_a_dead_letter():
    found = settled(object_of("content_0001.txt"), DAY, NOON - timedelta(days=9))
    assert found.fault.error_type == OUTSIDE_DAY
    assert "2025-08-12" in found.fault.error_message
    assert "dt=2025-08-21" in found.fault.error_message


@pytest.mark.parametrize(
    ("name", "ok"),
    [
        ("wrm_stations_2025-08-21_00-00-00.txt", True),
        ("wrm_stations_2025-08-20_22-00-00.txt", True),  # the day's first second in Warsaw
        ("wrm_stations_2025-08-20_08-00-00.txt", True),  # UTC+14 read as UTC
        ("wrm_stations_2025-08-20_07-59-59.txt", False),
        ("wrm_stations_2025-08-22_11-59-59.txt", True),
        ("wrm_stations_2025-08-22_12-00-00.txt", False),
        ("wrm_stations_2099-01-01_00-00-00.txt", False),
        ("wrm_stations_0001-01-01_00-00-00.txt", False),
        ("wrm_stations_9999-12-31_23-59-59.txt", False),
        ("wrm_stations_2024-08-21_13-05-02.txt", False),
    ],
)
def test_a_name_of_another_day_is_a_fault(name, ok):
    obj = object_of(name)
    assert (obj.fault is None) is ok
    if not ok:
        assert obj.fault.error_type == OUTSIDE_DAY


@pytest.mark.parametrize(
    "name",
    [
        "wrm_stations_2025-02-30_13-05-02.txt",
        "wrm_stations_2025-08-21_24-00-00.txt",
        "wrm_stations_2025-08-21_13-05-60.txt",
        "wrm_stations_0000-08-21_13-05-02.txt",
    ],
)
def test_a_name_of_a_time_that_does_not_exist_leaves_it_to_the_reports(name):
    assert settled(object_of(name), DAY, NOON).file_timestamp == NOON


@pytest.mark.parametrize(
    ("dt", "name", "readings"),
    [
        (date(2026, 10, 25), "2026-10-25_02-30-00", (0, 1)),
        (date(2026, 3, 29), "2026-03-29_02-30-00", (1, 0)),
    ],
    ids=["hour that comes twice", "hour that never was"],
)
@pytest.mark.parametrize("hour", [0, 1])
@pytest.mark.parametrize("late", [timedelta(0), timedelta(minutes=25), timedelta(minutes=-25)])
def test_a_name_with_two_readings_means_the_one_near_the_reports(dt, name, readings, hour, late):
    obj = object_of(f"wrm_stations_{name}.txt", dt, Layout("p/", WARSAW))
    midnight = datetime(dt.year, dt.month, dt.day, tzinfo=UTC)
    assert obj.readings == tuple(midnight + timedelta(hours=h, minutes=30) for h in readings)
    at = midnight + timedelta(hours=hour, minutes=30)
    assert settled(obj, dt, at + late).file_timestamp == at
    assert settled(obj, dt, None).file_timestamp == obj.readings[0]


def test_what_the_partition_remembers_holds_while_the_name_may_mean_it():
    obj = RawObject("k", "e", 1, NOON, readings=(NOON, NOON + timedelta(hours=1)))
    assert remembered(obj, DAY, NOON + timedelta(hours=1)).file_timestamp == NOON + timedelta(hours=1)
    assert remembered(obj, DAY, NOON + timedelta(hours=2)) is None, "the zone was another one"
    again = remembered(RawObject("k", "e", 1, COPIED, readings=()), DAY, NOON - timedelta(days=9))
    assert again.fault.error_type == OUTSIDE_DAY, "a fault that was found stays one"
