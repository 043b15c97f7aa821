"""The tables of data quality; Python computes their rows (analytics/quality_tables.py)."""

from dataclasses import replace

from wrm_pipeline.analytics.registry.columns import DT
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.schemas import ENHANCED, FLAGS

_HOUR = Column(
    "hour_start",
    "TIMESTAMPTZ",
    "The hour's first instant, in UTC; a day has 23, 24 or 25 of them",
    sources=("file_timestamp",),
)
_LOCAL_HOUR = Column(
    "local_hour", "TINYINT", "The local hour, 0 to 23; one occurs twice on a day of 25 h", "h", ("file_timestamp",)
)
_STATION = Column("station_id", "VARCHAR", "Station number as in the feed", sources=("station_id",))
_NAME = Column("name", "VARCHAR", "The station's name in its last row of that hour", sources=("name",))

_JUDGED = ("station_id", "bikes", "file_timestamp")
# The rules are applied to these.
_RULED = (
    *("station_id", "name", "record_type", "timestamp", "file_timestamp", "lat", "lon"),
    *("bikes", "spaces", "total_docks", *FLAGS),
)

RULES = Table(
    "quality_rules",
    asset_names.QUALITY,
    "The business rules: what they look for in the rows, how severe it is, and why. Generated from the code that "
    "applies "
    "them.",
    columns=(
        Column("rule", "VARCHAR", "The rule's name"),
        Column(
            "severity", "VARCHAR", "flag: the row is kept; dead_letter: the line is in the dead-letter queue instead"
        ),
        Column("reason", "VARCHAR", "What the rule looks for and why, in words"),
    ),
    key=("rule",),
    refreshed=Refreshed.WITH_OTHERS,
)

RULE_HITS = Table(
    "quality_rule_hits",
    asset_names.QUALITY,
    "How often each rule fired on each day.",
    columns=(
        DT,
        Column("rule", "VARCHAR", "The rule's name, as in quality_rules"),
        Column("hits", "BIGINT", "Rows (for dead_letter rules: lines) on which it fired", "rows", _RULED),
        Column(
            "rows_checked", "BIGINT", "Rows (lines) that it was applied to; 0: nothing to compare with", "rows", _RULED
        ),
        Column(
            "samples",
            "VARCHAR",
            "Up to 20 of the rows, the newest of each station first: a list of objects with station_id, name, "
            "file_timestamp and the rule's values",
            "JSON",
            _RULED,
        ),
    ),
    key=("dt", "rule"),
    refreshed=Refreshed.BY_DAY,
)

PROFILE = Table(
    "quality_profile",
    asset_names.QUALITY,
    "Each column of the enhanced rows on each day, and how far its distribution is from that of the 28 days before.",
    columns=(
        DT,
        Column("column_name", "VARCHAR", "Column of the enhanced rows, or report_age_s (file_timestamp - timestamp)"),
        Column("rows", "BIGINT", "Rows of the day", "rows"),
        Column("nulls", "BIGINT", "Rows in which it is null", "rows"),
        Column("distinct_values", "BIGINT", "Different values, without null; exact", "values"),
        Column("minimum", "VARCHAR", "Lowest value as text; times in UTC, ISO 8601; null if all are null"),
        Column("maximum", "VARCHAR", "Highest value as text"),
        Column("mean", "DOUBLE", "Mean of numbers; for true/false the share of true; else null"),
        Column(
            "drift",
            "DOUBLE",
            "Population stability index against the mean distribution of the days compared: below 0.1 as usual, above "
            "0.25 a different distribution. Null with fewer than 7 days, or for a column that is not compared",
            "PSI",
        ),
        Column("compared_days", "INTEGER", "Days, of the 28 before, that it was compared with", "days", ("dt",)),
        Column(
            "distribution",
            "VARCHAR",
            "Share of rows by bin (upper edge or value; null for null)",
            "JSON",
            tuple(ENHANCED.columns),
        ),
    ),
    key=("dt", "column_name"),
    refreshed=Refreshed.BY_DAY,
)

ANOMALIES = Table(
    "quality_anomalies",
    asset_names.QUALITY,
    "Station hours that are unlike the same station in the same local hour of the 28 days before.",
    columns=(
        DT,
        _HOUR,
        _LOCAL_HOUR,
        _STATION,
        _NAME,
        Column("method", "VARCHAR", "robust_z or isolation_forest"),
        Column(
            "score", "DOUBLE", "How unlike: above 1 is an anomaly, 2 is twice as far as the threshold", sources=_JUDGED
        ),
        Column("reason", "VARCHAR", "What was seen and what is usual, in words", sources=_JUDGED),
    ),
    key=("dt", "hour_start", "station_id"),
    refreshed=Refreshed.BY_DAY,
)

ACCOUNTING = Table(
    "quality_accounting",
    asset_names.QUALITY,
    "Where the lines of each day's raw objects went: lines_in = rows_out + dead_lettered + duplicate_rows + "
    "remark_lines.",
    columns=(
        DT,
        Column("lines_in", "BIGINT", "Lines of the raw objects below their headers, without blank ones", "lines"),
        Column("rows_out", "BIGINT", "Rows of the processed partition", "rows"),
        Column("dead_lettered", "BIGINT", "Lines in the dead-letter queue", "lines"),
        Column("duplicate_rows", "BIGINT", "Lines that repeat a station of their snapshot", "lines"),
        Column("remark_lines", "BIGINT", "Remarks", "lines"),
        Column("snapshots", "BIGINT", "Raw objects", "objects", ("file_timestamp",)),
        Column("first_snapshot", "TIMESTAMPTZ", "Time of the day's first raw object", sources=("file_timestamp",)),
        Column("last_snapshot", "TIMESTAMPTZ", "Time of the day's last raw object", sources=("file_timestamp",)),
    ),
    key=("dt",),
    refreshed=Refreshed.BY_DAY,
)

_COUNTED = ("station_id", "bikes", "spaces", "lat", "lon", "file_timestamp")
FEEDS = Table(
    "quality_feeds",
    asset_names.QUALITY,
    "Each feed in each hour: how many of its snapshots were believed, and how many are published. On a day of several "
    "feeds those that were set aside count, too.",
    columns=(
        DT,
        _HOUR,
        Column("feed", "VARCHAR", "ucl, operator or gbfs", sources=("feed",)),
        Column("snapshots", "INTEGER", "Raw objects with rows", "snapshots", ("file_timestamp",)),
        Column("published", "INTEGER", "Those whose rows are published", "snapshots", ("file_timestamp",)),
        Column("sound", "INTEGER", "Those that were believed", "snapshots", _COUNTED),
        Column("frozen", "INTEGER", "Counts unchanged for longer than is ever quiet", "snapshots", _COUNTED),
        Column("shrunken", "INTEGER", "A fifth of the stations or half of the bikes gone", "snapshots", _COUNTED),
        Column("elsewhere", "INTEGER", "Stations are not those of the day before", "snapshots", _COUNTED),
        Column("all_zero", "INTEGER", "No bike anywhere", "snapshots", _COUNTED),
        Column("capped", "INTEGER", "Counts cut off at a small number", "snapshots", _COUNTED),
        Column("stations_min", "INTEGER", "Fewest stations in a snapshot", "stations", ("station_id",)),
        Column("bikes_min", "INTEGER", "Fewest bikes in a snapshot", "bikes", ("bikes",)),
        Column("bikes_max", "INTEGER", "Most bikes in a snapshot", "bikes", ("bikes",)),
        Column("longest_silence_s", "INTEGER", "Longest time without any change of a count or position", "s", _COUNTED),
        Column("reason", "VARCHAR", "What was seen in the last snapshot that was not believed; null without any"),
    ),
    key=("dt", "hour_start", "feed"),
    refreshed=Refreshed.BY_DAY,
)

STATION_HOURS = Table(
    "quality_station_hours",
    asset_names.QUALITY,
    "The basis of the anomalies, for the newest 29 days: each station in each hour.",
    columns=(
        DT,
        _HOUR,
        _LOCAL_HOUR,
        _STATION,
        _NAME,
        Column("snapshots", "INTEGER", "Snapshots in which the station was reported", "snapshots", ("file_timestamp",)),
        Column("bikes_mean", "DOUBLE", "Mean of bikes over these", "bikes", ("bikes",)),
        Column("bikes_last", "INTEGER", "Bikes in the last of these", "bikes", ("bikes", "file_timestamp")),
        Column(
            "moves",
            "INTEGER",
            "Sum of the differences of bikes between consecutive snapshots, unsigned",
            "bikes",
            ("bikes", "file_timestamp"),
        ),
        Column("largest_step", "INTEGER", "Largest of these differences", "bikes", ("bikes", "file_timestamp")),
        Column(
            "emptied",
            "INTEGER",
            "If it ended without bikes: how many left in the step that emptied it; else 0",
            "bikes",
            ("bikes", "file_timestamp"),
        ),
        Column("anomaly", "BOOLEAN", "Whether it is in quality_anomalies; null: it was not judged", sources=_JUDGED),
        Column(
            "anomaly_score",
            "DOUBLE",
            "How unlike the days before, by the method in force: above 1 is an anomaly; null: it was not judged",
            sources=_JUDGED,
        ),
    ),
    key=("dt", "hour_start", "station_id"),
    refreshed=Refreshed.BY_DAY,
)

REFRESHES = Table(
    "quality_refreshes",
    asset_names.QUALITY,
    "The days in the quality tables, and what each was computed from.",
    columns=(
        replace(DT, sources=()),
        Column("etag", "VARCHAR", "ETag of the enhanced object"),
        Column("version", "VARCHAR", "Versions of the rules, method of the anomalies, and the service area"),
        Column("rows", "BIGINT", "Rows of the enhanced object", "rows"),
        Column("refreshed_at", "TIMESTAMPTZ", "When the day was computed"),
    ),
    key=("dt",),
    refreshed=Refreshed.LEDGER,
)


QUALITY_TABLES = (RULES, RULE_HITS, PROFILE, ANOMALIES, ACCOUNTING, FEEDS, STATION_HOURS, REFRESHES)
