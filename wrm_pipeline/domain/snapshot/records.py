"""The parser's input and output types, and its limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import pyarrow as pa

from wrm_pipeline.domain.feeds import KINDS, UCL, FeedKind, kind_of

# Stored with the published partition: a different version means that its rows are built again.
PARSER_VERSION = "2"

COMBINED_COLUMN = "timestamp|gmt_local_diff_sec|gmt_servertime_diff_sec"
BATTERY_COLUMN = "givesbonus_acceptspedelecs_fbbattlevel"
ID_COLUMNS = ("#id", "id", "station_id")
REQUIRED_COLUMNS = ("name", "lat", "lon", "bikes", "spaces", "total_docks")
COUNT_COLUMNS = ("bikes", "spaces", "total_docks", "pedelecs")
FLAG_COLUMNS = ("installed", "locked", "temporary")
OPTIONAL_COLUMNS = (*FLAG_COLUMNS, "pedelecs", BATTERY_COLUMN)

# Data contract, section 4: the plausible span of a report's time.
EARLIEST_REPORT = datetime(2010, 1, 1, tzinfo=UTC)
LATEST_REPORT_AFTER_FETCH = timedelta(days=1)

# At most this many dead rows of a file and error type, and this much of their text, are kept individually; the others
# are in the raw object.
MAX_DEAD_ROWS_KEPT = 1_000
MAX_DEAD_BYTES_KEPT = 8 * 2**20
# The part of a line that a dead row keeps.
MAX_RAW_DATA_BYTES = 64 * 1024

# Wrocław's feed has 13 columns, 410 rows of 80 bytes, names of 40 characters and no remarks. Anything beyond these
# limits is an attack or an accident rather than a feed, and must not cost the memory and time that other snapshots
# need.
MAX_COLUMNS = 1_000
MAX_NAME_CHARACTERS = 1_000
MAX_LINES = 200_000
MAX_LINE_BYTES = 2**20
MAX_HEADER_BYTES = 64 * 1024
MAX_LINES_BEFORE_HEADER = 20
# Of all rows of a file, as typed columns: 200,000 rows of a city take 20 MB.
MAX_TABLE_BYTES = 32 * 2**20

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


LATEST_AFTER_FETCH_MICROS = LATEST_REPORT_AFTER_FETCH // timedelta(microseconds=1)


def micros_of(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - EPOCH) // timedelta(microseconds=1)


EARLIEST_MICROS = micros_of(EARLIEST_REPORT)


class RefusedError(ValueError):
    """The typed path is not sure about these lines: the exact path must read them."""


@dataclass(frozen=True, slots=True)
class RawSnapshot:
    """One raw object: its key, the time of its snapshot (aware) and its bytes.

    `corrections` are an operator's replacements of dead lines, by line number (the first line is 1). With a `fault` the
    whole file is rejected. `feed` is the name of its kind of feed where the key does not say it.
    """

    source_key: str
    file_timestamp: datetime
    body: bytes
    corrections: Mapping[int, str] = field(default_factory=dict)
    fault: "FileFault | None" = None
    feed: str = ""

    @property
    def kind(self) -> FeedKind:
        """The kind of feed that it is from."""
        return KINDS[self.feed] if self.feed else kind_of(self.source_key) or UCL


@dataclass(frozen=True, slots=True)
class LineCounts:
    """The outcome of a file's lines or of a JSON body's objects; blank lines and the header are not counted.

    Always: lines_in = rows_out + dead_lettered + duplicate_rows + remark_lines.
    """

    lines_in: int = 0
    rows_out: int = 0
    dead_lettered: int = 0
    duplicate_rows: int = 0
    remark_lines: int = 0

    @classmethod
    def total(cls, counts: Iterable["LineCounts"]) -> "LineCounts":
        """The sum of several files' counts."""
        values = attrgetter(*(field.name for field in fields(cls)))
        return cls(*map(sum, zip(*map(values, counts), strict=True)))

    @property
    def balanced(self) -> bool:
        """Whether every line is accounted for."""
        accounted = self.rows_out + self.dead_lettered + self.duplicate_rows + self.remark_lines
        return self.lines_in == accounted


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A line or object that cannot become a row: where, what, and why.

    `field` is empty where no one field is to blame.
    `line_number` counts from 1, lines or objects. `raw_data` is the line or the object's JSON, cut at
    MAX_RAW_DATA_BYTES with a note that says so.
    """

    line_number: int
    raw_data: str
    error_type: str
    field: str
    error_message: str


@dataclass(frozen=True, slots=True)
class FileFault:
    """Why a whole body is rejected.

    `file_empty`, `file_not_text`, `file_not_json`, `file_not_zip`, `file_no_header`, `file_no_valid_row`;
    `file_over_limit` for more lines, columns or text than are read; `file_truncated` at the fetch;
    `file_time_outside_day` for a name or reports that cannot be of the folder's day; and `file_unreadable` for
    unexpected cases.
    """

    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """The result of one file.

    `dead_rows` holds the first MAX_DEAD_ROWS_KEPT of each error type; `dead_counts`, by error type, counts all.
    """

    source_key: str
    counts: LineCounts
    dead_rows: tuple[DeadRow, ...] = ()
    dead_counts: Mapping[str, int] = field(default_factory=dict)
    fault: FileFault | None = None


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """Rows of several files, typed as PROCESSED (strings dictionary-encoded), sorted and unique on SORT_KEY.

    `reports` are in the order of file_timestamp and source_key.
    """

    rows: pa.Table
    reports: tuple[FileReport, ...]

    @property
    def counts(self) -> LineCounts:
        """The sum over all files."""
        return LineCounts.total(report.counts for report in self.reports)


@dataclass(frozen=True, slots=True)
class FileResult:
    """The result of one file before duplicates are removed."""

    row_count: int
    remark_lines: int
    dead_rows: tuple[DeadRow, ...] = ()
    dead_counts: Mapping[str, int] = field(default_factory=dict)
    fault: FileFault | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Typed rows of consecutive files, in file order, and the result of each file."""

    rows: pa.Table | None
    results: list[FileResult]
