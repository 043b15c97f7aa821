"""The checks that guard a day: what passes, what does not, and what then is not published."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from wrm_pipeline.assets.stations import enhanced_all, processed_all
from wrm_pipeline.checks.results import ERROR, WARN, publish_if_check_passes, result
from wrm_pipeline.checks.stations import check_enhanced, check_processed, enhanced_check, processed_check
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.schemas import ENHANCED, PROCESSED, arrow_schema
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, WatchedStore, build_day, failure_of, run_job, snapshot
from wrm_pipeline_tests.fixtures.lake import ENHANCED as ENHANCED_ASSET
from wrm_pipeline_tests.fixtures.lake import PROCESSED as PROCESSED_ASSET
from wrm_pipeline_tests.fixtures.snapshots import line
from wrm_pipeline_tests.unit.assets.test_stations import on
from wrm_pipeline_tests.unit.checks.files import file_of, manifest, number, outcomes, samples, verdict

CLEAN = LineCounts(lines_in=12, rows_out=10, dead_lettered=0, duplicate_rows=1, remark_lines=1)


def processed(counts: LineCounts, **changes: Any) -> dg.AssetCheckResult:
    values = {
        "day": "d",
        "rows": counts.rows_out,
        "manifest": manifest(counts),
        "file": file_of(counts.rows_out, arrow_schema(PROCESSED)),
    } | changes
    return check_processed(**values)


def test_a_good_day_passes_and_so_does_an_empty_one():
    found = [
        processed(CLEAN),
        processed(LineCounts()),
        check_enhanced("d", 10, file_of(10)),
        check_enhanced("d", 0, file_of(0)),
    ]
    assert [verdict(one) for one in found] == ["good"] * 4
    assert all(one.description for one in found)
    assert not any(samples(one) for one in found)


def test_both_block():
    for spec in (processed_check("p"), enhanced_check("e")):
        assert spec.blocking
        assert "Otherwise nothing is published" in str(spec.description)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "good"),
        ({"rows": 9}, "ERROR"),
        ({"file": file_of(11, arrow_schema(PROCESSED))}, "ERROR"),
        ({"manifest": manifest(replace(CLEAN, lines_in=13))}, "ERROR"),
        # Two files of which one lacks what the other has too much: the sum is right, neither is.
        ({"manifest": manifest(LineCounts(7, 5), LineCounts(5, 5, 0, 1, 1))}, "ERROR"),
        ({"manifest": manifest(LineCounts(6, 5, 0, 1, 0), LineCounts(6, 5, 0, 0, 1))}, "good"),
    ],
)
def test_lines_are_accounted_for(changes, expected):
    found = processed(CLEAN, **changes)
    assert verdict(found) == expected
    assert number(found, "rows_in_file") in (10, 11)
    assert len(samples(found)) == number(found, "raw_objects_unbalanced")


def test_samples_of_unbalanced_objects_are_few():
    found = processed(CLEAN, manifest=manifest(*[LineCounts(1)] * 50))
    assert number(found, "raw_objects_unbalanced") == 50
    assert len(samples(found)) == 20


BIKES_AS_INT64 = {"bikes": pa.int64()}


def with_types(schema: pa.Schema, types: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema([f.with_type(types.get(f.name, f.type)) for f in schema])


def test_columns_that_are_not_the_schemas():
    other = file_of(10, with_types(arrow_schema(PROCESSED), BIKES_AS_INT64))
    more = file_of(10, arrow_schema(PROCESSED))
    for found in (
        processed(CLEAN, file=other),
        check_enhanced("d", 10, file_of(10, with_types(arrow_schema(ENHANCED), BIKES_AS_INT64))),
    ):
        assert verdict(found) == "ERROR"
        assert number(found, "columns_that_differ") == 1
        assert samples(found)[0]["position"] == 7
        assert "int64" in samples(found)[0]["found"]
        assert "1 of" in str(found.description)
    assert number(check_enhanced("d", 10, more), "columns_that_differ") == 8


def test_rows_that_vanished_or_came_from_nowhere():
    for rows in (9, 11):
        found = check_enhanced("d", rows, file_of(10))
        assert verdict(found) == "ERROR"
        assert (number(found, "rows"), number(found, "rows_processed")) == (10, rows)


def test_a_key_that_is_there_twice():
    found = check_enhanced("d", 4, file_of(4, station_id=["1", "2", "2", "3"]))
    assert verdict(found) == "ERROR"
    assert number(found, "rows_out_of_order") == 1
    assert samples(found) == [{"row": 2, "file_timestamp": "2025-08-21 12:00:00+00:00", "station_id": "2"}]


def test_the_same_station_a_minute_later_is_another_row():
    later = file_of(2, station_id=["1", "1"], file_timestamp=[NOON, NOON + timedelta(minutes=1)])
    assert verdict(check_enhanced("d", 2, later)) == "good"


# --- what happens then ---


@pytest.mark.parametrize(
    ("passed", "severity", "published"), [(True, ERROR, True), (False, WARN, True), (False, ERROR, False)]
)
def test_an_error_keeps_it_from_being_published_and_a_warning_does_not(passed, severity, published):
    output = dg.Output(1)
    found = result("it_holds", passed, "It is so.", severity=severity)
    events = publish_if_check_passes(output, found)
    if published:
        assert list(events) == [output, found]
        return
    assert next(events) == found
    with pytest.raises(dg.Failure, match=r"Nothing was published.*: it_holds does not hold\. It is so\."):
        next(events)


def test_a_minutes_run_evaluates_these_two_and_no_other(lake):
    lake.put_day(3)
    expected = {f"{PROCESSED_ASSET}: lines_and_columns_are_right", f"{ENHANCED_ASSET}: rows_and_columns_are_right"}
    for _ in ("built", "unchanged"):
        run = run_job("wrm_stations_processing_job", dt=DAY)
        assert outcomes(run) == dict.fromkeys(expected, "good")


def test_checks_ask_the_store_for_nothing(lake, monkeypatch):
    def requests(first: int) -> list[str]:
        lake.put_day(1, first=first)
        store = WatchedStore(lake.store)
        build_day(overrides=on(store))
        return [operation for operation, _ in store.calls]

    requests(0)
    with_checks = requests(1)
    monkeypatch.setattr(processed_all, "check_processed", lambda *_: result("lines_and_columns_are_right", True, ""))
    monkeypatch.setattr(enhanced_all, "check_enhanced", lambda *_: result("rows_and_columns_are_right", True, ""))
    assert with_checks == requests(2)


def test_a_day_that_is_mostly_refused_is_published_all_the_same(lake):
    combined = f"{int(NOON.timestamp())}|7200|-1"
    lake.put_raw(NOON, snapshot(NOON, 10, *[line(id=str(n), combined=combined, bikes="many") for n in range(20)]))
    assert build_day().success
    assert len(lake.rows("enhanced")) == 11


@pytest.mark.parametrize(
    ("module", "function", "kept"),
    [
        (processed_all, "check_processed", ["processed", "enhanced"]),
        (enhanced_all, "check_enhanced", ["enhanced"]),
    ],
)
def test_an_error_stops_the_run_and_leaves_what_is_published(lake, monkeypatch, module, function, kept):
    lake.put_day(2)
    build_day()
    before = {name: lake.digest(lake.partition_key(name)) for name in ("processed", "enhanced")}
    lake.put_day(1, first=2)
    real = getattr(module, function)

    def fails(*arguments: Any) -> dg.AssetCheckResult:
        return real(*arguments)._replace(passed=False, description="It does not add up.")

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fails)
        run = build_day(raise_on_error=False)
    assert "Nothing was published" in failure_of(run)
    assert "It does not add up." in failure_of(run)
    after = {name: lake.digest(lake.partition_key(name)) for name in ("processed", "enhanced")}
    assert [name for name in before if before[name] == after[name]] == kept
    # The result is there to look at, the asset is not materialized, and what is downstream did not run.
    assert list(outcomes(run).values())[-1] == "ERROR"
    stored = run.filter_events(lambda event: event.event_type_value == "ASSET_MATERIALIZATION")
    started = run.filter_events(lambda event: event.event_type_value == "STEP_START")
    assert len(stored) == len(started) - 1 == 2 - len(kept)

    assert build_day().success
    assert len(lake.rows("enhanced")) == 33


def test_a_published_file_of_another_schema_stops_what_is_downstream(lake):
    lake.put_day(1)
    build_day()
    file = ParquetParts.open(lake.store.get(lake.partition_key("processed")))
    rows = pa.concat_tables(file.read_groups())
    rows = rows.cast(pa.schema([f.with_type(BIKES_AS_INT64.get(f.name, f.type)) for f in rows.schema]))
    writer = PartsWriter(with_types(arrow_schema(PROCESSED), BIKES_AS_INT64), "another version of the code")
    writer.write(rows)
    lake.store.put(lake.partition_key("processed"), writer.finish(file.footer_metadata))
    run = build_day(raise_on_error=False)
    assert "1 of 20 columns differ" in failure_of(run)
    assert list(outcomes(run)) == [f"{PROCESSED_ASSET}: lines_and_columns_are_right"]


def test_a_check_whose_own_code_breaks_fails_the_step_and_publishes_nothing(lake, monkeypatch):
    def broken(*_: Any) -> dg.AssetCheckResult:
        raise ZeroDivisionError("a bug of the check")

    lake.put_day(1)
    monkeypatch.setattr(processed_all, "check_processed", broken)
    run = build_day(raise_on_error=False)
    assert "a bug of the check" in failure_of(run)
    assert lake.keys("processed/") == []
    assert outcomes(run) == {}
