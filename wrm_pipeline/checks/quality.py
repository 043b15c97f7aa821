"""Checks on the quality tables: is the newest day like the days before? WARN only: unusual data may be true."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg

from wrm_pipeline.analytics.database import SCHEMA, query_arrow
from wrm_pipeline.analytics.registry.quality import REFRESHES
from wrm_pipeline.checks.results import WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.business_rules import FLAG
from wrm_pipeline.domain.profile import DAYS_COMPARED, DRIFT_HIGH, MIN_DAYS_COMPARED
from wrm_pipeline.domain.quality import MAX_SAMPLES
from wrm_pipeline.resources.lake import LakeResource

# A rule fires more than usual if it exceeds three times its median share of the days before and this many rows: rules
# that never fire have a median of 0.
RULE_FACTOR, RULE_MIN_HITS = 3.0, 20

# Simulated days without anomalies have less than one alarm a day (docs/quality.md); trucks and events cause more.
# Twenty station hours are one station that was silent for a day, or a feed that is wrong everywhere.
ANOMALOUS_HOURS_WARN = 20

_NAMES = ("no_rule_fires_more_than_usual", "distributions_are_usual", "anomalies_are_few")


@dg.multi_asset_check(
    name="quality_checks",
    specs=[
        dg.AssetCheckSpec(
            _NAMES[0],
            asset=asset_names.QUALITY,
            description=(
                f"On the newest day no business rule fires on more than {RULE_FACTOR:g} times its median share of rows "
                f"of the {DAYS_COMPARED} days before, or on at most {RULE_MIN_HITS} rows. Needs {MIN_DAYS_COMPARED} "
                "days. Look at the samples in quality_rule_hits."
            ),
        ),
        dg.AssetCheckSpec(
            _NAMES[1],
            asset=asset_names.QUALITY,
            description=(
                f"On the newest complete day no column's distribution drifted by more than {DRIFT_HIGH} (PSI) from "
                f"that of the {DAYS_COMPARED} days before. Look at quality_profile."
            ),
        ),
        dg.AssetCheckSpec(
            _NAMES[2],
            asset=asset_names.QUALITY,
            description=(
                f"On the newest day at most {ANOMALOUS_HOURS_WARN} station hours are anomalous. Look at "
                "quality_anomalies, which says what was seen and what is usual."
            ),
        ),
    ],
    description="Reads the quality tables; no request.",
)
def quality_checks(lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
    """All three checks over one connection."""
    with lake.database.reading() as connection:

        def ask(sql: str, *parameters: Any) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = query_arrow(connection, sql, parameters).to_pylist()
            return rows

        # A check may be run by hand before its asset ever was.
        there = ask(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = ?", SCHEMA, REFRESHES.name
        )
        computed = f"SELECT DISTINCT dt FROM {SCHEMA}.{REFRESHES.name} WHERE rows > 0 ORDER BY dt DESC LIMIT 2"
        days = [row["dt"] for row in ask(computed)] if there else []
        if not days:
            for name in _NAMES:
                yield result(name, True, "No day is computed yet.", severity=WARN)
            return
        newest, over = days[0], days[-1] if len(days) == 2 else None
        since = newest - timedelta(days=DAYS_COMPARED)
        yield check_rules(
            newest,
            ask(
                "SELECT dt, rule, hits, rows_checked, samples "
                f"FROM {SCHEMA}.quality_rule_hits JOIN {SCHEMA}.quality_rules USING (rule) "
                "WHERE severity = ? AND dt BETWEEN ? AND ?",
                FLAG,
                since,
                newest,
            ),
        )
        yield check_drift(
            over,
            ask(
                "SELECT column_name, drift, compared_days, nulls, mean, minimum, maximum "
                f"FROM {SCHEMA}.quality_profile WHERE dt = ? AND drift IS NOT NULL ORDER BY drift DESC, column_name",
                over,
            ),
        )
        yield check_anomalies(
            newest,
            ask(
                "SELECT hour_start, station_id, name, score, reason "
                f"FROM {SCHEMA}.quality_anomalies WHERE dt = ? ORDER BY score DESC, station_id, hour_start",
                newest,
            ),
        )


def check_rules(newest: date, hits: list[dict[str, Any]]) -> dg.AssetCheckResult:
    """Compare each rule's share of rows with its median share of the days before.

    `hits` are the rows of quality_rule_hits for the newest day and those before it.
    """
    from statistics import median

    shares: dict[str, list[float]] = {}
    for row in hits:
        if row["dt"] != newest and row["rows_checked"]:
            shares.setdefault(row["rule"], []).append(row["hits"] / row["rows_checked"])
    today = [row for row in hits if row["dt"] == newest]
    days = max(map(len, shares.values()), default=0)
    fired = []
    for row in today:
        earlier = shares.get(row["rule"], [])
        if len(earlier) < MIN_DAYS_COMPARED:
            continue
        usual = median(earlier) * row["rows_checked"]
        if row["hits"] > max(RULE_FACTOR * usual, RULE_MIN_HITS):
            fired.append({"rule": row["rule"], "hits": row["hits"], "usual": round(usual, 1)})
    return result(
        _NAMES[0],
        not fired,
        "; ".join(f"{row['rule']} fired on {row['hits']} rows, {row['usual']:g} are usual" for row in fired)
        or (
            f"All rules fired as usual on {newest}."
            if days >= MIN_DAYS_COMPARED
            else f"{days} earlier days are too few to judge."
        ),
        severity=WARN,
        samples=fired[:MAX_SAMPLES],
        day=str(newest),
        rules=len(today),
        rules_more_than_usual=len(fired),
        days_compared=days,
        factor=RULE_FACTOR,
        min_hits=RULE_MIN_HITS,
    )


def check_drift(day: date | None, columns: list[dict[str, Any]]) -> dg.AssetCheckResult:
    """Columns whose distribution has changed; `columns` are sorted by drift, largest first."""
    drifted = [row for row in columns if row["drift"] > DRIFT_HIGH]
    return result(
        _NAMES[1],
        not drifted,
        "; ".join(f"{row['column_name']} drifted by {row['drift']:.2f}" for row in drifted)
        or (f"{len(columns)} distributions are as usual on {day}." if columns else "Too few days to compare with."),
        severity=WARN,
        samples=[{name: value for name, value in row.items() if value is not None} for row in drifted[:MAX_SAMPLES]],
        day=str(day),
        columns_compared=len(columns),
        columns_drifted=len(drifted),
        largest_drift=columns[0]["drift"] if columns else 0.0,
        warn_above=DRIFT_HIGH,
    )


def check_anomalies(day: date, found: list[dict[str, Any]]) -> dg.AssetCheckResult:
    """The number of anomalous station hours; `found` is sorted by score, highest first."""
    stations = {row["station_id"] for row in found}
    return result(
        _NAMES[2],
        len(found) <= ANOMALOUS_HOURS_WARN,
        f"{len(found)} hours of {len(stations)} stations are anomalous on {day}.",
        severity=WARN,
        samples=[{**row, "hour_start": str(row["hour_start"])} for row in found[:MAX_SAMPLES]],
        day=str(day),
        station_hours=len(found),
        stations=len(stations),
        warn_above=ANOMALOUS_HOURS_WARN,
    )


# The checks of this module, for `definitions`.
CHECKS = (quality_checks,)
