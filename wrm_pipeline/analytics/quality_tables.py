"""The tables of data quality: their columns, types, units and meanings, for the database and for the catalog alike."""

from dataclasses import dataclass

from wrm_pipeline.analytics.tables import Column


@dataclass(frozen=True, slots=True)
class TableDefinition:
    """A table of the schema `wrm_analytics`; `by_day` if its rows belong to the day in `dt`."""

    name: str
    description: str
    columns: tuple[Column, ...]
    by_day: bool = True

    def create_sql(self, schema: str) -> str:
        """The statement that creates it if it is not there."""
        columns = ", ".join(f'"{column.name}" {column.type}' for column in self.columns)
        return f'CREATE TABLE IF NOT EXISTS {schema}."{self.name}" ({columns})'


_DT = Column("dt", "DATE", "", "The partition: calendar date in Europe/Warsaw of the fetch")
_HOUR = Column("hour_start", "TIMESTAMPTZ", "", "The hour's first instant, in UTC; a day has 23, 24 or 25 of them")
_LOCAL_HOUR = Column("local_hour", "TINYINT", "h", "The hour in Europe/Warsaw, 0 to 23; 2 comes twice in October")
_STATION = Column("station_id", "VARCHAR", "", "Station number as in the feed")
_NAME = Column("name", "VARCHAR", "", "The station's name in its last row of that hour")

RULES = TableDefinition(
    "quality_rules",
    "The business rules: what is looked for in the rows, how bad it is, and why. Generated from the code that "
    "applies them.",
    (
        Column("rule", "VARCHAR", "", "The rule's name"),
        Column(
            "severity",
            "VARCHAR",
            "",
            "flag: the row stays; dead_letter: the line left, and is in the dead-letter queue",
        ),
        Column("reason", "VARCHAR", "", "What the rule looks for and why, in words"),
    ),
    by_day=False,
)

RULE_HITS = TableDefinition(
    "quality_rule_hits",
    "How often each rule fired on each day.",
    (
        _DT,
        Column("rule", "VARCHAR", "", "The rule's name, as in quality_rules"),
        Column("hits", "BIGINT", "rows", "Rows (for dead_letter rules: lines) on which it fired"),
        Column("rows_checked", "BIGINT", "rows", "Rows (lines) that it was asked of; 0: nothing to compare with"),
        Column(
            "samples",
            "VARCHAR",
            "JSON",
            "Up to 20 of the rows, the newest of each station first: a list of objects with station_id, name, "
            "file_timestamp and the rule's values",
        ),
    ),
)

PROFILE = TableDefinition(
    "quality_profile",
    "Each column of the enhanced rows on each day, and how far its distribution is from that of the 28 days before.",
    (
        _DT,
        Column(
            "column_name", "VARCHAR", "", "Column of the enhanced rows, or report_age_s (file_timestamp - timestamp)"
        ),
        Column("rows", "BIGINT", "rows", "Rows of the day"),
        Column("nulls", "BIGINT", "rows", "Rows in which it is null"),
        Column("distinct_values", "BIGINT", "values", "Different values, without null; exact"),
        Column("minimum", "VARCHAR", "", "Lowest value as text; times in UTC, ISO 8601; null if all are null"),
        Column("maximum", "VARCHAR", "", "Highest value as text"),
        Column("mean", "DOUBLE", "", "Mean of numbers; for true/false the share of true; else null"),
        Column(
            "drift",
            "DOUBLE",
            "PSI",
            "Population stability index against the mean distribution of the days compared: below 0.1 as usual, above "
            "0.25 another distribution. Null with fewer than 7 days, or for a column that has none to compare",
        ),
        Column("compared_days", "INTEGER", "days", "Days, of the 28 before, that it was compared with"),
        Column("distribution", "VARCHAR", "JSON", "Share of rows by bin (upper edge or value; null for null)"),
    ),
)

ANOMALIES = TableDefinition(
    "quality_anomalies",
    "Station hours that are unlike the same station in the same local hour of the 28 days before.",
    (
        _DT,
        _HOUR,
        _LOCAL_HOUR,
        _STATION,
        _NAME,
        Column("method", "VARCHAR", "", "robust_z or isolation_forest"),
        Column("score", "DOUBLE", "", "How unlike: above 1 is an anomaly, 2 is twice as far as the threshold"),
        Column("reason", "VARCHAR", "", "What was seen and what is usual, in words"),
    ),
)

ACCOUNTING = TableDefinition(
    "quality_accounting",
    "Where the lines of each day's raw objects went: lines_in = rows_out + dead_lettered + duplicate_rows + "
    "remark_lines.",
    (
        _DT,
        Column("lines_in", "BIGINT", "lines", "Lines of the raw objects below their headers, blank ones left out"),
        Column("rows_out", "BIGINT", "rows", "Rows of the processed partition"),
        Column("dead_lettered", "BIGINT", "lines", "Lines in the dead-letter queue"),
        Column("duplicate_rows", "BIGINT", "lines", "Lines that repeat a station of their snapshot"),
        Column("remark_lines", "BIGINT", "lines", "Remarks"),
        Column("snapshots", "BIGINT", "objects", "Raw objects"),
        Column("first_snapshot", "TIMESTAMPTZ", "", "Time of the day's first raw object"),
        Column("last_snapshot", "TIMESTAMPTZ", "", "Time of the day's last raw object"),
    ),
)

STATION_HOURS = TableDefinition(
    "quality_station_hours",
    "What the anomalies are judged by, for the newest 29 days: each station in each hour.",
    (
        _DT,
        _HOUR,
        _LOCAL_HOUR,
        _STATION,
        _NAME,
        Column("snapshots", "INTEGER", "snapshots", "Snapshots in which the station was reported"),
        Column("bikes_mean", "DOUBLE", "bikes", "Mean of bikes over these"),
        Column("bikes_last", "INTEGER", "bikes", "Bikes in the last of these"),
        Column("moves", "INTEGER", "bikes", "Sum of the differences of bikes between consecutive snapshots, unsigned"),
        Column("largest_step", "INTEGER", "bikes", "Largest of these differences"),
        Column(
            "emptied",
            "INTEGER",
            "bikes",
            "If it ended without bikes: how many left in the step that took the last; else 0",
        ),
    ),
)

REFRESHES = TableDefinition(
    "quality_refreshes",
    "The days that the quality tables hold, and what each was computed from.",
    (
        _DT,
        Column("etag", "VARCHAR", "", "ETag of the enhanced object"),
        Column("version", "VARCHAR", "", "Versions of the rules, method of the anomalies, and the service area"),
        Column("rows", "BIGINT", "rows", "Rows of the enhanced object"),
        Column("refreshed_at", "TIMESTAMPTZ", "", "When the day was computed"),
    ),
)

QUALITY_TABLES = (RULES, RULE_HITS, PROFILE, ANOMALIES, ACCOUNTING, STATION_HOURS, REFRESHES)
