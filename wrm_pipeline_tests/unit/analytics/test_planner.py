"""The planner's tables, from days of a simulated city in which a station is emptied by hand."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake

WEDNESDAY, THURSDAY, SATURDAY = (date(2026, 3, day) for day in (25, 26, 28))
STATION = "15001"
# Ten to twelve, local time.
SINCE, UNTIL = (datetime(2026, 3, 26, hour, tzinfo=UTC) for hour in (9, 11))


def emptied(body: bytes, at: datetime) -> bytes:
    """The snapshot, with no bike at the station in these two hours."""
    lines = body.decode().splitlines()
    for number, line in enumerate(lines):
        if line.startswith(f"{STATION},") and SINCE <= at < UNTIL:
            before, bikes, *others = line.rsplit(",", 8)
            assert bikes.isdigit()
            lines[number] = ",".join([before, "0", *others])
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """Two working days and a Saturday, which are over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRM_DATA_DIR", str(tmp_path_factory.mktemp("planner") / "data"))
        history = History(Lake(load_settings()))
    for day in (WEDNESDAY, THURSDAY, SATURDAY):
        history.put(day, history.times(day, 10), emptied)
    history.refresh()
    return history


def test_an_emptied_station_has_lost_departures_with_a_range(history):
    rows = history.query(
        "SELECT hour_start, local_hour, minutes_empty, departures_lost, departures_lost_lo, departures_lost_hi "
        f"FROM wrm_analytics.mv_lost_demand WHERE dt = '{THURSDAY}' AND station_id = '{STATION}' "
        f"AND hour_start BETWEEN '{SINCE}' AND '{UNTIL - timedelta(hours=1)}' ORDER BY 1"
    )
    assert [row[:3] for row in rows] == [(SINCE, 10, 60), (SINCE + timedelta(hours=1), 11, 60)]
    assert all(lost > 0 and lo <= lost <= hi for *_, lost, lo, hi in rows)
    # What is taken away at once is not demand: the rate stays below the bikes that were there before.
    ((taken,),) = history.query(
        f"SELECT max(departures) FROM wrm_analytics.mv_flows WHERE dt = '{THURSDAY}' AND station_id = '{STATION}' "
        f"AND hour_start = '{SINCE}'"
    )
    assert rows[0][3] < taken


def test_lost_demand_has_a_row_for_each_hour_with_an_empty_station_and_no_other(history):
    lost = history.query("SELECT dt, hour_start, station_id FROM wrm_analytics.mv_lost_demand")
    empty = history.query(
        "SELECT dt, hour_start, station_id FROM wrm_analytics.mv_station_hourly WHERE share_empty > 0"
    )
    assert sorted(lost) == sorted(empty)


def test_usual_hours_and_imbalance_are_means_over_the_days_of_a_kind(history):
    hours, flows = defaultdict(list), defaultdict(list)
    for dt, hour, station, share in history.query(
        "SELECT dt, local_hour, station_id, share_empty FROM wrm_analytics.mv_station_hourly"
    ):
        hours[station, hour, dt == SATURDAY].append(60 * share)
    for dt, hour, station, change in history.query(
        "SELECT dt, local_hour, station_id, arrivals - departures FROM wrm_analytics.mv_flows"
    ):
        flows[station, hour, dt == SATURDAY].append(change)
    for table, value, expected in (("mv_station_hours", "minutes_empty", hours), ("mv_imbalance", "imbalance", flows)):
        found = history.query(f"SELECT station_id, local_hour, free_day, days, {value} FROM wrm_analytics.{table}")
        assert {tuple(row[:3]): row[3] for row in found} == {key: len(values) for key, values in expected.items()}
        assert all(row[4] == pytest.approx(sum(v := expected[tuple(row[:3])]) / len(v), abs=0.006) for row in found)


def test_turnover_by_counts_is_an_estimate_and_says_so(history):
    rows = history.query("FROM wrm_analytics.mv_turnover ORDER BY dt")
    assert [(row[0], row[4]) for row in rows] == [(day, "counts") for day in (WEDNESDAY, THURSDAY, SATURDAY)]
    assert all(
        bikes > 0 and per_bike == pytest.approx(rides / bikes, abs=0.006) for _, bikes, rides, per_bike, _ in rows
    )


def lost_on_thursday(history: History) -> float:
    sql = f"SELECT sum(departures_lost) FROM wrm_analytics.mv_lost_demand WHERE dt = '{THURSDAY}'"
    return history.query(sql)[0][0]


def test_nothing_is_concluded_from_snapshots_that_are_too_far_apart(lake, monkeypatch, tmp_path):
    history = History(lake)
    history.put(WEDNESDAY, history.times(WEDNESDAY, 20))
    history.put(THURSDAY, history.times(THURSDAY, 10), emptied)
    history.refresh()
    departures = history.query(
        "SELECT DISTINCT departures, departures_lo, departures_hi, hours_seen FROM wrm_analytics.mv_departures "
        f"WHERE dt = '{WEDNESDAY}'"
    )
    assert departures == [(None, None, None, 0)]
    flows = history.query(
        f"SELECT DISTINCT departures_estimate, arrivals_lo FROM wrm_analytics.mv_flows WHERE dt = '{WEDNESDAY}'"
    )
    assert flows == [(None, None)]
    turnover = history.query("SELECT rides, rides_per_bike, bikes > 0 FROM wrm_analytics.mv_turnover ORDER BY dt")
    assert turnover[0] == (None, None, True)
    assert turnover[1][0] > 0
    # A day that says nothing is not a day without rides.
    monkeypatch.setenv("WRM_DATA_DIR", str(tmp_path / "alone"))
    alone = History(Lake(load_settings()))
    alone.put(THURSDAY, alone.times(THURSDAY, 10), emptied)
    alone.refresh()
    assert lost_on_thursday(history) == lost_on_thursday(alone) > 0


def test_today_is_made_again_once_an_hour_and_the_profile_once_a_day(lake):
    history = History(lake)
    history.put(WEDNESDAY, history.times(WEDNESDAY, 360))
    history.now = datetime(2026, 3, 26, 11, 10, tzinfo=UTC)
    times = [at for at in history.times(THURSDAY, 10) if at < history.now]

    def changed(snapshots: list[datetime]) -> set[str]:
        history.put(THURSDAY, snapshots)
        history.refresh()
        sql = f"SELECT table_name FROM wrm_analytics.mv_refreshes WHERE refreshed_at = '{history.now}'"
        return {name for (name,) in history.query(sql)}

    every = {"mv_lost_demand", "mv_turnover", "mv_station_hours", "mv_imbalance"}
    assert changed(times[:-1]) > every
    assert "mv_flows" in (later := changed(times[-1:]))
    assert not later & every
    history.now += timedelta(hours=1)
    assert changed([history.now]) & every == {"mv_lost_demand", "mv_turnover"}
