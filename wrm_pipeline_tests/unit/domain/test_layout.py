"""Object keys, built and taken apart, on ordinary days and on those on which the clocks change."""

from datetime import UTC, date, datetime, timedelta, timezone
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain.layout import FIRST_DATE, Layout, folder_date, local_date, partition_bounds
from wrm_pipeline_tests.fixtures.snapshots import property_settings

WARSAW = ZoneInfo("Europe/Warsaw")
DT = date(2025, 8, 21)
AT = datetime(2025, 8, 21, 13, 5, 2, tzinfo=UTC)
LAYOUT = Layout()
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)


# --- keys ---


def test_keys_are_those_of_the_contract():
    assert LAYOUT.raw_key(AT) == "bike-data/gen_info/raw/dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.txt"
    assert LAYOUT.quarantine_key(AT) == (
        "bike-data/gen_info/quarantine/dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.txt"
    )
    assert LAYOUT.partition_key("processed", DT) == (
        "bike-data/gen_info/processed/all/dt=2025-08-21/all_processed_20250821_000000.parquet"
    )
    assert LAYOUT.partition_key("enhanced", DT) == (
        "bike-data/gen_info/enhanced/all/dt=2025-08-21/all_enhanced_20250821_000000.parquet"
    )
    assert LAYOUT.dead_letter_key(DT, "1f") == "bike-data/gen_info/dlq/dt=2025-08-21/1f.json"
    assert LAYOUT.database_key == "bike-data/gen_info/duckdb/analytics.duckdb"
    assert LAYOUT.report_key("map.html") == "bike-data/gen_info/reports/map.html"


@pytest.mark.parametrize("prefix", ["", "a/", "a/b/"])
def test_all_keys_are_below_the_prefix(prefix):
    layout = Layout(prefix)
    assert layout.raw_key(AT) == f"{prefix}raw/dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.txt"
    assert layout.raw_key(AT).startswith(layout.raw_folder(DT))
    assert layout.raw_folder(DT).startswith(layout.raw_prefix)
    assert layout.partition_key("processed", DT).startswith(layout.partition_folder("processed", DT))
    assert layout.partition_folder("processed", DT).startswith(layout.layer_prefix("processed"))
    assert layout.dead_letter_key(DT, "x").startswith(layout.dead_letter_folder(DT))
    assert layout.dead_letter_folder(DT).startswith(layout.dead_letter_prefix)
    for key in (layout.raw_prefix, layout.dead_letter_prefix, layout.database_key, layout.report_key("x")):
        assert key.startswith(prefix)


def test_the_instant_counts_and_not_the_zone_that_it_is_given_in():
    elsewhere = AT.astimezone(timezone(timedelta(hours=-11)))
    assert LAYOUT.raw_key(elsewhere) == LAYOUT.raw_key(AT)
    assert LAYOUT.quarantine_key(elsewhere) == LAYOUT.quarantine_key(AT)


def test_parts_of_a_second_are_not_in_the_name():
    assert LAYOUT.raw_key(AT + timedelta(microseconds=999_999)) == LAYOUT.raw_key(AT)


def test_a_key_before_midnight_utc_is_already_of_the_next_warsaw_day():
    late = datetime(2025, 8, 21, 22, 30, tzinfo=UTC)
    assert LAYOUT.raw_key(late).endswith("raw/dt=2025-08-22/wrm_stations_2025-08-21_22-30-00.txt")
    assert LAYOUT.parse_raw_key(LAYOUT.raw_key(late)).dt == date(2025, 8, 22)


def test_a_quarantined_body_that_is_released_gets_the_key_that_it_would_have_had():
    assert LAYOUT.quarantine_key(AT).startswith(LAYOUT.quarantine_prefix)
    assert LAYOUT.released_key(LAYOUT.quarantine_key(AT)) == LAYOUT.raw_key(AT)


def test_the_glob_matches_partitions_and_no_strays():
    glob = LAYOUT.partition_glob("processed")
    folder = LAYOUT.partition_folder("processed", DT)
    assert fnmatchcase(LAYOUT.partition_key("processed", DT), glob)
    for stray in ("all_processed_20250821_131502.parquet", "part-0.parquet", "all_enhanced_20250821_000000.parquet"):
        assert not fnmatchcase(folder + stray, glob)
    assert not fnmatchcase(LAYOUT.partition_key("enhanced", DT), glob)


@property_settings(200)
@given(
    st.integers(0, 4_000_000_000 * 10**6).map(
        lambda micros: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)
    )
)
def test_a_key_says_when_and_of_which_day_a_snapshot_is(at):
    parsed = LAYOUT.parse_raw_key(LAYOUT.raw_key(at))
    assert parsed.file_timestamp == at.replace(microsecond=0)
    assert parsed.file_timestamp.utcoffset() == timedelta(0)
    assert parsed.dt == at.astimezone(WARSAW).date()
    start, end = partition_bounds(parsed.dt)
    assert start <= at < end


# --- keys that others wrote ---


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("wrm_stations_2025-08-21_13-05-02.txt", AT),
        ("2025-08-21_13-05-02.txt", AT),
        ("wrm_2025-08-21T13-05-02Z.txt", AT),
        ("wrm 2025-08-21 13-05-02 copy.txt", AT),
        ("old/wrm_stations_2025-08-21_13-05-02.txt", AT),
        ("snapshot.txt", None),
        (".txt", None),
        ("wrm_stations_2025-08-21.txt", None),
        ("wrm_stations_2025-08-21_25-05-02.txt", None),
        ("wrm_stations_2025-02-30_13-05-02.txt", None),
        ("wrm_stations_2025-08-21_13-05-60.txt", None),
        ("wrm_stations_0000-08-21_13-05-02.txt", None),
        ("wrm_stations_٢٠٢٥-08-21_13-05-02.txt", None),
    ],
)
def test_any_txt_of_the_day_is_a_snapshot_with_the_time_of_its_name_if_it_has_one(name, at):
    parsed = LAYOUT.parse_raw_key(LAYOUT.raw_folder(DT) + name)
    assert (parsed.key, parsed.dt, parsed.file_timestamp) == (LAYOUT.raw_folder(DT) + name, DT, at)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "bike-data/gen_info/raw/",
        "bike-data/gen_info/raw/dt=2025-08-21/",
        "bike-data/gen_info/raw/dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.txt.tmp",
        "bike-data/gen_info/raw/dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.csv",
        "bike-data/gen_info/raw/dt=2025-08-21/a.TXT",
        "bike-data/gen_info/raw/dt=garbage/a.txt",
        "bike-data/gen_info/raw/dt=2025-02-30/a.txt",
        "bike-data/gen_info/raw/dt=2025-8-21/a.txt",
        "bike-data/gen_info/raw/dt=20250821/a.txt",
        "bike-data/gen_info/raw/dt=2025-08-21x/a.txt",
        "bike-data/gen_info/raw/dt=٢٠٢٥-08-21/a.txt",
        "bike-data/gen_info/raw/2025-08-21/a.txt",
        "bike-data/gen_info/raw/a.txt",
        "bike-data/gen_info/raw//dt=2025-08-21/a.txt",
        "bike-data/gen_info/raw/x/dt=2025-08-21/a.txt",
        "bike-data/gen_info/quarantine/dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.txt",
        "raw/dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.txt",
        "dt=2025-08-21/a.txt",
        "bike-data/gen_info/rawdt=2025-08-21/a.txt",
        "x/bike-data/gen_info/raw/dt=2025-08-21/a.txt",
    ],
)
def test_what_is_no_snapshot_of_a_day_is_none(key):
    assert LAYOUT.parse_raw_key(key) is None


@property_settings(300)
@given(st.one_of(st.text(), st.text("rawdt=2025-08_1/.x").map(lambda text: LAYOUT.raw_prefix + "dt=" + text + ".txt")))
def test_any_key_is_taken_apart_or_none(key):
    parsed = LAYOUT.parse_raw_key(key)
    assert parsed is None or key.startswith(LAYOUT.raw_folder(parsed.dt))


@pytest.mark.parametrize(
    ("folder", "dt"),
    [
        ("dt=2025-08-21", DT),
        ("dt=2025-08-21/", DT),
        ("bike-data/gen_info/processed/all/dt=2025-08-21/", DT),
        ("dt=garbage", None),
        ("dt=2025-02-30", None),
        ("2025-08-21", None),
        ("dt=2025-08-21/x", None),
        ("x_dt=2025-08-21", None),
        ("", None),
    ],
)
def test_the_date_of_a_folder(folder, dt):
    assert folder_date(folder) == dt


# --- names in a zone ---


LEGACY = Layout("p/", WARSAW)


def test_legacy_names_are_read_in_their_zone():
    parsed = LEGACY.parse_raw_key("p/raw/dt=2025-08-21/wrm_stations_2025-08-21_15-05-02.txt")
    assert parsed.file_timestamp == AT
    assert parsed.file_timestamp.utcoffset() == timedelta(0)
    winter = LEGACY.parse_raw_key("p/raw/dt=2025-12-21/wrm_stations_2025-12-21_15-05-02.txt")
    assert winter.file_timestamp == datetime(2025, 12, 21, 14, 5, 2, tzinfo=UTC)


def test_legacy_names_of_all_times_are_written_as_they_are_read():
    assert LEGACY.raw_key(AT).endswith("wrm_stations_2025-08-21_15-05-02.txt")
    assert LEGACY.parse_raw_key(LEGACY.raw_key(AT)).file_timestamp == AT


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (datetime(2025, 8, 20, 21, 59, 59, tzinfo=UTC), "dt=2025-08-20/wrm_stations_2025-08-20_23-59-59.txt"),
        (datetime(2025, 8, 20, 22, 0, 0, tzinfo=UTC), "dt=2025-08-21/wrm_stations_2025-08-20_22-00-00.txt"),
        (AT, "dt=2025-08-21/wrm_stations_2025-08-21_13-05-02.txt"),
    ],
)
def test_from_the_day_of_the_change_on_names_are_in_utc(at, name):
    layout = Layout("p/", WARSAW, DT)
    assert layout.raw_key(at) == f"p/raw/{name}"
    assert layout.parse_raw_key(layout.raw_key(at)).file_timestamp == at


# --- clocks ---


@pytest.mark.parametrize(
    ("dt", "hours", "start"),
    [
        (DT, 24, datetime(2025, 8, 20, 22, tzinfo=UTC)),
        (date(2025, 12, 21), 24, datetime(2025, 12, 20, 23, tzinfo=UTC)),
        (SPRING, 23, datetime(2026, 3, 28, 23, tzinfo=UTC)),
        (AUTUMN, 25, datetime(2026, 10, 24, 22, tzinfo=UTC)),
        (FIRST_DATE, 24, datetime(2025, 5, 31, 22, tzinfo=UTC)),
    ],
)
def test_a_partition_has_as_many_hours_as_its_day(dt, hours, start):
    bounds = partition_bounds(dt)
    assert bounds == (start, start + timedelta(hours=hours))
    assert all(at.utcoffset() == timedelta(0) for at in bounds)
    assert [local_date(at) for at in bounds] == [dt, dt + timedelta(days=1)]
    assert local_date(start - timedelta(microseconds=1)) == dt - timedelta(days=1)


def test_partitions_of_a_year_follow_each_other_without_gap():
    days = [date(2026, 1, 1) + timedelta(days=i) for i in range(365)]
    bounds = [partition_bounds(dt) for dt in days]
    assert all(bounds[i][1] == bounds[i + 1][0] for i in range(364))
    assert sum((end - start for start, end in bounds), timedelta()) == timedelta(days=365)


@pytest.mark.parametrize(
    "layout", [LAYOUT, Layout("p/", WARSAW, date(2026, 1, 1))], ids=["UTC", "UTC again since January"]
)
@pytest.mark.parametrize(("dt", "files"), [(SPRING, 138), (AUTUMN, 150)])
def test_snapshots_each_ten_minutes_land_in_their_day_on_days_of_other_length(layout, dt, files):
    noon = datetime(dt.year, dt.month, dt.day, 12, tzinfo=UTC)
    times = [noon + timedelta(minutes=10 * i) for i in range(-6 * 48, 6 * 48)]
    keys = [layout.raw_key(at) for at in times]
    assert len(set(keys)) == len(times)
    parsed = [layout.parse_raw_key(key) for key in keys]
    assert [key.file_timestamp for key in parsed] == times
    assert sum(key.dt == dt for key in parsed) == files
    assert all(key.dt == at.astimezone(WARSAW).date() for key, at in zip(parsed, times, strict=True))
    # Names sort as times do.
    assert sorted(keys) == keys


def test_legacy_names_of_the_hour_that_comes_twice_are_read_as_the_first():
    parsed = LEGACY.parse_raw_key("p/raw/dt=2026-10-25/wrm_stations_2026-10-25_02-30-00.txt")
    assert parsed.file_timestamp == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_legacy_names_of_the_hour_that_never_was_are_read_all_the_same():
    parsed = LEGACY.parse_raw_key("p/raw/dt=2026-03-29/wrm_stations_2026-03-29_02-30-00.txt")
    assert parsed.file_timestamp == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert parsed.dt == local_date(parsed.file_timestamp)
