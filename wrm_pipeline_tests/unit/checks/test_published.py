"""Checks on what readers see: today, and one day among others."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from wrm_pipeline.checks.published import (
    CHECKS,
    DAYS_COMPARED,
    DEAD_SHARE_ERROR,
    DEAD_SHARE_WARN,
    FLAG_SHARE_WARN,
    UNKNOWN_SHARE_WARN,
    check_dead_letters,
    check_flags,
    check_record_types,
    enhanced_files_are_readable,
    row_count_is_usual,
    today_is_fresh,
)
from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.domain.manifest import Manifest, Source
from wrm_pipeline.domain.schemas import FLAGS
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline_tests.fixtures.lake import (
    DAY,
    NOON,
    build_day,
    definitions,
    materialize,
    metadata_of,
    run_job,
    snapshot,
)
from wrm_pipeline_tests.fixtures.snapshots import body, line
from wrm_pipeline_tests.unit.checks.files import file_of, manifest, number, outcomes, samples, verdict

VIEWS = "create_duckdb_enhanced_views"


def ask(check: dg.AssetChecksDefinition, lake, now: datetime) -> dg.AssetCheckResult:
    return check(lake=LakeResource.of(lake.settings), clock=ClockResource(fixed_at=now.isoformat()))


# --- today ---


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(0, "good"), (60, "good"), (300, "good"), (301, "WARN"), (900, "WARN"), (901, "ERROR"), (7200, "ERROR")],
)
def test_the_age_of_the_newest_snapshot(lake, age_s, expected):
    times = [NOON, NOON + timedelta(minutes=1)]
    lake.store.put(lake.partition_key("enhanced"), file_of(2, file_timestamp=times).data)
    materialize(VIEWS)
    found = ask(today_is_fresh, lake, NOON + timedelta(minutes=1, seconds=age_s))
    assert verdict(found) == expected
    assert number(found, "age_s") == age_s
    assert (number(found, "warn_after_s"), number(found, "error_after_s")) == (300, 900)


@pytest.mark.parametrize("ahead", [timedelta(seconds=1), timedelta(minutes=2), timedelta(hours=9)])
def test_a_snapshot_from_the_future_makes_nothing_fresh(lake, ahead):
    lake.store.put(lake.partition_key("enhanced"), file_of(2, file_timestamp=[NOON, NOON + timedelta(hours=1)]).data)
    materialize(VIEWS)
    found = ask(today_is_fresh, lake, NOON + timedelta(hours=1) - ahead)
    assert number(found, "age_s") == 3600 - ahead.total_seconds() if ahead < timedelta(hours=1) else True
    assert verdict(found) == "ERROR"
    assert "is in the future and does not count" in str(found.description)


def test_a_day_that_a_clock_ahead_has_published_is_not_the_newest(lake):
    published(lake, {DAY - timedelta(days=n): 1440 for n in range(1, 5)} | {DAY: 720, DAY + timedelta(days=40): 3})
    found = ask(row_count_is_usual, lake, NOON)
    assert (verdict(found), str(DAY) in str(found.description)) == ("good", True)


def test_just_after_midnight_yesterdays_last_snapshot_is_fresh(lake):
    _, midnight = partition_bounds(DAY)
    lake.put_raw(midnight - timedelta(seconds=30))
    build_day()
    materialize(VIEWS)
    assert verdict(ask(today_is_fresh, lake, midnight + timedelta(seconds=45))) == "good"
    assert verdict(ask(today_is_fresh, lake, midnight + timedelta(minutes=20))) == "ERROR"


def test_building_an_old_day_makes_nothing_fresh(lake):
    lake.put_day(1)
    build_day()
    materialize(VIEWS)
    found = ask(today_is_fresh, lake, NOON + timedelta(days=30))
    assert verdict(found) == "ERROR"
    assert "Neither 2025-09-20 nor the day before" in str(found.description)


@pytest.mark.parametrize("views", [False, True])
def test_nothing_published_is_not_fresh(lake, views):
    if views:
        materialize(VIEWS)
    assert verdict(ask(today_is_fresh, lake, NOON)) == "ERROR"


def test_it_runs_by_the_clock_in_a_job_of_its_own(lake):
    lake.put_day(1)
    build_day()
    materialize(VIEWS)
    run = run_job("wrm_freshness_job", overrides={"clock": ClockResource(fixed_at=NOON.isoformat())})
    found = {(found.check_name, found.passed) for found in run.get_asset_check_evaluations()}
    names = (
        *("today_is_fresh", "clock_was_not_ahead", "feed_format_is_read", "spool_is_readable"),
        "feeds_tell_the_truth",
    )
    assert found == {(name, True) for name in names}
    schedules = {schedule.name: schedule for schedule in definitions().schedules or ()}
    assert schedules["wrm_freshness_schedule"].cron_schedule == "*/5 * * * *"
    assert schedules["wrm_freshness_schedule"].default_status is dg.DefaultScheduleStatus.RUNNING


# --- one day among others ---


def published(lake, snapshots_by_day: dict[date, int]) -> None:
    """Days with so many snapshots of 3 rows."""
    for dt, count in snapshots_by_day.items():
        lake.store.put(lake.partition_key("enhanced", dt), file_of(count * 3).data)
    materialize(VIEWS)


def days_before(count: int, snapshots: int = 10) -> dict[date, int]:
    return {DAY - timedelta(days=n): snapshots for n in range(count, 0, -1)}


END_OF_DAY = partition_bounds(DAY)[1]


@pytest.mark.parametrize(
    ("snapshots", "expected"), [(10, "good"), (8, "good"), (7, "WARN"), (1, "WARN"), (12, "good"), (13, "WARN")]
)
def test_a_days_rows_against_the_days_before(lake, snapshots, expected):
    published(lake, {**days_before(3), DAY: snapshots})
    found = ask(row_count_is_usual, lake, END_OF_DAY + timedelta(hours=3))
    assert verdict(found) == expected
    assert number(found, "rows") == snapshots * 3
    assert number(found, "rows_expected") == 30
    assert [sample["rows"] for sample in samples(found)] == [30, 30, 30]


@pytest.mark.parametrize(
    ("hours", "snapshots", "expected"),
    [(0.5, 0, "good"), (12, 5, "good"), (12, 3, "WARN"), (12, 10, "WARN"), (6, 3, "good"), (18, 3, "WARN")],
)
def test_a_day_that_is_not_over_is_compared_with_as_much_of_the_others(lake, hours, snapshots, expected):
    published(lake, {**days_before(3), DAY: max(1, snapshots)})
    found = ask(row_count_is_usual, lake, partition_bounds(DAY)[0] + timedelta(hours=hours))
    assert verdict(found) == expected


def test_it_takes_a_few_days_to_know_what_is_usual(lake):
    published(lake, {**days_before(2), DAY: 1})
    found = ask(row_count_is_usual, lake, END_OF_DAY)
    assert verdict(found) == "good"
    assert "too few to judge" in str(found.description)
    assert number(found, "days_compared") == 2


def test_one_odd_day_does_not_change_what_is_usual(lake):
    published(lake, {**days_before(3), DAY - timedelta(days=4): 100, DAY - timedelta(days=5): 1, DAY: 10})
    assert verdict(ask(row_count_is_usual, lake, END_OF_DAY)) == "good"


def test_long_ago_does_not_count(lake):
    published(lake, {DAY - timedelta(days=DAYS_COMPARED + n): 100 for n in (1, 2, 3)} | {DAY: 1})
    assert number(ask(row_count_is_usual, lake, END_OF_DAY), "days_compared") == 0


@pytest.mark.parametrize("views", [False, True])
def test_nothing_published_has_no_row_count(lake, views):
    if views:
        materialize(VIEWS)
    found = ask(row_count_is_usual, lake, datetime.now(UTC))
    assert (verdict(found), found.description) == ("good", "Nothing is published yet.")


@pytest.mark.parametrize("check", [row_count_is_usual, today_is_fresh])
def test_a_check_that_cannot_read_raises_instead_of_failing(lake, check):
    lake.put_day(1)
    build_day()
    materialize(VIEWS)
    lake.settings.database_path.write_bytes(b"no database")
    with pytest.raises(Exception, match="not a valid DuckDB database"):
        ask(check, lake, NOON)


# --- the newest day ---

DAY_CHECKS = {
    "wrm_stations_dlq: dead_letter_share_is_low",
    "query_station_summary: flag_shares_are_usual",
    "query_station_summary: record_types_are_known",
    "query_station_summary: row_count_is_usual",
    "query_station_summary: today_is_fresh",
    "query_station_summary: enhanced_files_are_readable",
}


def test_every_check_says_what_it_is_about():
    specs = [spec for check in CHECKS for spec in check.check_specs]
    assert {f"{spec.asset_key.to_user_string()}: {spec.name}" for spec in specs} == DAY_CHECKS
    assert all(len(spec.description or "") > 60 for spec in specs)
    known = definitions().resolve_asset_graph().materializable_asset_keys
    assert {spec.asset_key for spec in specs} <= known


@pytest.mark.parametrize(
    ("dead", "expected"),
    [
        (0, "good"),
        (int(1000 * DEAD_SHARE_WARN), "good"),
        (int(1000 * DEAD_SHARE_WARN) + 1, "WARN"),
        (int(1000 * DEAD_SHARE_ERROR), "WARN"),
        (int(1000 * DEAD_SHARE_ERROR) + 1, "ERROR"),
        (1000, "ERROR"),
    ],
)
def test_the_share_of_dead_letters(dead, expected):
    counts = LineCounts(lines_in=1300, rows_out=1000 - dead, dead_lettered=dead, remark_lines=300)
    found = check_dead_letters("d", manifest(counts))
    assert verdict(found) == expected
    assert number(found, "share") == dead / 1000
    assert (number(found, "warn_above"), number(found, "error_above")) == (0.01, 0.5)


def test_the_worst_raw_objects_are_named_first():
    found = check_dead_letters("d", manifest(*[LineCounts(10, 10 - n % 7, n % 7) for n in range(50)]))
    assert len(samples(found)) == 20
    assert samples(found)[0] == {"dead_lettered": 6, "source": "raw/6.txt"}
    assert verdict(check_dead_letters("none", None)) == "good"


@pytest.mark.parametrize("flag", FLAGS)
def test_the_share_of_each_flag(flag):
    limit = round(1000 * FLAG_SHARE_WARN[flag])
    for count, expected in ((0, "good"), (limit, "good"), (limit + 1, "WARN"), (1000, "WARN")):
        found = check_flags("d", file_of(1000, **{flag: [n < count for n in range(1000)]}))
        assert verdict(found) == expected
        assert number(found, f"share_{flag}") == count / 1000
        assert number(found, f"warn_above_{flag}") == FLAG_SHARE_WARN[flag]
        assert len(samples(found)) == (20 if expected == "WARN" else 0)


def test_every_flag_has_a_threshold_and_no_rows_have_no_share():
    assert set(FLAG_SHARE_WARN) == set(FLAGS)
    assert verdict(check_flags("none", None)) == verdict(check_flags("d", file_of(0))) == "good"


def test_the_share_of_unknown_records():
    limit = int(1000 * UNKNOWN_SHARE_WARN)
    for count, expected in ((0, "good"), (limit, "good"), (limit + 1, "WARN")):
        kinds = ["unknown" if n < count else "station" for n in range(1000)]
        found = check_record_types("d", file_of(1000, record_type=kinds))
        assert verdict(found) == expected
        assert number(found, "unknown") == len(samples(found)) == count
    assert verdict(check_record_types("none", None)) == "good"


def test_the_analytics_job_looks_at_the_newest_day_and_builds_nothing(lake):
    combined = f"{int(NOON.timestamp())}|7200|-1"
    lake.put_raw(NOON, snapshot(NOON, 100, *[line(id=str(n), combined=combined, bikes="x") for n in range(200)]))
    build_day()
    lake.put_day(1, dt=DAY - timedelta(days=1))
    build_day(DAY - timedelta(days=1))
    run = run_job("wrm_analytics_job")
    assert set(outcomes(run)) == DAY_CHECKS | {
        "query_station_summary: clock_was_not_ahead",
        "wrm_stations_dlq: dead_letters_are_readable",
        "wrm_stations_dlq: feed_format_is_read",
        "wrm_stations_dlq: spool_is_readable",
        "query_station_summary: raw_objects_are_all_there",
        "query_station_summary: partition_files_are_ours",
        "data_quality: feeds_tell_the_truth",
        "data_quality: no_rule_fires_more_than_usual",
        "data_quality: distributions_are_usual",
        "data_quality: anomalies_are_few",
        "data_quality: bikes_at_stations_are_as_counted",
    }
    # Not blocking: the good rows are in the tables.
    assert outcomes(run)["wrm_stations_dlq: dead_letter_share_is_low"] == "ERROR"
    assert run.success
    started = {e.step_key for e in run.filter_events(lambda e: e.event_type_value == "STEP_START")}
    assert not started & {"wrm_stations_processed_data_all", "wrm_stations_enhanced_data_all"}
    assert "query_station_summary" in started


def test_a_check_is_evaluated_with_its_asset_so_that_the_ui_shows_it(lake):
    lake.put_day(1)
    build_day()
    run = run_job("wrm_analytics_job")
    made = {e.asset_key for e in run.filter_events(lambda e: e.event_type_value == "ASSET_MATERIALIZATION")}
    assert {found.asset_key for found in run.get_asset_check_evaluations()} <= made
    evaluated = run.get_asset_check_evaluations()
    assert all(found.target_materialization_data.run_id == run.run_id for found in evaluated)


# --- what a change of the feed's format explains ---


def dead_lines(at) -> list[str]:
    """Five stations whose counts are in words."""
    return [line(id=str(n), combined=f"{int(at.timestamp())}|7200|-1", bikes="5 bikes") for n in range(5)]


def test_dead_letters_of_a_drift_are_the_feeds_checks_to_tell(lake):
    lake.put_raw(NOON, snapshot(NOON, 10, *dead_lines(NOON)))
    build_day()
    run = run_job("wrm_analytics_job", overrides={"clock": ClockResource(fixed_at=NOON.isoformat())})
    found = {e.check_name: e for e in run.get_asset_check_evaluations()}
    share, feed = found["dead_letter_share_is_low"], found["feed_format_is_read"]
    assert not share.passed
    assert share.metadata["explained_by"].value == "feed_format_is_read"
    assert not feed.passed
    assert feed.metadata["field"].value == "bikes"
    assert (feed.metadata["old_example"].value, feed.metadata["new_example"].value) == ("'0'", "'5 bikes'")
    with LakeResource.of(lake.settings).database.reading() as connection:
        rule = "SELECT hits, rows_checked FROM wrm_analytics.quality_rule_hits WHERE rule = 'feed_has_another_format'"
        assert connection.execute(rule).fetchall() == [(5, 16)]


def test_odd_rows_among_those_of_a_drift_are_reported_as_ever():
    half = Manifest("1", {"a": Source("e", NOON, "", NOON, LineCounts(100, 68, 32))})
    assert "explained_by" in check_dead_letters("2025-08-21", half, drifted=31).metadata
    assert "explained_by" not in check_dead_letters("2025-08-21", half, drifted=20).metadata


def test_a_day_that_is_stale_since_no_row_is_read_is_the_feeds_checks_to_tell(lake):
    lake.put_day(1)
    build_day()
    materialize(VIEWS)
    late = NOON + timedelta(hours=1)
    for content, explained in ((b"<html>", False), (body(*dead_lines(late)), True)):
        lake.store.put(lake.layout.quarantine_key(late), content)
        run = run_job("wrm_freshness_job", overrides={"clock": ClockResource(fixed_at=late.isoformat())})
        (fresh,) = [e for e in run.get_asset_check_evaluations() if e.check_name == "today_is_fresh"]
        assert not fresh.passed
        assert ("explained_by" in fresh.metadata) == explained


def test_a_file_that_is_left_out_of_the_views_is_named(lake):
    for day in (DAY - timedelta(days=1), DAY):
        lake.put_day(1, dt=day)
        build_day(day)
    materialize(VIEWS)
    assert verdict(enhanced_files_are_readable(LakeResource.of(lake.settings))) == "good"
    key = lake.partition_key("enhanced", DAY - timedelta(days=1))
    lake.store.put(key, b"PAR1 damaged PAR1")
    metadata = metadata_of(materialize(VIEWS), VIEWS)
    assert key in metadata["left_out"]
    found = enhanced_files_are_readable(LakeResource.of(lake.settings))
    assert verdict(found) == "WARN"
    assert "lack 2025-08-20: it is not a Parquet file" in found.description
