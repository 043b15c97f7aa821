"""Dead letters: rows and bodies that cannot be published, kept until a person or a new parser settles them.

One entry per (raw object, error type), named after these two: the same failure found again is the same entry (data
contract, section 5).
"""

import json
import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from dataclasses import field as default
from datetime import UTC, date, datetime
from typing import Any

from wrm_pipeline.domain.drift import drift_of
from wrm_pipeline.domain.snapshot import FileReport

MAX_RETRIES = 5

PENDING = "pending_reprocessing"
REPROCESSED = "reprocessed"
PARKED = "parked"
DISCARDED = "discarded"
STATUSES = (PENDING, REPROCESSED, PARKED, DISCARDED)
# Key that marks an entry as caused by a change of the feed's format.
DRIFT_KEY = "drift"
# Status of objects in the queue that are not entries.
UNREADABLE = "unreadable"

# Each run of a day reads all letters of the day: 1,000 usual lines are 300 kB. A larger letter is cut when it is
# written (records_total counts the omitted records), and one that others made larger than MAX_READ_BYTES is not
# fetched.
MAX_LETTER_BYTES = 2**20
MAX_READ_BYTES = 2 * 2**20
MAX_RAW_DATA_BYTES = 2**16
_MAX_RECORDS_READ = 20_000
# More lines than any body has; a larger number is rejected, so that Dagster can store the sums.
_MAX_COUNT = 10**9

_NAMESPACE = uuid.UUID("8a7c2f0e-6f0b-5d57-9d3f-0d1f5b7f2c11")


class NotALetterError(ValueError):
    """An object in the queue is not an entry; the message names the field at fault, if there is one."""


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """One line of an entry; `corrected_data`, set by an operator, replaces the line at the next build.

    `line_number` is 0 if the entry's author did not give one. `extra` holds keys that are not ours.
    """

    line_number: int
    raw_data: str
    field: str
    error_message: str
    corrected_data: str | None = None
    extra: Mapping[str, Any] = default(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry of the queue; `records_total` counts the records that are not kept one by one, too.

    `extra` holds keys that are not ours; they are written back with the entry. `key` is the object that it was read
    from; empty for a new entry.
    """

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
    note: str = default(default="")
    extra: Mapping[str, Any] = default(default_factory=dict, compare=False)
    key: str = default(default="", compare=False)

    def to_json(self) -> bytes:
        """UTF-8 JSON as in the data contract; `corrected_data` only if there is one.

        Beyond MAX_LETTER_BYTES the last records without a correction are omitted; `records_total` counts them.
        """
        body = self._json(self.records, indent=1)
        if len(body) <= MAX_LETTER_BYTES:
            return body
        room = MAX_LETTER_BYTES - len(self._json([r for r in self.records if r.corrected_data is not None]))
        kept = []
        for record in self.records:
            if record.corrected_data is None:
                room -= len(json.dumps(_record_content(record), ensure_ascii=False).encode("utf-8", "replace"))
                if room < 0:
                    continue
            kept.append(record)
        return self._json(kept)

    def _json(self, records: Iterable[DeadRecord], indent: int | None = None) -> bytes:
        entry = {name: getattr(self, name) for name in _LETTER_KEYS}
        entry["timestamp"] = self.timestamp.isoformat()
        entry["last_seen"] = self.last_seen.isoformat()
        entry["partition_date"] = self.partition_date.isoformat()
        entry["records"] = [_record_content(record) for record in records]
        separators = None if indent else (",", ":")
        text = json.dumps({**entry, **self.extra}, ensure_ascii=False, indent=indent, separators=separators)
        return text.encode("utf-8", "replace")

    @classmethod
    def from_json(
        cls, body: bytes, *, key: str = "", folder: date | None = None, modified: datetime | None = None
    ) -> "DeadLetter":
        """Parse an entry, including an operator's edits and what other programs wrote.

        Missing (or null) fields are derived. An entry's key decides its id and its day, whatever its content says.

        Args:
            body: Any bytes.
            key: The object's key: the id is its name. Empty: the id is what the entry says.
            folder: The date of the object's folder, if it has one.
            modified: When the object was written (aware), for an entry without a time.

        Raises:
            NotALetterError: it is not an entry, or a value is not allowed; the message names the field. Nothing else is
                raised, whatever the bytes are.
        """
        entry = _parse(body)
        if all(entry.get(name) is None for name in _TELLING_KEYS):
            raise NotALetterError(f"not a dead letter: it has none of {', '.join(_TELLING_KEYS)}")
        extra = {name: value for name, value in entry.items() if name not in _LETTER_KEYS}
        entry = {name: value for name, value in entry.items() if name in _LETTER_KEYS and value is not None}
        name = _name(key) or _read_text(entry, "entry_id")
        if not name:
            raise NotALetterError("not a dead letter: entry_id is missing")
        day = folder or _read_field(entry, "partition_date", date.fromisoformat)
        for own, value in (("entry_id", name), ("partition_date", day.isoformat())):
            if entry.get(own, value) != value:
                extra.setdefault(f"original_{own}", entry[own])
        records = _read_records(entry, extra)
        timestamp = _read_time(entry, "timestamp", modified)
        letter = cls(
            name,
            timestamp,
            _read_time(entry, "last_seen", timestamp),
            _read_text(entry, "asset_name"),
            day,
            _read_text(entry, "source_key"),
            _read_text(entry, "error_type") or "unknown",
            _read_text(entry, "error_message"),
            records,
            _read_count(entry, "records_total", len(records)),
            _read_text(entry, "stack_trace"),
            _read_count(entry, "retry_count", 0),
            _read_text(entry, "status") or PENDING,
            _read_text(entry, "note"),
            extra,
            key,
        )
        if letter.status not in STATUSES:
            raise NotALetterError(f"status is {_short(letter.status)}; it must be one of {', '.join(STATUSES)}")
        # Once written back, it must not be too large to be read.
        if len(body) > MAX_LETTER_BYTES and len(letter.to_json()) > MAX_READ_BYTES:
            raise NotALetterError(f"it would be larger than {MAX_READ_BYTES} bytes when it is written back")
        return letter

    @property
    def of_drift(self) -> bool:
        """Whether it is about a body with a changed format, rather than odd rows (`domain/drift.py`)."""
        return isinstance(self.extra.get(DRIFT_KEY), dict)

    @property
    def of_body(self) -> bool:
        """Whether it is about a whole body, rather than some of its rows."""
        return self.error_type.startswith("file_")

    @property
    def corrections(self) -> dict[int, str]:
        """Corrected lines by line number; none once the entry is discarded."""
        if self.status == DISCARDED:
            return {}
        return {
            record.line_number: record.corrected_data for record in self.records if record.corrected_data is not None
        }


_LETTER_KEYS = tuple(f.name for f in fields(DeadLetter) if f.name not in ("extra", "key"))
# It may be any JSON; an entry has keys that say what it is about, or what is wrong.
_TELLING_KEYS = ("source_key", "error_type", "error_message", "records", "raw_data")
_USUAL_KEYS = {"line_number", "raw_data", "field", "error_message"}
_RECORD_KEYS = tuple(f.name for f in fields(DeadRecord) if f.name != "extra")


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _record_content(record: DeadRecord) -> dict[str, Any]:
    content = asdict(record)
    del content["extra"]
    if record.corrected_data is None:
        del content["corrected_data"]
    return {**content, **record.extra}


# --- reading what anyone may have written ------------------------------------------------------------------------


def _parse(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_READ_BYTES:
        raise NotALetterError(f"it has {len(body)} bytes, and letters of more than {MAX_READ_BYTES} are not read")
    if not body.strip():
        raise NotALetterError("it is empty")
    try:
        entry = json.loads(body, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise NotALetterError("it is nested too deeply") from None
    except NotALetterError:
        raise
    except ValueError as error:  # JSON and Unicode errors are among them
        raise NotALetterError(f"it is not JSON: {_cut(str(error), 200)}") from None
    if not isinstance(entry, dict):
        raise NotALetterError(f"not a dead letter: it holds a {type(entry).__name__}, not an object")
    return entry


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        # It is unknown which of them is meant, and only one could be written back.
        ((repeated, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise NotALetterError(f"it has the key {_short(repeated)} more than once")
    return content


def _short(value: Any) -> str:
    return _cut(repr(value), 80)


def _read_field(entry: Mapping[str, Any], name: str, read: Callable[[Any], Any]) -> Any:
    if name not in entry:
        raise NotALetterError(f"not a dead letter: {name} is missing")
    try:
        return read(entry[name])
    except (TypeError, ValueError, OverflowError) as error:
        raise NotALetterError(f"{name} is {_short(entry[name])}: {_cut(str(error), 200)}") from None


def _read_text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name, "")
    if not isinstance(value, str):
        raise NotALetterError(f"{name} is {_short(value)}; it must be text")
    return value


def _read_time(entry: Mapping[str, Any], name: str, missing: datetime | None) -> datetime:
    if name not in entry and missing is not None:
        return missing
    at: datetime = _read_field(entry, name, datetime.fromisoformat)
    # A time without a zone was written by a server, and servers use UTC.
    if at.tzinfo is None:
        return at.replace(tzinfo=UTC)
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise NotALetterError(f"{name} is {_short(entry[name])}, which is out of range") from None


def _read_count(entry: Mapping[str, Any], name: str, missing: int) -> int:
    value = entry.get(name, missing)
    if isinstance(value, float) and not math.isfinite(value):
        return missing
    count: int = _read_field(entry, name, int) if name in entry else missing
    return count if 0 <= count <= _MAX_COUNT else missing


def _read_records(entry: Mapping[str, Any], extra: dict[str, Any]) -> tuple[DeadRecord, ...]:
    """The records; in an entry without any, its plain `raw_data` is one."""
    records = entry.get("records")
    if records is None:
        plain = extra.get("raw_data")
        if plain is None:
            return ()
        text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
        return (DeadRecord(0, cut_raw_data(text), "", _read_text(entry, "error_message")),)
    if not isinstance(records, list):
        raise NotALetterError(f"not a dead letter: records is {_short(records)}; it must be a list")
    if len(records) > _MAX_RECORDS_READ:
        raise NotALetterError(f"it has {len(records)} records, and more than {_MAX_RECORDS_READ} are not read")
    return tuple(_read_record(record) for record in records)


def _read_record(content: Any) -> DeadRecord:
    if isinstance(content, str):
        return DeadRecord(0, cut_raw_data(content), "", "")
    if not isinstance(content, dict):
        raise NotALetterError(f"not a dead letter: a record is {_short(content)}; it must be an object")
    if content.keys() == _USUAL_KEYS:
        # The usual form; a day of a changed format has 100,000 of them, read by each of its runs.
        usual = DeadRecord(**content)
        texts = type(usual.raw_data) is type(usual.field) is type(usual.error_message) is str
        if texts and type(usual.line_number) is int and 0 <= usual.line_number <= _MAX_COUNT:
            return usual
    known = {name: value for name, value in content.items() if name in _RECORD_KEYS and value is not None}
    line_number = known.get("line_number", 0)
    if type(line_number) is not int or not 0 <= line_number <= _MAX_COUNT:
        raise NotALetterError(f"line_number is {_short(line_number)}; it must be a whole number")
    corrected = known.get("corrected_data")
    if not isinstance(corrected, str | None):
        raise NotALetterError(f"corrected_data of line {line_number} is {_short(corrected)}; it must be text")
    if corrected is not None and not line_number:
        raise NotALetterError(f"line_number is missing beside the corrected_data {_short(corrected)}")
    extra = {name: value for name, value in content.items() if name not in _RECORD_KEYS}
    raw_data, blamed, message = (_read_text(known, name) for name in ("raw_data", "field", "error_message"))
    return DeadRecord(line_number, raw_data, blamed, message, corrected, extra)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def cut_raw_data(text: str) -> str:
    """At most MAX_RAW_DATA_BYTES of a line; the raw object has the rest."""
    if len(text) * 4 <= MAX_RAW_DATA_BYTES:
        return text
    return text.encode("utf-8", "replace")[:MAX_RAW_DATA_BYTES].decode("utf-8", "ignore")


# --- letters of a file -------------------------------------------------------------------------------------------


def entry_id(source_key: str, error_type: str, beside: int = 0) -> str:
    """The id of the entry for a failure: a UUIDv5 of raw object and error type.

    `beside` gives it other names, in case an unreadable object has the first.
    """
    more = f"\nbeside {beside}" if beside else ""
    return str(uuid.uuid5(_NAMESPACE, f"{source_key}\n{error_type}{more}"))


def letters_of(report: FileReport, *, asset_name: str, partition_date: date, seen_at: datetime) -> list[DeadLetter]:
    """The entries for what could not be read in one file: one per error type, or one for the whole file."""
    drift = drift_of(report)

    def letter(error_type: str, message: str, records: Iterable[DeadRecord], total: int) -> DeadLetter:
        drifts = drift is not None and (report.fault is not None or drift.error_type == error_type)
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
            extra={DRIFT_KEY: drift.to_json()} if drift is not None and drifts else {},
        )

    rows = [DeadRecord(r.line_number, cut_raw_data(r.raw_data), r.field, r.error_message) for r in report.dead_rows]
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
    """The entry to keep for a failure that was found (again): first time, retries, status and notes are kept.

    Corrected lines, which are no longer found, are kept, too: without them the next build would lose the correction.
    """
    if known is None:
        return found
    before = {(record.line_number, record.raw_data): record for record in known.records}
    found_lines = {record.line_number for record in found.records}
    settled = [r for r in known.records if r.corrected_data is not None and r.line_number not in found_lines]
    records = list(settled)
    for record in found.records:
        same = before.get((record.line_number, record.raw_data), record)
        records.append(replace(record, corrected_data=same.corrected_data, extra=same.extra))
    # A failure that returns after it was settled is open again; a discarded or parked one stays so.
    status = PENDING if known.status == REPROCESSED else known.status
    return replace(
        found,
        entry_id=known.entry_id,
        timestamp=known.timestamp,
        records=tuple(sorted(records, key=lambda record: record.line_number)),
        records_total=found.records_total + len(settled),
        retry_count=known.retry_count,
        status=status,
        note=known.note,
        extra={**known.extra, **found.extra},
        key=known.key,
    )
