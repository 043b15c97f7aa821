"""Rides, relocations and flickers: each rule, and a noisy city with known truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from wrm_pipeline.domain.bike_positions import (
    Answer,
    PositionsState,
    build_positions,
    plan_positions,
    read_positions,
)
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.rides import PositionedDay, rides_of
from wrm_pipeline.domain.schemas import BIKE_POSITIONS, arrow_schema
from wrm_pipeline_tests.fixtures.noisy_city import DAY as DAY_S
from wrm_pipeline_tests.fixtures.noisy_city import NoisyCity

DAY = date(2025, 8, 21)
START = datetime(2025, 8, 21, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
A, B, C = ("15001", 51.1000, 17.0300), ("15002", 51.1100, 17.0300), ("15003", 51.1200, 17.0300)  # 1,112 m apart
BESIDE_A, FAR = (None, 51.1010, 17.0300), (None, 51.5000, 17.0300)

Place = tuple[str | None, float, float]


def day_of(stays: Iterable[tuple[Any, ...]], dt: date = DAY, last: int = 1439) -> PositionedDay:
    """A day's positions of (bike, place, first minute, last minute or None)."""
    midnight = START + (dt - DAY)
    rows = [
        (
            str(bike_id),
            *place,
            midnight + first * MINUTE,
            None if until is None else midnight + until * MINUTE,
            "",
            None,
            "operator",
        )
        for bike_id, place, first, until in stays
    ]
    rows.sort(key=lambda row: (row[0], row[4]))
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=arrow_schema(BIKE_POSITIONS))
    first_micros = round(midnight.timestamp() * 1e6)
    return PositionedDay(dt, table, first_micros, first_micros + last * 60_000_000)


def kinds(*stays: tuple[Any, ...]) -> list[str]:
    return rides_of([day_of(stays)], DAY)["kind"].to_pylist()


def test_a_ride_has_the_columns_of_the_contract():
    (ride,) = rides_of([day_of([(1, A, 0, 600), (1, B, 606, None)])], DAY).to_pylist()
    assert ride == {
        "bike_id": "1",
        "left_at": START + 600 * MINUTE,
        "left_station_id": "15001",
        "left_lat": 51.1,
        "left_lon": 17.03,
        "arrived_at": START + 606 * MINUTE,
        "arrived_station_id": "15002",
        "arrived_lat": 51.11,
        "arrived_lon": 17.03,
        "duration_s": 360,
        "distance_m": 1112,
        "kind": "ride",
    }


@pytest.mark.parametrize(
    ("stays", "expected"),
    [
        ([(1, A, 0, 600), (1, A, 602, None)], ["same_place"]),
        ([(1, A, 0, 600), (1, A, 640, None)], ["same_place"]),
        # The station and the pavement beside it.
        ([(1, A, 0, 600), (1, BESIDE_A, 603, None)], ["flicker"]),
        ([(1, A, 0, 600), (1, BESIDE_A, 620, None)], ["ride"]),
        # Two places in consecutive snapshots, and back.
        ([(1, A, 0, 600), (1, FAR, 601, 601), (1, A, 602, None)], ["flicker", "flicker"]),
        ([(1, A, 0, 600), (1, B, 601, 640), (1, A, 641, None)], ["flicker", "flicker"]),
        # Faster than any rider, and no flicker: it stays.
        ([(1, A, 0, 600), (1, C, 603, None)], ["relocation"]),
        # Out of use for a day's half.
        ([(1, A, 0, 300), (1, B, 1200, None)], ["relocation"]),
    ],
)
def test_one_bikes_moves(stays, expected):
    assert kinds(*stays) == expected


def test_a_flicker_before_a_departure_or_after_an_arrival_does_not_change_the_ride():
    stays = [(1, A, 0, 600), (1, FAR, 601, 602), (1, (None, 51.6, 17.0), 612, 612), (1, B, 613, None)]
    rows = rides_of([day_of(stays)], DAY).to_pylist()
    assert [row["kind"] for row in rows] == ["flicker", "ride", "flicker"]
    ride = rows[1]
    assert (ride["left_station_id"], ride["arrived_station_id"]) == ("15001", "15002")
    assert (ride["left_at"], ride["arrived_at"]) == (START + 602 * MINUTE, START + 612 * MINUTE)


def test_many_bikes_in_one_move_are_a_relocation_and_friends_are_not():
    def move(count: int) -> list[str]:
        stays = [(n, A, 0, 600 + n % 2) for n in range(count)] + [(n, B, 607 + n % 2, None) for n in range(count)]
        return kinds(*stays)

    assert set(move(4)) == {"ride"}
    assert set(move(6)) == {"relocation"}


def test_bikes_that_vanish_together_from_a_station_were_left_out_by_the_feed():
    assert set(kinds(*[(n, A, first, last) for n in range(6) for first, last in ((0, 600), (603, None))])) == {
        "flicker"
    }


def test_a_depot_is_where_many_bikes_stand_for_long():
    depot: Place = (None, 51.16, 17.09)
    stays = [(n, depot, 0, None) for n in range(10, 22)]
    assert kinds((1, A, 0, 60), (1, depot, 100, None), *stays) == ["relocation"]
    assert kinds((1, A, 0, 60), (1, depot, 100, None)) == ["ride"]


def test_a_van_goes_far_takes_what_nobody_rides_and_is_fast():
    far: Place = ("15004", 51.1540, 17.0300)  # 6 km
    assert kinds((1, A, 0, 600), (1, far, 617, None)) == ["relocation"]  # 21 km/h
    assert kinds((1, A, 0, 600), (1, far, 630, None)) == ["ride"]  # 12 km/h


def test_what_is_away_for_21_minutes_is_a_ride_unless_it_goes_far_or_outside_or_the_bike_stood_for_hours():
    near, far, outside = ("15005", 51.1270, 17.03), ("15006", 51.1450, 17.03), (None, 51.1270, 17.0300)  # 3 and 5 km

    def kind(place: Place, idle_min: int, away_min: int = 21) -> str:
        arrives = 600 + away_min
        stays = [(1, C, 0, 600 - idle_min - 30), (1, A, 600 - idle_min, 600), (1, place, arrives, arrives + 700)]
        return kinds(*stays)[1]

    assert kind(near, 50) == "ride"
    assert kind(near, 300) == "relocation"
    assert kind(outside, 50) == "relocation"
    assert kind(far, 5) == "relocation"
    assert {kind(place, 300, away) for place in (near, outside) for away in (20, 22)} == {"ride"}


def test_a_long_absence_beside_a_stay_of_one_snapshot_is_no_single_ride():
    def kind(left: int, away_min: int) -> str:
        arrives = left + away_min
        return kinds((1, C, 0, 590), (1, A, 600, left), (1, B, arrives, arrives + 100), (1, A, 1200, None))[1]

    assert kind(600, 30) == "relocation"
    assert {kind(601, 30), kind(600, 15), kind(600, 50)} == {"ride"}


def test_a_ride_over_midnight_is_a_row_of_the_day_of_arrival():
    before = day_of([(1, A, 0, 1435), (2, B, 0, None)], DAY)
    after = day_of([(1, B, 5, 300), (1, C, 310, None), (2, B, 0, 100), (2, A, 108, None)], DAY + timedelta(days=1))
    assert rides_of([before, after], DAY).num_rows == 0
    rows = rides_of([before, after], DAY + timedelta(days=1)).to_pylist()
    assert [(row["bike_id"], row["left_station_id"], row["arrived_station_id"], row["kind"]) for row in rows] == [
        ("1", "15001", "15002", "ride"),
        ("1", "15002", "15003", "ride"),
        ("2", "15002", "15001", "ride"),
    ]
    assert rows[0]["left_at"] == START + 1435 * MINUTE


def test_a_bike_that_leaves_at_midnight_left_at_the_last_snapshot_of_the_day():
    before = day_of([(1, A, 0, None)], DAY)
    after = day_of([(1, B, 7, None)], DAY + timedelta(days=1))
    (row,) = rides_of([before, after], DAY + timedelta(days=1)).to_pylist()
    assert (row["left_at"], row["duration_s"]) == (START + 1439 * MINUTE, 480)


def test_the_day_after_tells_a_flicker_from_an_arrival():
    day = day_of([(1, A, 0, 1437), (1, FAR, 1438, None)], DAY)
    following = day_of([(1, FAR, 0, 0), (1, A, 1, None)], DAY + timedelta(days=1))
    assert rides_of([day, following], DAY)["kind"].to_pylist() == ["flicker"]
    assert rides_of([day, following], DAY + timedelta(days=1))["kind"].to_pylist() == ["flicker"]


def test_without_positions_there_are_no_rides():
    empty = PositionedDay(DAY, arrow_schema(BIKE_POSITIONS).empty_table(), None, None)
    assert rides_of([empty], DAY).num_rows == 0
    assert rides_of([], DAY).num_rows == 0


# --- a noisy city ---


def positions_of(city: NoisyCity) -> list[PositionedDay]:
    bodies = {str(now).zfill(9): (round((START.timestamp() + now) * 1e6), body) for now, body in city.answers()}
    found = []
    for number in range(city.days):
        answers = [Answer(key, "", at) for key, (at, _) in bodies.items() if int(key) // DAY_S == number]
        plan = plan_positions(answers, None)
        read = ((each.key, bodies[each.key][1]) for each in plan.read)
        build = build_positions(plan, None, read, build_id="test")
        parts = ParquetParts.open(build.data)
        state = PositionsState.of(parts)
        assert state is not None
        dt = DAY + timedelta(days=number)
        found.append(PositionedDay(dt, read_positions(parts), state.first, state.last))
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_rides_of_a_noisy_city_are_found(seed):
    city = NoisyCity(seed)
    days = positions_of(city)
    rows = [row for day in days for row in rides_of(days, day.dt).to_pylist()]
    counted = Counter(row["kind"] for row in rows)

    def seconds(at: datetime) -> float:
        return (at - START).total_seconds()

    called = {
        (
            int(row["bike_id"]),
            row["left_station_id"] or "",
            row["arrived_station_id"] or "",
            kind,
            seconds(row["left_at"]),
        )
        for row in rows
        if (kind := row["kind"]) in {"ride", "relocation"}
    }

    def is_called(move: Any, kind: str) -> bool:
        ends = (move.bike, str(move.start or ""), str(move.end or ""), kind)
        return any(found[:4] == ends and abs(found[4] - move.left) <= 120 for found in called)

    rides = [move for move in city.moves if move.kind == "ride" and move.arrived - move.left > 120]
    vans = [move for move in city.moves if move.kind == "relocation"]
    recall = sum(is_called(move, "ride") for move in rides) / len(rides)
    true = sum(is_called(move, "ride") for move in city.moves if move.kind == "ride")
    false = [row for row in rows if row["kind"] == "ride" and not any(_fits(move, row) for move in city.moves)]
    flickers_called = sum(
        any(int(row["bike_id"]) == number and abs(seconds(row["left_at"]) - since) <= 60 for row in false)
        for number, since, _ in city.flickers
    )

    assert len(rides) > 1000
    assert len(city.flickers) > 50
    assert len(vans) > 20
    assert recall >= 0.95
    assert true / counted["ride"] >= 0.985
    assert sum(is_called(move, "ride") for move in vans) <= len(vans) / 3
    assert flickers_called <= 0.05 * len(city.flickers)


def _fits(move: Any, row: dict[str, Any]) -> bool:
    left = (row["left_at"] - START).total_seconds()
    return move.bike == int(row["bike_id"]) and move.kind == "ride" and abs(move.left - left) <= 120
