"""The profile of a day against counting by hand, and drift against the formula."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from statistics import mean

import pyarrow as pa
import pytest

from wrm_pipeline.domain.enhanced_build import enhance_rows
from wrm_pipeline.domain.profile import BIN_EDGES, MIN_DAYS_COMPARED, NOT_COMPARED, drift, profile_rows
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
from wrm_pipeline.domain.schemas import ENHANCED
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.simulator.city import City

DT = date(2025, 8, 21)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    city = City(seed=3, station_count=30, bike_count=12)
    times = [datetime(2025, 8, 21, hour, tzinfo=UTC) for hour in (3, 7, 15)]
    parsed = parse_snapshots([RawSnapshot(f"raw/{at:%H}.txt", at, city.snapshot(at)) for at in times]).rows
    built = {f"raw/{at:%H}.txt": at for at in times}
    return (
        enhance_rows(parsed, area=DEFAULT_SERVICE_AREA, dt=DT, processed_at=built).unify_dictionaries().combine_chunks()
    )


def test_every_column_is_counted_as_by_hand(rows):
    found = {column.column_name: column for column in profile_rows(rows)}
    assert list(found) == [*ENHANCED.columns, "report_age_s"]
    for name in ENHANCED.columns:
        values = rows[name].to_pylist()
        there = [value for value in values if value is not None]
        column = found[name]
        assert (column.rows, column.nulls, column.distinct_values) == (
            len(values),
            len(values) - len(there),
            len(set(there)),
        ), name
        if isinstance(there[0], bool):
            assert column.minimum == str(min(there)).lower(), name
        elif isinstance(there[0], int | float | str):
            assert (column.minimum, column.maximum) == (str(min(there)), str(max(there))), name
        else:
            assert column.minimum == min(there).isoformat(), name
        if isinstance(there[0], int | float):
            assert column.mean == pytest.approx(mean(there)), name
        else:
            assert column.mean is None, name
    ages = [
        (at - reported).total_seconds()
        for at, reported in zip(rows["file_timestamp"].to_pylist(), rows["timestamp"].to_pylist(), strict=True)
    ]
    assert found["report_age_s"].mean == pytest.approx(mean(ages))


def test_distributions_are_shares_by_bin(rows):
    found = {column.column_name: column.distribution for column in profile_rows(rows)}
    assert all(sum(shares.values()) == pytest.approx(1, abs=1e-4) for shares in found.values() if shares)
    bikes = rows["bikes"].to_pylist()
    assert found["bikes"]["1"] == pytest.approx(bikes.count(1) / len(bikes), abs=1e-6)
    assert found["bikes"]["5"] == pytest.approx(sum(count in (4, 5) for count in bikes) / len(bikes), abs=1e-6)
    kinds = Counter(rows["record_type"].to_pylist())
    assert found["record_type"]["bike"] == pytest.approx(kinds["bike"] / len(bikes), abs=1e-6)
    assert found["battery_pct"]["null"] > 0.5
    assert found["station_id"] == {}


def test_every_number_is_compared_or_is_meant_not_to_be():
    numbers = {
        name
        for name, column in ENHANCED.columns.items()
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    }
    assert numbers | {"report_age_s"} == set(BIN_EDGES) | NOT_COMPARED


def test_an_empty_day_has_a_profile(rows):
    assert {(column.rows, column.minimum) for column in profile_rows(rows.slice(0, 0).combine_chunks())} == {(0, None)}


def test_drift_is_the_population_stability_index():
    usual = [{"0": 0.4, "1": 0.6}, {"0": 0.6, "1": 0.4}] * 4
    assert drift({"0": 0.5, "1": 0.5}, usual) == 0
    expected = (0.9 - 0.5) * math.log(0.9 / 0.5) + (0.1 - 0.5) * math.log(0.1 / 0.5)
    assert drift({"0": 0.9, "1": 0.1}, usual) == pytest.approx(expected, abs=1e-6)
    # A bin that was never seen does not make it infinite.
    assert 0.25 < drift({"0": 0.5, "1": 0.3, "> 50": 0.2}, usual) < 5


def test_a_few_days_are_too_few_to_drift_from():
    assert drift({"0": 1.0}, [{"0": 1.0}] * (MIN_DAYS_COMPARED - 1)) is None
    assert drift({}, [{"0": 1.0}] * MIN_DAYS_COMPARED) is None


def test_ordinary_days_of_a_city_do_not_drift_and_a_changed_one_does():
    city = City(seed=3, station_count=60, bike_count=30)

    def day(dt: date, *, stations_gone: bool = False) -> dict[str, dict]:
        times = [datetime(dt.year, dt.month, dt.day, hour, tzinfo=UTC) for hour in range(0, 22, 2)]
        parsed = parse_snapshots([RawSnapshot(f"raw/{at:%H}.txt", at, city.snapshot(at)) for at in times]).rows
        built = {f"raw/{at:%H}.txt": at for at in times}
        rows = enhance_rows(parsed, area=DEFAULT_SERVICE_AREA, dt=dt, processed_at=built)
        if stations_gone:
            rows = rows.set_column(
                rows.column_names.index("bikes"), "bikes", pa.array([0] * rows.num_rows, rows["bikes"].type)
            )
        return {column.column_name: column.distribution for column in profile_rows(rows.combine_chunks())}

    days = [day(DT + timedelta(days=n)) for n in range(8)]
    earlier = {name: [one[name] for one in days[:-1]] for name in days[0]}
    usual = {name: drift(days[-1][name], earlier[name]) for name in days[0]}
    assert max(value for value in usual.values() if value is not None) < 0.25
    assert drift(day(DT + timedelta(days=8), stations_gone=True)["bikes"], earlier["bikes"]) > 1
