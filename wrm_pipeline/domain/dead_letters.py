"""Dead letters: rows and bodies that cannot be published, kept until a person or a new parser settles them.

One entry per (raw object, error type), with a name made from just these: the same failure found again is the same
entry (data contract, section 5).
"""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from typing import Any

from wrm_pipeline.domain.snapshot import FileReport

MAX_RETRIES = 5

PENDING = "pending_reprocessing"
REPROCESSED = "reprocessed"
PARKED = "parked"
DISCARDED = "discarded"
STATUSES = (PENDING, REPROCESSED, PARKED, DISCARDED)

_NAMESPACE = uuid.UUID("8a7c2f0e-6f0b-5d57-9d3f-0d1f5b7f2c11")


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """One line of an entry; `corrected_data`, set by an operator, replaces the line at the next build."""

    line_number: int
    raw_data: str
    field: str
    error_message: str
    corrected_data: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the queue; `records_total` counts the records that are not kept one by one, too."""

    entry_id: str
    timestamp: datetime
    last_seen: datetime
    asset_name: str
    partition_date: date
    source_key: str
    error_type: str
    error_message: str
    records: tuple[DeadRecord, ...] = ()
    records_total: int = 0
    stack_trace: str = ""
    retry_count: int = 0
    status: str = PENDING
    note: str = field(default="")

    def to_json(self) -> bytes:
        """UTF-8 JSON as in the data contract; `corrected_data` only where there is one."""
        entry = asdict(self)
        entry["timestamp"] = self.timestamp.isoformat()
        entry["last_seen"] = self.last_seen.isoformat()
        entry["partition_date"] = self.partition_date.isoformat()
        for record in entry["records"]:
            if record["corrected_data"] is None:
                del record["corrected_data"]
        return json.dumps(entry, ensure_ascii=False, indent=1).encode("utf-8", "replace")

    @classmethod
    def from_json(cls, body: bytes) -> "DeadLetter":
        """Read an entry, an operator's edits included.

        Raises:
            ValueError: it is no entry, or a value is not allowed; the message names the field.
        """
        try:
            entry: dict[str, Any] = json.loads(body)
            records = tuple(_read_record(record) for record in entry.get("records", ()))
            known = {name: entry[name] for name in cls.__dataclass_fields__ if name in entry}
            letter = cls(
                **{
                    **known,
                    "timestamp": _read_field(entry, "timestamp", datetime.fromisoformat),
                    "last_seen": _read_field(entry, "last_seen", datetime.fromisoformat),
                    "partition_date": _read_field(entry, "partition_date", date.fromisoformat),
                    "records": records,
                    "records_total": _read_field({"records_total": len(records)} | entry, "records_total", int),
                    "retry_count": _read_field({"retry_count": 0} | entry, "retry_count", int),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no dead letter: {error}") from error
        if letter.status not in STATUSES:
            raise ValueError(f"status is {letter.status!r}; it must be one of {', '.join(STATUSES)}")
        return letter

    @property
    def corrections(self) -> dict[int, str]:
        """Corrected lines by line number; none once the entry is discarded."""
        if self.status == DISCARDED:
            return {}
        return {
            record.line_number: record.corrected_data for record in self.records if record.corrected_data is not None
        }


def _read_field(entry: Mapping[str, Any], name: str, read: Callable[[Any], Any]) -> Any:
    try:
        return read(entry[name])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {entry[name]!r}: {error}") from error


def _read_record(record: Mapping[str, Any]) -> DeadRecord:
    read = DeadRecord(**record)
    if type(read.line_number) is not int:
        raise ValueError(f"line_number is {read.line_number!r}; it must be a whole number")
    if not isinstance(read.corrected_data, str | None):
        raise TypeError(f"corrected_data of line {read.line_number} is {read.corrected_data!r}; it must be text")
    return read


def entry_id(source_key: str, error_type: str) -> str:
    """The id of the entry for a failure: a UUIDv5 of raw object and error type."""
    return str(uuid.uuid5(_NAMESPACE, f"{source_key}\n{error_type}"))


def letters_of(report: FileReport, *, asset_name: str, partition_date: date, seen_at: datetime) -> list[DeadLetter]:
    """The entries for what one file could not give: one per error type, or one for the whole file."""

    def letter(error_type: str, message: str, records: Iterable[DeadRecord], total: int) -> DeadLetter:
        return DeadLetter(
            entry_id(report.source_key, error_type),
            seen_at,
            seen_at,
            asset_name,
            partition_date,
            report.source_key,
            error_type,
            message,
            tuple(records),
            total,
        )

    rows = [DeadRecord(r.line_number, r.raw_data, r.field, r.error_message) for r in report.dead_rows]
    if report.fault is not None:
        fault = report.fault
        return [letter(fault.error_type, fault.error_message, rows, report.counts.dead_lettered)]
    by_type: dict[str, list[DeadRecord]] = {}
    for row, record in zip(report.dead_rows, rows, strict=True):
        by_type.setdefault(row.error_type, []).append(record)
    return [
        letter(error_type, records[0].error_message, records, report.dead_counts[error_type])
        for error_type, records in by_type.items()
    ]


def merge(found: DeadLetter, known: DeadLetter | None) -> DeadLetter:
    """The entry to keep for a failure that was found (again): first time, retries, status and notes stay.

    Lines that are corrected and so found no more stay, too: without them the next build would lose the correction.
    """
    if known is None:
        return found
    corrected: Mapping[tuple[int, str], str | None] = {
        (record.line_number, record.raw_data): record.corrected_data for record in known.records
    }
    found_lines = {record.line_number for record in found.records}
    settled = [r for r in known.records if r.corrected_data is not None and r.line_number not in found_lines]
    records = settled + [
        replace(record, corrected_data=corrected.get((record.line_number, record.raw_data))) for record in found.records
    ]
    # What came back after it was settled is open again; what a person discarded or what is parked stays so.
    status = PENDING if known.status == REPROCESSED else known.status
    return replace(
        found,
        timestamp=known.timestamp,
        records=tuple(sorted(records, key=lambda record: record.line_number)),
        records_total=found.records_total + len(settled),
        retry_count=known.retry_count,
        status=status,
        note=known.note,
    )
