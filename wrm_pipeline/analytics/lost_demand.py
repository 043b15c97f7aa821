"""The rows of mv_lost_demand of a day, from its enhanced rows and from the tables of the days before."""

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wrm_pipeline.analytics.registry.latest import PROFILE_DAYS
from wrm_pipeline.analytics.registry.local_time import LOCAL_HOUR_SQL, ZONE, in_local_time
from wrm_pipeline.analytics.registry.planner import RIDES_SHARE
from wrm_pipeline.analytics.registry.staging import MAX_STEP_MINUTES
from wrm_pipeline.domain.full_and_empty import EMPTY_SQL
from wrm_pipeline.domain.lost_demand import (
    HOURS,
    LOST_DEMAND_VERSION,
    Floats,
    Traffic,
    range_of,
    rates_of,
)

if TYPE_CHECKING:
    import duckdb

# So many bikes that leave at once, or fewer that leave none behind, are a van's or a fault of the feed: of real
# departures, 1 % are like this.
_MANY, _ALL = 4, 2
# Rentals, as mv_flows estimates them, for each departure that a station's counts show; more of them would be an error.
_MOST_RENTALS = 3

# The day's intervals between snapshots: bikes that left and came, and whether riders may have done that.
_STEPS_SQL = f"""
CREATE OR REPLACE TEMP TABLE day_steps AS
WITH ticks AS (
    -- Comparing and rounding instants takes several times as long as numbers.
    SELECT file_timestamp, hour_start, epoch_us(file_timestamp) AS tick FROM day_snapshots
)
SELECT
    *, change <= -{_MANY} OR (change <= -{_ALL} AND bikes + change = 0) AS is_removal,
    change >= {_MANY} OR (change >= {_ALL} AND bikes = 0) AS is_delivery
FROM (
    SELECT
        station_id, tick, hour_start, bikes, {EMPTY_SQL} AS empty, lead(bikes) OVER one - bikes AS change,
        (lead(tick) OVER one - tick) / 6e7 AS minutes
    FROM day_rows JOIN ticks USING (file_timestamp) WHERE record_type = 'station'
    WINDOW one AS (PARTITION BY station_id ORDER BY tick)
)
WHERE minutes <= {MAX_STEP_MINUTES}
"""

_HOURS_SQL = f"""
SELECT
    *, $dt::DATE AS dt, {LOCAL_HOUR_SQL} AS local_hour, minutes / 60 AS seen_h,
    (minutes - minutes_empty) / 60 AS with_bikes_h
FROM (
    SELECT
        station_id, hour_start, sum(minutes) AS minutes, coalesce(sum(minutes) FILTER (empty), 0) AS minutes_empty,
        coalesce(sum(-change) FILTER (change < 0 AND NOT is_removal), 0) * {RIDES_SHARE}
            * least(coalesce(any_value(rentals), 1), {_MOST_RENTALS}) AS departures,
        coalesce(sum(change) FILTER (change > 0 AND NOT is_delivery), 0) AS arrivals
    FROM day_steps LEFT JOIN (
        SELECT station_id, sum(departures_estimate) / nullif(sum(departures), 0) AS rentals
        FROM wrm_analytics.mv_flows WHERE dt = $dt GROUP BY station_id
    ) USING (station_id)
    GROUP BY station_id, hour_start
)
ORDER BY station_id, hour_start
"""

# Departures and arrivals by rides, where bikes are known, of the days from $since on.
_RIDES_SQL = f"""
WITH rides AS (
    FROM wrm_analytics.mv_rides WHERE dt BETWEEN $since AND $dt AND kind = 'ride'
), ends AS (
    SELECT left_station_id AS station_id, left_at AS seen_at, 1 AS departures, 0 AS arrivals FROM rides
    WHERE NOT EXISTS (
        FROM day_steps WHERE is_removal AND station_id = left_station_id
            AND abs(epoch_us(left_at) - tick) <= 6e7
    )
    UNION ALL
    SELECT arrived_station_id, arrived_at, 0, 1 FROM rides
)
SELECT
    station_id, CAST(timezone('{ZONE}', seen_at) AS DATE) AS dt, hour(timezone('{ZONE}', seen_at)) AS local_hour,
    sum(departures) AS departures, sum(arrivals) AS arrivals
FROM ends WHERE station_id IS NOT NULL GROUP BY ALL
"""

# Earlier days, by counts.
_PAST_SQL = f"""
SELECT
    station_id, dt, local_hour, departures_estimate * {RIDES_SHARE} AS departures, arrivals,
    snapshots / max(snapshots) OVER (PARTITION BY dt, hour_start)
        AS seen_h, seen_h * (1 - share_empty) AS with_bikes_h
FROM wrm_analytics.mv_station_hourly JOIN wrm_analytics.mv_flows USING (dt, hour_start, local_hour, station_id)
WHERE dt BETWEEN $since AND $dt - 1 AND departures_estimate IS NOT NULL
"""


RULES = (_STEPS_SQL, _HOURS_SQL, _RIDES_SQL, _PAST_SQL, LOST_DEMAND_VERSION)


def lost_demand_of(connection: "duckdb.DuckDBPyConnection", dt: date) -> pa.Table:
    """The rows of a day, whose enhanced rows are in `day_rows`; none if no two snapshots are close to each other."""
    profile = {"since": dt - timedelta(days=PROFILE_DAYS), "dt": dt}
    connection.execute(in_local_time(_STEPS_SQL))
    hours = connection.execute(in_local_time(_HOURS_SQL), {"dt": dt}).to_arrow_table()
    past = connection.execute(_PAST_SQL, profile).to_arrow_table()
    rides = connection.execute(in_local_time(_RIDES_SQL), profile).to_arrow_table()
    stations = pa.chunked_array(
        [*past["station_id"].chunks, *hours["station_id"].chunks, *rides["station_id"].chunks], pa.string()
    ).unique()
    rates = rates_of(_traffic(stations, past, hours, rides, dt))

    lost = hours.filter(pc.greater(hours["minutes_empty"], 0))
    cells = _codes(lost["station_id"], stations), _integers(lost["local_hour"])
    mean = rates.mean[cells] * _floats(lost["minutes_empty"]) / 60
    low, high = range_of(mean, rates.shape[cells])
    return pa.table(
        {
            "dt": pa.repeat(pa.scalar(dt, pa.date32()), lost.num_rows),
            **{name: lost[name] for name in ("hour_start", "local_hour", "station_id")},
            "minutes_empty": np.round(_floats(lost["minutes_empty"]), 1),
            "departures_lost": np.round(mean, 2),
            "departures_lost_lo": low.astype(np.int32),
            "departures_lost_hi": high.astype(np.int32),
        }
    )


def _traffic(stations: pa.Array, past: pa.Table, hours: pa.Table, rides: pa.Table, dt: date) -> Traffic:
    """The traffic by station, day and hour; `dt` is the last day.

    In hours in which anybody rode, where bikes are known, rides take the place of counts.
    """
    days = pa.array(sorted({*past["dt"].unique().to_pylist(), dt}), pa.date32())
    shape = (len(stations), len(days), HOURS)
    counted, ridden = (np.zeros((2, *shape)) for _ in range(2))
    time = np.zeros((2, *shape))
    for table in (past, hours, rides):
        cells = _codes(table["station_id"], stations), _codes(table["dt"], days), _integers(table["local_hour"])
        flows = ridden if table is rides else counted
        for number, name in enumerate(("departures", "arrivals")):
            np.add.at(flows[number], cells, _floats(table[name]))
        if table is not rides:
            for number, name in enumerate(("with_bikes_h", "seen_h")):
                np.add.at(time[number], cells, _floats(table[name]))
    known = ridden.sum((0, 1)) > 0
    departures, arrivals = np.where(known, ridden, counted)
    is_free_day = np.array([day.isoweekday() > 5 for day in days.to_pylist()])
    return Traffic(departures, arrivals, time[0], time[1], is_free_day)


def _codes(column: pa.ChunkedArray, of: pa.Array) -> NDArray[np.int64]:
    return _integers(pc.index_in(column, of))


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    values: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    return values


def _floats(column: pa.ChunkedArray) -> Floats:
    values: Floats = column.cast(pa.float64()).to_numpy()
    return values
