"""Data quality by day: rules, profile, anomalies and accounting of the days that are new or changed.

A day's results depend on its published objects and, for drift and anomalies, on the stored results of the days before.
A day that changed is computed again; later days keep their results.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase
from wrm_pipeline.analytics.enhanced_days import PartitionGoneError
from wrm_pipeline.analytics.feed_quality import feed_rows
from wrm_pipeline.analytics.refresh import (
    EVERY_TABLE,
    Part,
    Refresh,
    RefreshPlan,
    Source,
    TableSet,
    delete_rows,
    insert_rows,
    refresh,
)
from wrm_pipeline.analytics.registry import Table
from wrm_pipeline.analytics.registry.quality import (
    ACCOUNTING,
    ANOMALIES,
    FEEDS,
    PROFILE,
    RULE_HITS,
    RULES,
    STATION_HOURS,
)
from wrm_pipeline.domain import anomalies, asset_names, profile
from wrm_pipeline.domain.anomalies import DEFAULT_OPTIONS, find_anomalies, judge_hours, last_counts, station_hours
from wrm_pipeline.domain.anomaly_options import AnomalyOptions
from wrm_pipeline.domain.business_rules import (
    BUSINESS_RULES_VERSION,
    DEAD_LETTER,
    DRIFT_RULE,
    RuleHits,
    apply_rules,
    business_rules,
    observations,
)
from wrm_pipeline.domain.dead_letters import REPROCESSED, DeadLetter
from wrm_pipeline.domain.enhanced_build import rules_id
from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.quality import MAX_SAMPLES
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.schemas import ENHANCED
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.logs import get_logger

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_log = get_logger(__name__)

# A day costs 1 to 2 s. The first run over years of days would hold the pool for too long, so it computes a month, and
# the next runs the rest.
MAX_DAYS_A_RUN = 30


def refresh_quality_tables(
    database: AnalyticsDatabase,
    partitions: PublishedPartitions,
    *,
    area: ServiceArea,
    refreshed_at: datetime,
    options: AnomalyOptions = DEFAULT_OPTIONS,
    max_days: int = MAX_DAYS_A_RUN,
) -> Refresh:
    """Bring the quality tables up to date, all in one refresh of the database: after a failure they are unchanged.

    One listing shows which days changed; without any, nothing is read or written.
    """
    tables = QualityTables(partitions, area, options)
    return refresh(tables, database, refreshed_at=refreshed_at, max_days=max_days)


class QualityTables(TableSet):
    """The tables quality_*: a day of all of them is computed at once."""

    asset = asset_names.QUALITY
    source_columns = tuple(ENHANCED.columns)

    def __init__(self, partitions: PublishedPartitions, area: ServiceArea, options: AnomalyOptions) -> None:
        super().__init__(partitions)
        self._area = area
        self._options = options

    def sources(self, published: Mapping[date, str]) -> dict[Part, Source]:
        """The day's object, with the rules, area and method that it is judged by."""
        version = f"{BUSINESS_RULES_VERSION} {self._options} {rules_id(self._area)}"
        return {(EVERY_TABLE, dt): Source(etag, version) for dt, etag in published.items()}

    def write_day(self, connection: "duckdb.DuckDBPyConnection", dt: date, names: Sequence[str]) -> Mapping[str, int]:
        """Compute the day; it has no results if its objects cannot be read or have vanished since the listing."""
        try:
            rows = self.days.read(dt)
        except PartitionGoneError as error:
            _log.warning("the quality of a day is unknown", dt=str(dt), error=str(error))
            rows = None
        _assess_day(connection, self.days.partitions, dt, rows, area=self._area, options=self._options)
        return dict.fromkeys(names, rows.num_rows if rows is not None else 0)

    def write_whole(self, connection: "duckdb.DuckDBPyConnection", plan: RefreshPlan) -> Mapping[str, int]:
        """Write the rules, and drop station hours that are no longer needed for comparisons."""
        _write_rules(connection, self._area)
        # Future days are judged by those before them.
        needed_from = min([*plan.waiting, plan.newest or date.max]) - timedelta(days=anomalies.DAYS_COMPARED)
        connection.execute(f"DELETE FROM {SCHEMA}.{STATION_HOURS.name} WHERE dt < ?", [needed_from])
        return {}


def _write_rules(connection: "duckdb.DuckDBPyConnection", area: ServiceArea) -> None:
    connection.execute(f"DELETE FROM {SCHEMA}.{RULES.name}")
    connection.executemany(
        f"INSERT INTO {SCHEMA}.{RULES.name} VALUES (?, ?, ?)",
        [[rule.name, rule.severity, rule.reason] for rule in business_rules(area)],
    )


def _assess_day(
    connection: "duckdb.DuckDBPyConnection",
    partitions: PublishedPartitions,
    day: date,
    rows: pa.Table | None,
    *,
    area: ServiceArea,
    options: AnomalyOptions,
) -> None:
    """Compute and replace everything about one day with these enhanced rows."""
    if rows is None or not rows.num_rows:
        for table in (RULE_HITS, PROFILE, ANOMALIES, STATION_HOURS):
            _replace(connection, table, day, [])
    else:
        _assess_rows(connection, rows.unify_dictionaries().combine_chunks(), day, area=area, options=options)
    try:
        processed = partitions.read("processed", day)
    except UnreadablePartitionError as error:
        _log.warning("a partition cannot be read; its day is not accounted for", dt=str(day), error=str(error))
        return
    manifest = Manifest.from_footer(processed.footer_metadata) if processed is not None else None
    if manifest is not None:
        letters = DeadLetterQueue(partitions.store, partitions.layout).of_date(day)
        _insert(connection, RULE_HITS, _dead_letter_hits(day, manifest, area, letters))
        _replace(connection, ACCOUNTING, day, [_accounting(day, manifest)])
        _replace(connection, FEEDS, day, feed_rows(day, manifest, rows))


def _assess_rows(
    connection: "duckdb.DuckDBPyConnection", rows: pa.Table, day: date, *, area: ServiceArea, options: AnomalyOptions
) -> None:
    # What they were judged to be is not compared with.
    earlier_hours = _frame(
        connection,
        f"SELECT * EXCLUDE (anomaly, anomaly_score) FROM {SCHEMA}.{STATION_HOURS.name} WHERE dt >= ? AND dt < ?",
        [day - timedelta(days=anomalies.DAYS_COMPARED), day],
    )
    observed = observations(rows, _bikes_before(earlier_hours, day))
    hits = [_hit_row(day, hit) for hit in apply_rules(business_rules(area), rows, observed)]
    _replace(connection, RULE_HITS, day, hits)
    _replace(connection, PROFILE, day, _profile_rows(connection, rows, day))

    ids, names = rows["station_id"].chunk(0).dictionary.to_pylist(), rows["name"]
    hours = station_hours(observed, ids, lambda row: str(names[row].as_py())).assign(dt=day)
    judged = judge_hours(hours, earlier_hours, day, options)
    _replace(connection, STATION_HOURS, day, _with_scores(hours, judged))
    # The station hours behind an old day's results are not kept for ever: it keeps its earlier findings.
    if earlier_hours["dt"].nunique() >= anomalies.MIN_DAYS_COMPARED or not _has_anomalies(connection, day):
        _replace(connection, ANOMALIES, day, find_anomalies(judged, options).assign(dt=day))


def _with_scores(hours: "pd.DataFrame", judged: "pd.DataFrame") -> "pd.DataFrame":
    """Station hours with `anomaly` and `anomaly_score`, null in those that were not judged."""
    scores = judged[["station_id", "hour_start", "score"]].rename(columns={"score": "anomaly_score"})
    found = hours.merge(scores, on=["station_id", "hour_start"], how="left")
    return found.assign(anomaly=(found["anomaly_score"] > 1).where(found["anomaly_score"].notna()).astype("boolean"))


def _has_anomalies(connection: "duckdb.DuckDBPyConnection", day: date) -> bool:
    return (
        connection.execute(f"SELECT 1 FROM {SCHEMA}.{ANOMALIES.name} WHERE dt = ? LIMIT 1", [day]).fetchone()
        is not None
    )


def _bikes_before(earlier_hours: "pd.DataFrame", day: date) -> Mapping[str, int] | None:
    """The final counts of the day before; None if unknown, or if it ended early."""
    midnight, _ = partition_bounds(day)
    yesterday = earlier_hours[earlier_hours["dt"] == day - timedelta(days=1)]
    if not len(yesterday) or yesterday["hour_start"].max() != midnight - timedelta(hours=1):
        return None
    return last_counts(yesterday)


def _hit_row(day: date, hit: RuleHits) -> dict[str, Any]:
    return {
        "dt": day,
        "rule": hit.rule,
        "hits": hit.hits,
        "rows_checked": hit.rows_checked,
        "samples": json.dumps(hit.samples, ensure_ascii=False),
    }


def _dead_letter_hits(
    day: date, manifest: Manifest, area: ServiceArea, letters: Sequence[DeadLetter]
) -> list[dict[str, Any]]:
    """The rules applied by the parser; the samples are the raw objects with most dead letters."""
    counts = manifest.counts
    worst = sorted(
        ((source.counts.dead_lettered, key) for key, source in manifest.sources.items() if source.counts.dead_lettered),
        reverse=True,
    )
    samples = tuple({"s3_source_key": key, "dead_lettered": number} for number, key in worst[:MAX_SAMPLES])
    lines = counts.lines_in - counts.remark_lines
    hits = {
        rule.name: RuleHits(rule.name, counts.dead_lettered, lines, samples)
        for rule in business_rules(area)
        if rule.severity == DEAD_LETTER
    }
    hits[DRIFT_RULE] = _drift_hits(lines, letters)
    return [_hit_row(day, hit) for hit in hits.values()]


def _drift_hits(lines: int, letters: Sequence[DeadLetter]) -> RuleHits:
    """Waiting lines of a change of format, including bodies in quarantine; the newest are the samples."""
    drifted = [letter for letter in letters if letter.of_drift and letter.status != REPROCESSED]
    newest = sorted(drifted, key=lambda letter: (letter.timestamp, letter.entry_id), reverse=True)
    samples = tuple(
        {
            "s3_source_key": letter.source_key,
            "dead_lettered": letter.records_total,
            "field": letter.records[0].field if letter.records else "",
            "example": (letter.records[0].error_message if letter.records else letter.error_message)[:200],
        }
        for letter in newest[:MAX_SAMPLES]
    )
    unread = sum(letter.records_total for letter in drifted if letter.of_body)
    return RuleHits(DRIFT_RULE, sum(letter.records_total for letter in drifted), lines + unread, samples)


def _accounting(day: date, manifest: Manifest) -> dict[str, Any]:
    times = [source.file_timestamp for source in manifest.sources.values()]
    return {
        "dt": day,
        **asdict(manifest.counts),
        "snapshots": len(times),
        "first_snapshot": min(times, default=None),
        "last_snapshot": max(times, default=None),
    }


def _profile_rows(connection: "duckdb.DuckDBPyConnection", rows: pa.Table, day: date) -> list[dict[str, Any]]:
    stored = connection.execute(
        f"SELECT column_name, distribution FROM {SCHEMA}.{PROFILE.name} WHERE dt >= ? AND dt < ?",
        [day - timedelta(days=profile.DAYS_COMPARED), day],
    ).fetchall()
    earlier: dict[str, list[Mapping[str, float]]] = {}
    for name, distribution in stored:
        shares = json.loads(distribution)
        if shares:
            earlier.setdefault(name, []).append(shares)
    return [
        {
            **asdict(column),
            "dt": day,
            "drift": profile.drift(column.distribution, earlier.get(column.column_name, [])),
            "compared_days": len(earlier.get(column.column_name, [])),
            "distribution": json.dumps(column.distribution),
        }
        for column in profile.profile_rows(rows)
    ]


def _replace(
    connection: "duckdb.DuckDBPyConnection",
    table: Table,
    day: date,
    rows: "Sequence[Mapping[str, Any]] | pd.DataFrame",
) -> None:
    """Replace a day's rows."""
    delete_rows(connection, [table], day)
    _insert(connection, table, rows)


def _insert(
    connection: "duckdb.DuckDBPyConnection", table: Table, rows: "Sequence[Mapping[str, Any]] | pd.DataFrame"
) -> None:
    if not len(rows):
        return
    incoming = (
        pa.Table.from_pylist([dict(row) for row in rows])
        if isinstance(rows, Sequence)
        else pa.Table.from_pandas(rows, preserve_index=False)
    )
    insert_rows(connection, table, incoming)


def _frame(connection: "duckdb.DuckDBPyConnection", sql: str, parameters: Iterable[Any]) -> "pd.DataFrame":
    """A query's rows, with dates as dates and times as UTC timestamps."""
    found: pd.DataFrame = connection.execute(sql, list(parameters)).to_arrow_table().to_pandas(date_as_object=True)
    return found
