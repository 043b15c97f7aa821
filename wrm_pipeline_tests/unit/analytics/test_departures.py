"""Departures with a range: stations with a known truth, of which only the counts of snapshots are seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wrm_pipeline.analytics.registry.departures import (
    DAY_FIT_SQL,
    DAY_FLOWS_SQL,
    DAY_KNOWN_SQL,
    MV_DEPARTURES,
    MV_DEPARTURES_FIT,
)
from wrm_pipeline.analytics.registry.local_time import in_local_time
from wrm_pipeline.analytics.registry.staging import STAGING_SQL
from wrm_pipeline.domain.rides import judged_moves, rentals_table

FIRST_DAY = date(2025, 6, 3)
MIDNIGHT = datetime(2025, 6, 2, 22, tzinfo=UTC)
DAY_MIN = 24 * 60


class Day(NamedTuple):
    """Of each station: when bikes left and came, in minutes of the day."""

    left: list[list[float]]
    came: list[list[float]]

    @property
    def departures(self) -> list[int]:
        return [len(times) for times in self.left]


def poisson_day(rates: Iterable[float], seed: int = 1) -> Day:
    """Stations that bikes leave and reach at these rates a minute; every ninth rental fails within two minutes."""
    draw = random.Random(seed)
    left, came = [], []
    for rate in rates:
        times = [[draw.uniform(0, DAY_MIN) for _ in range(int(rate * DAY_MIN))] for _ in range(2)]
        failed = [t for t in times[0] if draw.random() < 1 / 8]
        times[0] += failed
        times[1] += [t + draw.gammavariate(2, 0.37) for t in failed]
        left.append(times[0])
        came.append(times[1])
    return Day(left, came)


def counts_of(day: Day, every: int, seen: Callable[[int], bool] = lambda _: True) -> dict[int, list[int]]:
    """By minute, the bikes of each station, which has 1000 at first."""
    return {
        minute: [
            1000 - sum(t < minute for t in left) + sum(t < minute for t in came)
            for left, came in zip(day.left, day.came, strict=True)
        ]
        for minute in range(0, DAY_MIN, every)
        if seen(minute)
    }


def estimated(counts: dict[int, list[int]], known: pa.Table | None = None) -> list[tuple[float, int, int, int]]:
    """Of each station: departures with their range, and the minimum."""
    with database() as connection:
        return estimated_on(connection, FIRST_DAY, counts, known)


def database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA wrm_analytics")
    connection.execute(f"CREATE TABLE wrm_analytics.mv_departures_fit ({MV_DEPARTURES_FIT.columns_sql})")
    return connection


def estimated_on(
    connection: duckdb.DuckDBPyConnection, dt: date, counts: dict[int, list[int]], known: pa.Table | None = None
) -> list[tuple[float, int, int, int]]:
    midnight = MIDNIGHT + (dt - FIRST_DAY)
    rows = [
        {"station_id": f"{number:03}", "bikes": bikes, "file_timestamp": midnight + timedelta(minutes=minute)}
        for minute, stations in counts.items()
        for number, bikes in enumerate(stations)
    ]
    connection.register("rows", pa.Table.from_pylist(rows))
    connection.register("known_ends", rentals_table(judged_moves([])) if known is None else known)
    connection.execute(
        f"CREATE OR REPLACE TABLE day_rows AS SELECT *, DATE '{dt}' AS dt, 'station' AS record_type, "
        "0 AS spaces, 1 AS total_docks, false AS outside_service_area FROM rows"
    )
    staged = {
        "day_snapshots": STAGING_SQL["day_snapshots"],
        "day_known": DAY_KNOWN_SQL,
        "day_fit": DAY_FIT_SQL,
        "day_flows": DAY_FLOWS_SQL,
    }
    for name, sql in staged.items():
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS {in_local_time(sql)}")
    connection.execute(f"INSERT INTO wrm_analytics.mv_departures_fit {MV_DEPARTURES_FIT.local_sql}")
    connection.execute(f"CREATE OR REPLACE TABLE departures AS {MV_DEPARTURES.local_sql}")
    return connection.execute(
        "SELECT departures, departures_lo, departures_hi, (SELECT sum(departures_min)::INTEGER FROM day_flows "
        "WHERE station_id = departures.station_id) FROM departures ORDER BY station_id"
    ).fetchall()


def known_ends(day: Day, dt: date) -> pa.Table:
    """Each begin and end of a rental, as bikes with known places tell them."""
    midnight = MIDNIGHT + (dt - FIRST_DAY)
    ends = [
        {"station_id": f"{n:03}", "moved_at": midnight + timedelta(minutes=t), "departures": d, "arrivals": 1 - d}
        for d, stations in ((1, day.left), (0, day.came))
        for n, times in enumerate(stations)
        for t in times
        if t < DAY_MIN
    ]
    return pa.Table.from_pylist(ends)


def covered(found: list[tuple[float, int, int, int]], day: Day) -> float:
    hits = [low <= true <= high for (_, low, high, _), true in zip(found, day.departures, strict=True)]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("every", [2, 5, 10])
def test_what_snapshots_hide_is_estimated(every):
    day = poisson_day([0.003 * number for number in range(1, 13)])
    true = sum(day.departures)
    found = estimated(counts_of(day, every))
    estimate, least = sum(row[0] for row in found), sum(row[3] for row in found)
    assert abs(estimate / true - 1) < 0.09 < 1 - least / true
    assert covered(found, day) >= 0.75


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([1 / 60, 0.5, 1, 5, 15, 15.1, 59, 130]), min_size=1, max_size=24),
    steps=st.lists(
        st.lists(st.sampled_from([*range(-2, 3), -100_000, 100_000]), min_size=24, max_size=24), min_size=1, max_size=3
    ),
    begin=st.integers(0, 600),
)
@example(gaps=[15] * 9, steps=[[0, 0, 0, -2, 2, 2, 2, 2, 0] + [0] * 15], begin=45)
@example(gaps=[1] * 23, steps=[[100_000, -100_000] * 12], begin=45)
def test_no_counts_hide_less_than_nothing(gaps, steps, begin):
    times = [begin + sum(gaps[:number]) for number in range(len(gaps) + 1)]
    stations = [[20 + sum(station[:number]) for number in range(len(times))] for station in steps]
    with database() as connection:
        counts = dict(zip(times, zip(*stations, strict=True), strict=True))
        for estimate, low, high, _ in estimated_on(connection, FIRST_DAY, counts):
            assert estimate is None or 0 <= low <= high
        hidden = connection.execute("SELECT departures_unseen, arrivals_unseen FROM day_flows").fetchall()
        assert all(part is None or 0 <= part < 1e6 for row in hidden for part in row)


@pytest.mark.parametrize("jumps", [range(480, 1200), range(480, 600)], ids=["twelve hours", "two hours"])
def test_a_station_that_jumps_costs_its_own_figures_only(jumps):
    counts = counts_of(poisson_day([0.02] * 10), 1)
    jumping = {time: [*bikes, 1000 if time in jumps and time % 2 else 0] for time, bikes in counts.items()}
    assert estimated(jumping)[:10] == estimated(counts)


def test_an_interval_is_wider_where_more_is_hidden():
    day = poisson_day([0.01, 0.04])
    (quiet, busy), (quiet_seldom, busy_seldom) = (estimated(counts_of(day, every)) for every in (1, 10))
    widths = [high - low for _, low, high, _ in (quiet, busy, busy_seldom)]
    assert widths == sorted(set(widths))
    assert quiet_seldom[2] - quiet_seldom[1] > widths[0]


def test_flickers_of_the_feed_are_no_departures():
    quiet = Day([[600.0, 601.0]] * 20, [[700.0, 701.0]] * 20)
    counts = counts_of(quiet, 1)
    for number in range(20):
        for minute in range(30 + number, 300, 30):  # by night, away in one snapshot
            counts[minute][number] -= 1
    found = estimated(counts)
    assert all(least == 2 + 9 for *_, least in found)
    assert all(abs(departures - 2) < 0.8 for departures, *_ in found)


def test_an_outage_hides_departures_and_widens_the_interval():
    day = poisson_day([0.02] * 10)
    found, whole = estimated(counts_of(day, 5, lambda minute: not 600 <= minute < 780)), estimated(counts_of(day, 5))
    assert abs(sum(row[0] for row in found) / sum(day.departures) - 1) < 0.1
    assert sum(row[3] for row in found) < 0.9 * sum(row[3] for row in whole)
    assert sum(row[2] - row[1] for row in found) > sum(row[2] - row[1] for row in whole)
    assert covered(found, day) >= 0.8


def test_nothing_moves_at_a_station_without_a_change():
    assert estimated(counts_of(Day([[]], [[]]), 5)) == [(0, 0, 0, 0)]


@pytest.mark.parametrize("every", [16, 20, 60])
def test_departures_are_unknown_if_snapshots_are_too_far_apart(every):
    found = estimated(counts_of(poisson_day([0.02] * 3), every))
    assert [row[:3] for row in found] == [(None, None, None)] * 3


def test_departures_are_unknown_after_an_outage_that_nothing_beside_it_explains():
    day = poisson_day([0.02] * 3)
    assert all(row[0] is None for row in estimated(counts_of(day, 5, lambda minute: not 480 <= minute < 840)))
    rare = counts_of(day, 5, lambda minute: minute % 60 < 25)  # 20 minutes of each hour
    assert all(row[0] is None for row in estimated(rare))


def test_known_rentals_are_exact():
    day = poisson_day([0.02, 0.0])
    at = [MIDNIGHT + timedelta(minutes=minute) for minute in sorted(day.left[0])]
    ends = {"station_id": ["000"] * len(at), "moved_at": at, "departures": [1] * len(at), "arrivals": [0] * len(at)}
    true = len(at)
    found = estimated(counts_of(day, 5), pa.table(ends))
    assert [row[:3] for row in found] == [(true, true, true), (0, 0, 0)]
    assert found[0][3] < true


def city_of_swaps(rates: Iterable[float], seed: int) -> Day:
    """Stations at which half of the riders who return a bike meet one who takes it at once, which no count shows."""
    day, draw = poisson_day(rates, seed), random.Random(seed + 100)
    for left, came in zip(day.left, day.came, strict=True):
        swaps = [draw.uniform(0, DAY_MIN - 1) for _ in range(len(came) // 2)]
        left.extend(t + 0.2 for t in swaps)
        came.extend(swaps)
    return day


def test_days_with_known_bikes_say_what_counts_hide_in_this_city():
    rates = [0.02 + 0.0025 * number for number in range(20)]
    days = [FIRST_DAY + timedelta(days=number) for number in range(7)]
    found, errors = [], []
    with database() as connection:
        for seed, dt in enumerate(days):
            day = city_of_swaps(rates, seed)
            is_known = dt != days[-1]
            rows = estimated_on(connection, dt, counts_of(day, 5), known_ends(day, dt) if is_known else None)
            errors.append(sum(row[0] for row in rows) / sum(day.departures) - 1)
            found.append(covered(rows, day))
        by_default = estimated(counts_of(day, 5))
        fits = connection.execute(
            "SELECT dt, days, factor_before, factor, error, error_default FROM wrm_analytics.mv_departures_fit "
            "ORDER BY dt"
        ).fetchall()
    assert [row[:2] for row in fits] == [(dt, number + 1) for number, dt in enumerate(days[:-1])]
    assert [row[3] == 1 for row in fits] == [True] * 4 + [False] * 2, "too few days say nothing"
    assert fits[-1][2] == fits[-2][3] > 1.5
    assert abs(fits[-1][4]) < 0.06 < 0.25 < -fits[-1][5]
    # The day whose bikes are not known follows them.
    assert abs(errors[-1]) < 0.06
    assert sum(row[0] for row in by_default) / sum(day.departures) - 1 < -0.25
    assert found[-1] >= 0.75


def test_old_days_do_not_count():
    day = city_of_swaps([0.03, 0.05], 1)
    later = FIRST_DAY + timedelta(days=40)
    with database() as connection:
        for number in range(5):
            dt = FIRST_DAY + timedelta(days=number)
            estimated_on(connection, dt, counts_of(day, 5), known_ends(day, dt))
        assert estimated_on(connection, later, counts_of(day, 5)) == estimated(counts_of(day, 5))
