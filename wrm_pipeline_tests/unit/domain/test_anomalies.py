"""Station hours against counting by hand, the features one by one, and the two methods on planted anomalies."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from wrm_pipeline.domain.anomalies import (
    MIN_DAYS_COMPARED,
    features,
    find_anomalies,
    isolation_forest,
    judge_hours,
    last_counts,
    usual_of,
)
from wrm_pipeline.domain.anomaly_options import ISOLATION_FOREST, ROBUST_Z, AnomalyOptions
from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.simulator.city import City
from wrm_pipeline_tests.bench.anomalies import hours_of, measure, rows_of_day

DT = date(2025, 8, 21)


@pytest.mark.parametrize(
    ("dt", "hours", "twos"), [(DT, 24, 1), (date(2026, 3, 29), 23, 0), (date(2025, 10, 26), 25, 2)]
)
def test_station_hours_are_those_of_the_local_day(dt, hours, twos):
    rows = rows_of_day(City(seed=1, station_count=3, bike_count=2), dt, 1200)
    found = hours_of(rows, dt)
    start, end = partition_bounds(dt)
    instants = [start + timedelta(hours=n) for n in range((end - start) // timedelta(hours=1))]
    assert len(instants) == hours
    for station, mine in found.groupby("station_id"):
        assert mine["hour_start"].tolist() == instants, station
        assert mine["local_hour"].tolist().count(2) == twos
        assert mine["snapshots"].eq(3).all()

    by_hand = {}
    last = {}
    for row in rows.to_pylist():
        if row["record_type"] != "station":
            continue
        key = row["station_id"], row["file_timestamp"].replace(minute=0)
        step = abs(row["bikes"] - last.get(row["station_id"], row["bikes"]))
        last[row["station_id"]] = row["bikes"]
        bikes, steps = by_hand.setdefault(key, ([], []))
        bikes.append(row["bikes"])
        steps.append(step)
    assert len(found) == len(by_hand)
    for row in found.to_dict("records"):
        bikes, steps = by_hand[row["station_id"], row["hour_start"].to_pydatetime()]
        assert (row["bikes_mean"], row["bikes_last"]) == (pytest.approx(sum(bikes) / 3), bikes[-1])
        assert (row["moves"], row["largest_step"]) == (sum(steps), max(steps))


def hour(dt: date, n: int, bikes: float, *, moves: int = 2, step: int = 1, emptied: int = 0, station: str = "15001"):
    start = datetime(dt.year, dt.month, dt.day, tzinfo=UTC) + timedelta(hours=n)
    return {
        "dt": dt,
        "hour_start": pd.Timestamp(start),
        "local_hour": n,
        "station_id": station,
        "name": "Rynek",
        "snapshots": 60,
        "bikes_mean": float(bikes),
        "bikes_last": int(bikes),
        "moves": moves,
        "largest_step": step,
        "emptied": emptied,
    }


def usual_days(count: int = 10) -> pd.DataFrame:
    """A station that has 8 to 10 bikes in every hour."""
    days = [DT - timedelta(days=n + 1) for n in range(count)]
    return pd.DataFrame([hour(day, n, 8 + (day.day + n) % 3) for day in days for n in range(24)])


def find(*hours: dict, earlier: pd.DataFrame | None = None) -> list[dict]:
    today = pd.DataFrame(hours).drop(columns="dt")
    judged = judge_hours(today, usual_days() if earlier is None else earlier, DT)
    return find_anomalies(judged).to_dict("records")


def test_a_usual_day_has_no_anomaly():
    assert find(*(hour(DT, n, 8 + n % 3) for n in range(24))) == []


@pytest.mark.parametrize(
    ("hours", "first", "reason"),
    [
        ([hour(DT, 9, 60)], 9, "60.0 bikes on average; 9.0 are usual"),
        ([hour(DT, 9, 9, step=40)], 9, "40 bikes came or went at once; 1 is usual"),
        ([hour(DT, n, 9, moves=0, step=0) for n in range(20)], None, "the count did not change for"),
        ([hour(DT, n, 0, moves=0, step=0, emptied=8) for n in range(4)], 0, "empty since 8 bikes left at once"),
    ],
)
def test_what_is_odd_is_found_and_said_in_words(hours, first, reason):
    found = find(*hours)
    assert found
    assert reason in found[0]["reason"]
    if first is not None:
        assert first in [row["local_hour"] for row in found]
    assert all(row["score"] > 1 and row["station_id"] == "15001" and row["method"] == ROBUST_Z for row in found)


def test_a_city_that_is_empty_at_once_is_found_at_each_station():
    stations = [str(15001 + n) for n in range(20)]
    earlier = pd.concat([usual_days().assign(station_id=station) for station in stations], ignore_index=True)
    found = find(*(hour(DT, 9, 0, emptied=1, station=station) for station in stations), earlier=earlier)
    assert {row["station_id"] for row in found} == set(stations)
    assert "far more stations than usual" in found[0]["reason"]


def test_silence_counts_from_the_day_before():
    earlier = usual_days()
    late = (earlier["dt"] == DT - timedelta(days=1)) & (earlier["local_hour"] >= 12)
    earlier.loc[late, ["moves", "largest_step"]] = 0
    found = find(*(hour(DT, n, 9, moves=0, step=0) for n in range(3)), earlier=earlier)
    assert [row["local_hour"] for row in found] == [2, 1]
    assert "did not change for 15 h" in found[0]["reason"]


def test_too_few_days_and_unknown_stations_are_not_judged():
    assert find(hour(DT, 9, 60), earlier=usual_days(MIN_DAYS_COMPARED - 1)) == []
    assert find(hour(DT, 9, 60), earlier=usual_days().iloc[:0]) == []
    assert find(hour(DT, 9, 60, station="999")) == []


def test_an_hour_of_few_snapshots_is_not_judged():
    assert find(hour(DT, 9, 60) | {"snapshots": 10}) == []


def test_the_forest_finds_the_same_way_each_time():
    rng = random.Random(1)
    earlier = pd.DataFrame(
        [
            hour(DT - timedelta(days=day + 1), n, rng.randint(4, 14), moves=rng.randint(0, 6), step=rng.randint(0, 2))
            for day in range(28)
            for n in range(24)
        ]
    )
    usual = usual_of(earlier)
    known = features(earlier, usual)
    odd = features(pd.DataFrame([hour(DT, 9, 90, moves=80, step=80)]), usual)
    first, second = (isolation_forest(odd, known) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert first[0] > np.quantile(isolation_forest(known, known), 0.99)


def test_more_contamination_is_a_lower_threshold():
    earlier = usual_days(20)
    today = pd.DataFrame([hour(DT, n, 8 + n % 5, moves=n % 4) for n in range(24)]).drop(columns="dt")
    few, many = (
        judge_hours(today, earlier, DT, AnomalyOptions(ISOLATION_FOREST, share))["score"] for share in (0.001, 0.4)
    )
    assert len(few) == len(many) == 24
    assert (few < many).all()


def test_results_of_other_options_are_distinguished():
    assert str(AnomalyOptions(ROBUST_Z, 0.1)) == str(AnomalyOptions()) == ROBUST_Z
    forest = [str(AnomalyOptions(ISOLATION_FOREST, share)) for share in (0.0005, 0.01)]
    assert forest == [ISOLATION_FOREST, "isolation_forest:0.01"]


def test_the_last_counts_are_those_of_the_last_hour():
    hours = pd.DataFrame([hour(DT, 22, 3), hour(DT, 23, 5), hour(DT, 22, 7, station="15002")])
    assert last_counts(hours) == {"15001": 5}


def test_planted_anomalies_are_found_and_the_default_is_the_better_one():
    # A small copy of what docs/quality.md has the figures of.
    city = City(seed=2, station_count=80, bike_count=0)
    best, forest = measure(city, seed=2, days=3, interval_s=900, reference_days=14)
    assert (best.method, forest.method) == (ROBUST_Z, ISOLATION_FOREST)
    for kind in ("frozen station", "jump", "night of zeros everywhere"):
        hits, total = best.found[kind]
        assert hits == total, best
    assert best.recall >= 0.85, best
    assert best.false_alarms_per_day <= 1, best
    assert best.precision * best.recall > forest.precision * forest.recall
