"""Departures and arrivals with a range: what the counts of a day show of them, and what a snapshot hides.

Two snapshots show the difference of what left and what came in between. Their minimum is in the counts; the rest is
estimated from the traffic at the station in that hour and the interval between its snapshots. docs/answers.md explains
the formula and how its figures were fitted: on four working days of real rides, at intervals of 1 to 15 minutes.
"""

from wrm_pipeline.analytics.registry.columns import DT, STATION_ID
from wrm_pipeline.analytics.registry.local_time import hour_of
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.analytics.registry.staging import MAX_STEP_MINUTES
from wrm_pipeline.domain import asset_names

# A tenth of the rentals fail: the bike is back within 2 minutes. Their durations are those of a gamma distribution with
# shape 2 and this scale in minutes.
FAILED_SHARE = 0.106
FAILED_SCALE_MIN = 0.37
# Departures and arrivals meet within an interval more often than those of independent Poisson processes, the more so
# the shorter it is (a rider returns a bike and takes another): by this at 1 minute, times its power of the interval.
MEETING, MEETING_POWER = 2.12, -0.16
# What two Poisson processes hide grows with the seen rates: exactly, from 0.5 (one is rare) to 0.7 (both are equal) of
# their sum in an interval; above this sum it is not extrapolated.
SKELLAM_SLOPE, SKELLAM_MOST = 0.65, 3
# A station's hour is believed as if it came on top of so many departures spread like those of the city's day.
PRIOR_DEPARTURES = 6
# A bike that is away in one snapshot only: of the departures, and of departures × arrivals / snapshots. What exceeds
# that in the city's hour are flickers of the feed, by night most of all.
BACK_OF_DEPARTURES, BACK_OF_MEETINGS = 0.025, 0.56
BACK_OF_MEETINGS_1_MIN = 0.25
# What the city's own days say instead of MEETING: from so many days with known bikes on, the newest of them within so
# many days. A day's factor is uncertain by 10 to 15 %, which is 1 to 2 % of its departures at an interval of a minute.
MIN_KNOWN_DAYS, FIT_DAYS = 5, 28
# Half the width of the 90 % interval, beside the square root of the bikes that are estimated rather than seen.
HALF_WIDTH = 2.8
# More than so many that leave, or come, within each interval of an hour are no riders but a feed that jumps, and say
# nothing of those that are hidden: of 100,000 bikes each minute, the estimate would be 10^13 a day. The busiest hour of
# a station on the reference days has 28. A station with more at once on a day has no part in the city's shape of that
# day, from which other stations' hidden ones are estimated.
MOST_AT_ONCE = 50

_MAX_US = MAX_STEP_MINUTES * 60_000_000
_STEP_SEEN = f"gone <= {_MAX_US}"
# For a step of a second the terms cancel out but for their rounding.
_FAILED_UNSEEN = (
    f"{FAILED_SHARE} * greatest(0, 1 - {2 * FAILED_SCALE_MIN} / step "
    f"+ exp(-step / {FAILED_SCALE_MIN}) * (1 + {2 * FAILED_SCALE_MIN} / step))"
)


def _at_most(rate: str) -> str:
    # A rate is null where it is unknown, which `least` alone would pass over.
    return f"{rate} * least(1, {MOST_AT_ONCE} / (step * {rate}))"


# A row for each station and hour between its first snapshot of the day and its last one. `departures_min` and
# `arrivals_min` are what counts show at least, `departures` and `arrivals` the estimates, `…_unseen` the part of an
# estimate that no snapshot shows. An hour without a change to look at has `steps` = 0. Estimates are null where there
# is nothing to make them from: no interval of up to 15 minutes within two hours, or for most of the station's day.
DAY_FLOWS_SQL = f"""
WITH ticks AS (
    SELECT file_timestamp, hour_start, epoch_us(file_timestamp) AS tick FROM day_snapshots
), steps AS MATERIALIZED (
    SELECT
        hour_start, station_id, tick, bikes - lag(bikes) OVER one AS change, tick - lag(tick) OVER one AS gone
    FROM day_rows JOIN ticks USING (file_timestamp) WHERE record_type = 'station'
    WINDOW one AS (PARTITION BY station_id ORDER BY tick)
), backs AS (
    -- Bikes that leave and are back in the next snapshot.
    SELECT
        hour_start, station_id, CASE WHEN change < 0 AND lead(tick - gone) OVER one = tick
            THEN least(-change, greatest(lead(change) OVER one, 0)) ELSE 0 END AS back
    FROM steps WHERE change <> 0 AND {_STEP_SEEN} WINDOW one AS (PARTITION BY station_id ORDER BY tick)
), seen AS (
    SELECT
        hour_start, station_id, min(tick) AS first_seen, max(tick) AS last_seen, count(change) AS steps,
        coalesce(sum(-change) FILTER (change < 0 AND {_STEP_SEEN}), 0) AS departures,
        coalesce(sum(change) FILTER (change > 0 AND {_STEP_SEEN}), 0) AS arrivals,
        coalesce(sum(change) FILTER (NOT {_STEP_SEEN}), 0) AS gap_change,
        coalesce(sum(gone) FILTER ({_STEP_SEEN}), 0) / 6e7 AS minutes,
        coalesce(sum(gone::DOUBLE * gone) FILTER ({_STEP_SEEN}), 0) / 6e7 / 6e7 AS squares
    FROM steps GROUP BY hour_start, station_id
), jumping AS (
    SELECT station_id, coalesce(max(abs(change)), 0) > {MOST_AT_ONCE} AS jumps FROM steps GROUP BY station_id
), gaps AS (
    SELECT station_id, tick - gone AS since, tick AS until FROM steps WHERE NOT {_STEP_SEEN}
), hours AS (
    SELECT hour_start, epoch_us(hour_start) AS since, since + 3600000000 AS until
    FROM (SELECT unnest(generate_series(min(hour_start), max(hour_start), INTERVAL 1 HOUR)) AS hour_start FROM ticks)
), missing AS (
    SELECT station_id, hour_start,
        sum(least(gaps.until, hours.until) - greatest(gaps.since, hours.since)) / 6e7 AS missed
    FROM gaps JOIN hours ON gaps.since < hours.until AND gaps.until > hours.since
    GROUP BY station_id, hour_start
), typical AS (
    SELECT sum(squares) / nullif(sum(minutes), 0) AS step FROM seen
), counted AS (
    SELECT
        station_id, hour_start, coalesce(departures, 0) AS departures, coalesce(arrivals, 0) AS arrivals,
        coalesce(gap_change, 0) AS gap_change, coalesce(steps, 0) AS steps, coalesce(minutes, 0) AS minutes,
        coalesce(squares / nullif(minutes, 0), typical.step, 1) AS step, coalesce(back, 0) AS back,
        coalesce(missed, 0) AS missed
    FROM seen
    LEFT JOIN (SELECT hour_start, station_id, sum(back) AS back FROM backs GROUP BY ALL) USING (hour_start, station_id)
    FULL JOIN missing USING (hour_start, station_id), typical
), city AS (
    SELECT hour_start, sum(minutes) AS minutes, sum(departures) AS departures, sum(arrivals) AS arrivals,
        sum(back) AS back,
        {BACK_OF_DEPARTURES} * sum(departures) + sum(
            ({BACK_OF_MEETINGS} * minutes / steps + {BACK_OF_MEETINGS_1_MIN})
            * departures * arrivals / nullif(minutes, 0)
        ) AS back_expected
    FROM counted JOIN jumping USING (station_id)
    WHERE jumps = (SELECT bool_and(jumps) FROM jumping) GROUP BY hour_start
), flickering AS (
    SELECT hour_start, minutes, departures, arrivals, back,
        greatest(-0.5, least(1, 1 - back_expected / back)) AS flickers
    FROM (SELECT * REPLACE (nullif(back, 0) AS back) FROM city)
), rates AS (
    -- Of the mean station, in each minute; of the hours beside an hour without snapshots.
    SELECT
        hour_start, coalesce(flickers, 0) AS flickers,
        coalesce(left_ / nullif(minutes, 0), sum(left_) OVER near / nullif(sum(minutes) OVER near, 0)) AS leave,
        coalesce(came / nullif(minutes, 0), sum(came) OVER near / nullif(sum(minutes) OVER near, 0)) AS come
    FROM (
        -- A bike that leaves in this hour may be back in the next one.
        SELECT
            *, departures - coalesce(flickers * back, 0) AS left_,
            greatest(arrivals - coalesce(flickers * back, 0), 0) AS came
        FROM flickering
    )
    WINDOW near AS (
        ORDER BY hour_start RANGE BETWEEN INTERVAL 2 HOURS PRECEDING AND INTERVAL 2 HOURS FOLLOWING
    )
), stations AS (
    SELECT
        * EXCLUDE (leave, come),
        CASE WHEN is_seen THEN leave * coalesce(sum(left_) OVER own / nullif(sum(leave * minutes) OVER own, 0), 0) END
            AS leave,
        CASE WHEN is_seen THEN come * coalesce(sum(came) OVER own / nullif(sum(come * minutes) OVER own, 0), 0) END
            AS come
    FROM (
        SELECT
            counted.*, leave, come, departures - coalesce(flickers, 0) * back AS left_,
            greatest(arrivals - coalesce(flickers, 0) * back, 0) AS came,
            sum(minutes) OVER all_day > 0 AND sum(minutes) OVER all_day >= sum(missed) OVER all_day AS is_seen
        FROM counted LEFT JOIN rates USING (hour_start)
        WINDOW all_day AS (PARTITION BY station_id)
    )
    WINDOW own AS (PARTITION BY station_id)
), traffic AS (
    SELECT
        * EXCLUDE (leave, come),
        leave * ({PRIOR_DEPARTURES} + left_) / ({PRIOR_DEPARTURES} + leave * minutes) AS leave,
        come * ({PRIOR_DEPARTURES} + came) / ({PRIOR_DEPARTURES} + come * minutes) AS come,
        {_FAILED_UNSEEN} AS failed_unseen
    FROM stations
), hiding AS (
    SELECT
        *, {MEETING} * step ** {1 + MEETING_POWER} * leave * come
            * (1 + {SKELLAM_SLOPE} * least(step * (leave + come), {SKELLAM_MOST})) AS met,
        leave * failed_unseen / (1 - failed_unseen) + factor * met AS hidden
    FROM (SELECT * REPLACE ({_at_most("leave")} AS leave, {_at_most("come")} AS come) FROM traffic), day_fit
), unseen AS (
    SELECT
        *, hidden * minutes + (leave + hidden) * missed AS departures_unseen,
        hidden * minutes + (come + hidden) * missed AS arrivals_unseen
    FROM hiding
)
SELECT
    (SELECT any_value(dt) FROM day_snapshots) AS dt, hour_start, station_id, unseen.departures AS departures_min,
    unseen.arrivals AS arrivals_min, gap_change, steps, minutes,
    is_known, missed, left_ AS departures_seen, met * minutes AS departures_met,
    CASE WHEN is_known THEN coalesce(day_known.departures, 0) ELSE left_ + departures_unseen END AS departures,
    CASE WHEN is_known THEN 0 ELSE departures_unseen END AS departures_unseen,
    CASE WHEN is_known THEN coalesce(day_known.arrivals, 0) ELSE came + arrivals_unseen END AS arrivals,
    CASE WHEN is_known THEN 0 ELSE arrivals_unseen END AS arrivals_unseen
FROM unseen LEFT JOIN day_known USING (station_id, hour_start), (SELECT count(*) > 0 AS is_known FROM day_known)
"""

# From a table `known_ends` of the begins and ends of rentals on the day (`rentals_table`); without rows on a day whose
# bikes are not known.
DAY_KNOWN_SQL = f"""
SELECT
    station_id, {hour_of("moved_at")} AS hour_start, sum(departures) AS departures, sum(arrivals) AS arrivals
FROM known_ends GROUP BY ALL
"""


# The factor to MEETING in force on the day: that of the newest day with known bikes before it.
DAY_FIT_SQL = f"""
SELECT coalesce(arg_max(factor, dt), 1) AS factor
FROM wrm_analytics.mv_departures_fit, (SELECT any_value(dt) AS today FROM day_snapshots)
WHERE dt < today AND dt >= today - {FIT_DAYS}
"""


def low(estimate: str, unseen: str) -> str:
    """The lower end of the 90 % interval of an estimate (SQL), of which so much was not seen."""
    least = f"greatest(0, floor({estimate} - {HALF_WIDTH} * sqrt({unseen}) + 0.5))"
    return f"(CASE WHEN {estimate} IS NOT NULL THEN {least} END)::INTEGER"


def high(estimate: str, unseen: str) -> str:
    """The upper end, likewise."""
    return f"ceil({estimate} + {HALF_WIDTH} * sqrt({unseen}) - 0.5)::INTEGER"


_COUNTS = ("bikes", "file_timestamp")

MV_DEPARTURES = Table(
    "mv_departures",
    asset_names.MATERIALIZED_VIEWS,
    "Rentals that began at a station on a day, with a 90 % interval; one row per station and day.",
    columns=(
        DT,
        STATION_ID,
        Column(
            "departures",
            "DOUBLE",
            "Rentals that began there, those that failed included; null where the counts do not say",
            "bikes",
            _COUNTS,
        ),
        Column("departures_lo", "INTEGER", "Lower end of the 90 % interval", "bikes", _COUNTS),
        Column("departures_hi", "INTEGER", "Upper end; the same where bikes are known", "bikes", _COUNTS),
        Column(
            "hours_seen",
            "DOUBLE",
            f"Hours of the day with snapshots at most {MAX_STEP_MINUTES} minutes apart: what counts are looked at",
            "h",
            ("file_timestamp",),
        ),
    ),
    key=("dt", "station_id"),
    refreshed=Refreshed.BY_DAY,
    formula=(
        "Where the operator's feed covers the day, the rides and round trips of mv_rides that began there. Otherwise "
        "what the counts show at least, and an estimate of what they hide between two snapshots, from the departures "
        "and arrivals per minute and the interval; flickers of the feed are taken off. docs/answers.md has the formula."
    ),
    limits=(
        f"Null, not 0, where the counts do not say: snapshots more than {MAX_STEP_MINUTES} minutes apart for most of "
        "the station's day, or an outage so long that an hour has no seen one within two hours. What lies before the "
        "first snapshot of a day and after its last is not estimated: hours_seen says how much was looked at. "
        "Fitted on working days of early June; vans are in the counts and, on the average day, made up for. A rental "
        "that is back before the next answer is not among the known ones: 4 % at one a minute."
    ),
    sql=f"""
SELECT
    dt, station_id, round(departures, 2) AS departures, {low("departures", "unseen")} AS departures_lo,
    {high("departures", "unseen")} AS departures_hi, hours_seen
FROM (
    SELECT
        dt, station_id, CASE WHEN count(departures) = count(*) THEN sum(departures) END AS departures,
        sum(departures_unseen) AS unseen, round(sum(minutes) / 60, 2) AS hours_seen
    FROM day_flows GROUP BY dt, station_id HAVING sum(steps) > 0
)
ORDER BY station_id
""",
)

MV_DEPARTURES_FIT = Table(
    "mv_departures_fit",
    asset_names.MATERIALIZED_VIEWS,
    "What days with known bikes say of the departures that counts hide; one row per such day.",
    columns=(
        DT,
        Column("departures", "INTEGER", "Rentals that began, known, in hours without a gap in the counts", "bikes"),
        Column("departures_seen", "DOUBLE", "Of these, what the counts show, without flickers", "bikes", _COUNTS),
        Column("departures_met", "DOUBLE", "Estimate of those that arrivals hide, by the default", "bikes", _COUNTS),
        Column("factor_before", "DOUBLE", "The factor to this estimate that was in force on the day"),
        Column("error", "DOUBLE", "Error of the city's departures by it: the day itself has no part in it", "share"),
        Column("error_default", "DOUBLE", "Error of the city's departures by the default", "share"),
        Column("days", "INTEGER", f"Days like this, of the last {FIT_DAYS}, this one included", "days", ("dt",)),
        Column("factor", "DOUBLE", f"The factor for the days after it; 1, the default, below {MIN_KNOWN_DAYS} days"),
    ),
    key=("dt",),
    refreshed=Refreshed.BY_DAY,
    formula=(
        f"factor = (departures - departures_seen) / departures_met, summed over the days with known bikes among the "
        f"last {FIT_DAYS}, if they are {MIN_KNOWN_DAYS} or more. The errors are those of departures_seen and factor "
        "times departures_met. docs/answers.md explains it."
    ),
    limits=(
        "Empty without the operator's feed. Rentals that are back before the next answer are in neither number. A day "
        "before that changes later does not change the factors of the days after it."
    ),
    sql=f"""
WITH today AS (
    SELECT
        any_value(dt) AS dt, sum(departures) AS departures, sum(departures_seen) AS departures_seen,
        sum(departures_met) AS departures_met
    FROM day_flows WHERE is_known AND minutes > 0 AND missed = 0 HAVING sum(departures_met) > 0
), days AS (
    FROM today
    UNION ALL
    SELECT known.dt, known.departures, known.departures_seen, known.departures_met
    FROM wrm_analytics.mv_departures_fit AS known, today
    WHERE known.dt < today.dt AND known.dt > today.dt - {FIT_DAYS}
), fit AS (
    SELECT
        count(*) AS days, CASE WHEN count(*) >= {MIN_KNOWN_DAYS} THEN
            greatest(0, sum(departures - departures_seen) / sum(departures_met)) ELSE 1 END AS factor
    FROM days
)
SELECT
    dt, departures::INTEGER AS departures, round(departures_seen, 1) AS departures_seen,
    round(departures_met, 1) AS departures_met, day_fit.factor AS factor_before,
    round((departures_seen + day_fit.factor * departures_met) / nullif(departures, 0) - 1, 4) AS error,
    round((departures_seen + departures_met) / nullif(departures, 0) - 1, 4) AS error_default,
    days::INTEGER AS days, round(fit.factor, 3) AS factor
FROM today, day_fit, fit
""",
)
