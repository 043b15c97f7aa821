from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from wrm_pipeline.domain.forecast.counts import MAX_GAP_STEPS, STEP, counts_of

WARSAW = ZoneInfo("Europe/Warsaw")
NOON = datetime(2025, 6, 4, 10, tzinfo=UTC)


def rows(*seen: tuple[str, datetime, int]) -> pa.Table:
    return pa.table(
        {
            "station_id": pa.array([station for station, _, _ in seen]).dictionary_encode(),
            "lat": [51.1] * len(seen),
            "lon": [17.0] * len(seen),
            "bikes": pa.array([bikes for _, _, bikes in seen], pa.int32()),
            "spaces": pa.array([10 - bikes for _, _, bikes in seen], pa.int32()),
            "total_docks": pa.array([10] * len(seen), pa.int32()),
            "file_timestamp": pa.array([at for _, at, _ in seen], pa.timestamp("us", "UTC")),
            "record_type": pa.array(["bike" if station.startswith("fb") else "station" for station, _, _ in seen]),
        }
    )


def test_a_step_has_the_newest_count_that_is_not_later() -> None:
    table = rows(
        ("2", NOON, 4),
        ("1", NOON + timedelta(minutes=1), 1),
        ("1", NOON + timedelta(minutes=5), 3),
        ("1", NOON + timedelta(minutes=4), 2),
        ("1", NOON + timedelta(minutes=6), 9),
        ("fb7", NOON, 1),
    )
    counts = counts_of([table.slice(0, 2), table.slice(2)], NOON, NOON + STEP, zone=WARSAW)

    assert counts.stations.ids == ("1", "2")
    np.testing.assert_array_equal(counts.bikes, [[np.nan, 4], [3, 4]])
    np.testing.assert_array_equal(counts.full, [[np.nan, 0], [0, 0]])


def test_a_station_that_is_missing_for_longer_is_unknown() -> None:
    end = NOON + (MAX_GAP_STEPS + 2) * STEP
    counts = counts_of([rows(("1", NOON, 4), ("1", end, 5))], NOON, end, zone=WARSAW)

    np.testing.assert_array_equal(counts.bikes[:, 0], [4] * (MAX_GAP_STEPS + 1) + [np.nan, 5])


def test_nothing_known_is_a_grid_without_stations() -> None:
    counts = counts_of([], NOON, NOON + STEP, zone=WARSAW)

    assert counts.bikes.shape == (2, 0)


@pytest.mark.parametrize(("day", "hours"), [(date(2025, 3, 30), 23), (date(2025, 10, 26), 25), (date(2025, 6, 4), 24)])
def test_the_clock_of_a_day_is_the_local_one(day: date, hours: int) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=WARSAW).astimezone(UTC)
    steps = hours * 12
    counts = counts_of([], midnight, midnight + (steps - 1) * STEP, zone=WARSAW)

    assert set(counts.day) == {day.toordinal()}
    assert (counts.step_of_day[0], counts.step_of_day[-1]) == (0, 287)
    assert counts.step_of_day[4 * 12] == (4 + 24 - hours) * 12


def test_weekends_and_holidays_are_free_days() -> None:
    friday = datetime(2025, 6, 20, 10, tzinfo=UTC)
    days = [friday + timedelta(days=number) for number in range(4)]
    found = [
        counts_of([], day, day, zone=WARSAW, is_holiday=lambda on: on == date(2025, 6, 23)).is_free_day[0]
        for day in days
    ]

    assert found == [False, True, True, True]
