"""Traces a published row back to the line of the feed that it was made from, and to the runs that made it."""

import hashlib
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.dead_letters import DeadLetter
from wrm_pipeline.domain.layout import Layout, local_date
from wrm_pipeline.domain.manifest import Manifest, Source
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.schemas import PROCESSED
from wrm_pipeline.domain.snapshot import RawSnapshot, SourceLine, lines_of, parse_snapshots
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.object_store import RUN_ID, ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.lake.raw_objects import IncompleteSnapshotError, RawDay, whole_body


class NothingToTraceError(LookupError):
    """There is no such row; the message says what exists instead."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A row of one layer: the object that holds it, the run that last wrote this object, and the row's values."""

    key: str
    size_bytes: int
    stored_at: datetime
    built_by: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RawBody:
    """The raw object. `sha256` is of the bytes read; `archive` is the archive that holds it, empty if it is loose."""

    key: str
    size_bytes: int
    sha256: str
    stored_at: datetime
    fetched_by: str
    archive: str


@dataclass(frozen=True, slots=True)
class Trace:
    """The chain of one row.

    Attributes:
        line: The line that the row was made from; None if that can no longer be determined.
        duplicates: Other valid lines about the same station in the same object, which lost to it.
        source: What the processed partition records about the raw object: when it was parsed, and its line counts.
        letters: The dead letters of the raw object.
        lineage: Keys of the runs' OpenLineage events.
        warnings: For the reader: an assumed time zone, a missing link of the chain.
    """

    station_id: str
    asked_for: datetime
    dt: date
    enhanced: PublishedRow
    processed: PublishedRow | None
    source: Source | None
    raw: RawBody | None
    line: SourceLine | None
    duplicates: tuple[SourceLine, ...]
    letters: tuple[DeadLetter, ...]
    lineage: tuple[str, ...]
    warnings: tuple[str, ...]


def parse_time(text: str) -> tuple[datetime, str]:
    """An ISO 8601 time as an aware one, and the assumptions made.

    Raises:
        ValueError: it is not an ISO 8601 time.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is not None:
        return at.astimezone(UTC), ""
    zone = this_city().zone
    local = at.replace(tzinfo=zone)
    utc = local.astimezone(UTC)
    said = f"{text} has no zone: taken as a time in {zone.key}, {utc:%Y-%m-%d %H:%M:%S} UTC."
    if utc.astimezone(zone).replace(tzinfo=None) != at:
        said += " Clocks skipped this hour."
    elif local.utcoffset() != at.replace(tzinfo=zone, fold=1).utcoffset():
        offset = at.replace(tzinfo=zone, fold=1).isoformat()[-6:]
        said += f" This hour occurs twice: the first is assumed; add {offset} for the second."
    return utc, said


def trace(store: ObjectStore, layout: Layout, station_id: str, at: datetime) -> Trace:
    """The chain behind the row of a station in the nearest snapshot at or before `at` (aware).

    Raises:
        NothingToTraceError: the day is not published, or has no such row.
        ExternalError: the store failed.
    """
    partitions = PublishedPartitions(store, layout)
    dt, enhanced = _find_enhanced(partitions, station_id, at)
    warnings: list[str] = []
    processed, source = _find_processed(partitions, dt, enhanced, warnings)
    raw, lines = _find_lines(store, layout, dt, enhanced, source, warnings)
    runs = {enhanced.built_by, processed.built_by if processed else "", raw.fetched_by if raw else ""}
    days = {dt, *(local_date(o.stored_at) for o in (enhanced, processed, raw) if o is not None)}
    keys = [layout.lineage_key(day, run_id) for run_id in sorted(runs - {""}) for day in sorted(days)]
    return Trace(
        station_id=station_id,
        asked_for=at,
        dt=dt,
        enhanced=enhanced,
        processed=processed,
        source=source,
        raw=raw,
        line=lines[-1] if lines else None,
        duplicates=tuple(lines[:-1]),
        letters=_letters(store, layout, dt, enhanced.values["s3_source_key"], warnings),
        lineage=tuple(key for key in keys if store.stat(key) is not None),
        warnings=tuple(warnings),
    )


def _find_lines(
    store: ObjectStore, layout: Layout, dt: date, row: PublishedRow, source: Source | None, warnings: list[str]
) -> tuple[RawBody | None, list[SourceLine]]:
    """The raw object, and its valid lines about the row's station; the last one made the row.

    No lines unless the parser still makes exactly this row from them: the object may have been replaced since.
    """
    key, station_id, at = (row.values[name] for name in ("s3_source_key", "station_id", "file_timestamp"))
    if source is not None and source.adopted:
        warnings.append(f"The row was {source.etag.replace(' ', ' from ', 1)}, another writer's: there was no {key}.")
        return None, []
    try:
        raw_day = RawDay.of(store, layout, dt)
        ((_, body),) = raw_day.read([key])
        whole = whole_body(key, body, lambda other: next(raw_day.read([other]))[1])
    except ObjectNotFoundError:
        warnings.append(f"The raw object is gone: {key} is not in {store.name}. Its rows remain published.")
        return None, []
    except IncompleteSnapshotError as error:
        warnings.append(f"{error}. Its rows remain published.")
        return None, []
    packed = next((info for info in raw_day.objects() if info.key == key and key not in raw_day.loose), None)
    info = packed or store.stat(key)
    sha256 = hashlib.sha256(body).hexdigest()
    stored_at = info.last_modified if info else at
    fetched_by = info.metadata.get(RUN_ID, "") if info else ""
    raw = RawBody(key, len(body), sha256, stored_at, fetched_by, raw_day.archive_key if packed else "")
    corrections = dict(json.loads(source.corrections_id)) if source and source.corrections_id else {}
    file = RawSnapshot(key, at, whole, corrections)
    made = [made for made in parse_snapshots([file]).rows.to_pylist() if made["station_id"] == station_id]
    # A row of an older parser lacks the columns that came later.
    names = [name for name in PROCESSED.columns if name in row.values]
    if [{name: one[name] for name in names} for one in made] != [{name: row.values[name] for name in names}]:
        warnings.append(
            "No line of the raw object gives this row now: the object was replaced after it was parsed, or the row was "
            "built by another version of the parser. The next build of the day makes both agree."
        )
        return raw, []
    return raw, sorted(lines_of(file, station_id), key=lambda line: (line.reported_at, line.line_number))


def _letters(store: ObjectStore, layout: Layout, dt: date, raw_key: str, warnings: list[str]) -> tuple[DeadLetter, ...]:
    entries = DeadLetterQueue(store, layout).entries(dt)
    warnings += [f"{letter.key} cannot be read: {letter.reason}" for letter in entries.unreadable]
    return tuple(letter for letter in entries.letters if letter.source_key == raw_key)


def _find_enhanced(partitions: PublishedPartitions, station_id: str, at: datetime) -> tuple[date, PublishedRow]:
    """The newest row at or before `at`, of that day or, if its data begins later, of the day before."""
    dt = local_date(at)
    looked_at = []
    for day in (dt, dt - timedelta(days=1)):
        parts = partitions.read("enhanced", day)
        if parts is None:
            continue
        looked_at.append((day, parts))
        row = _newest_row(parts, station_id, at)
        if row is not None:
            return day, _published(partitions, "enhanced", day, row)
        if _had_begun(parts, at):
            break  # the station is not in it
    raise NothingToTraceError(_why_nothing(partitions, station_id, at, looked_at))


def _newest_row(parts: ParquetParts, station_id: str, at: datetime) -> dict[str, Any] | None:
    """Groups are sorted by file_timestamp, so the last group with a match has the newest row."""
    for group in reversed(range(parts.group_count)):
        rows = next(parts.read_groups(group, group + 1))
        mask = pc.and_(
            pc.equal(rows["station_id"].cast(pa.string()), station_id),
            pc.less_equal(rows["file_timestamp"], pa.scalar(at, rows["file_timestamp"].type)),
        )
        found = rows.filter(mask)
        if found.num_rows:
            return dict(found.slice(found.num_rows - 1).to_pylist()[0])
    return None


def _had_begun(parts: ParquetParts, at: datetime) -> bool:
    return any(pc.min(rows["file_timestamp"]).as_py() <= at for rows in parts.read_groups(0, 1, ["file_timestamp"]))


def _why_nothing(
    partitions: PublishedPartitions, station_id: str, at: datetime, looked_at: list[tuple[date, ParquetParts]]
) -> str:
    dt = local_date(at)
    if not any(day == dt for day, _ in looked_at):
        days = partitions.dates("enhanced")
        known = f"{len(days)} days are published, {days[0]} to {days[-1]}." if days else "Nothing is published yet."
        return f"The day {dt} is not published in {partitions.store.name}. {known}"
    parts = dict(looked_at)[dt]
    first_of_day, first_seen, ids = None, None, set[str]()
    for rows in parts.read_groups(columns=["station_id", "file_timestamp"]):
        names = rows["station_id"].cast(pa.string())
        ids.update(pc.unique(names).to_pylist())
        first_of_day = first_of_day or pc.min(rows["file_timestamp"]).as_py()
        first_seen = first_seen or pc.min(rows.filter(pc.equal(names, station_id))["file_timestamp"]).as_py()
    if first_seen is not None:
        return f"{station_id} is first seen on {dt} at {_utc(first_seen)}, after {_utc(at)}. Give a later time."
    alike = sorted(name for name in ids if station_id.strip() and station_id.strip() in name)[:5]
    hint = f"Did you mean {', '.join(alike)}?" if alike else "Ids of free-standing bikes begin with fb."
    return (
        f"No row of {dt} is about {station_id!r}; the day has {len(ids)} stations and bikes, "
        f"from {_utc(first_of_day)} on. {hint}"
        if first_of_day
        else f"The day {dt} is published and has no rows."
    )


def _utc(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _find_processed(
    partitions: PublishedPartitions, dt: date, enhanced: PublishedRow, warnings: list[str]
) -> tuple[PublishedRow | None, Source | None]:
    parts = partitions.read("processed", dt)
    if parts is None:
        warnings.append(f"The processed partition of {dt} is gone; the next run of the day rebuilds it.")
        return None, None
    values = enhanced.values
    row = _newest_row(parts, values["station_id"], values["file_timestamp"])
    manifest = Manifest.from_footer(parts.footer_metadata)
    source = manifest.sources.get(values["s3_source_key"]) if manifest else None
    if row is None or (row["file_timestamp"], row["s3_source_key"]) != (
        values["file_timestamp"],
        values["s3_source_key"],
    ):
        warnings.append("The processed partition no longer has this row: the enhanced one lags behind it.")
        return None, source
    return _published(partitions, "processed", dt, row), source


def _published(partitions: PublishedPartitions, layer: str, dt: date, row: dict[str, Any]) -> PublishedRow:
    key = partitions.layout.partition_key(layer, dt)
    info = partitions.store.stat(key)
    if info is None:
        raise NothingToTraceError(f"{key} was removed from {partitions.store.name} just now. Try again.")
    return PublishedRow(key, info.size_bytes, info.last_modified, info.metadata.get(RUN_ID, ""), row)


def to_json(found: Trace) -> dict[str, Any]:
    """For `wrm trace --json`: times in ISO 8601 (UTC), dead letters as they are stored."""
    content = asdict(replace(found, letters=()))
    content["letters"] = [json.loads(letter.to_json()) for letter in found.letters]
    return content


def to_text(found: Trace, ui_url: str) -> Iterator[str]:
    """For `wrm trace`: the chain, newest link first."""
    enhanced, processed, raw, line = found.enhanced, found.processed, found.raw, found.line
    at = enhanced.values["file_timestamp"]
    name = _visible(enhanced.values["name"])
    yield f"{found.station_id} ({name}) in the snapshot of {_utc(at)}, partition dt={found.dt}"
    for layer, row in (("enhanced", enhanced), ("processed", processed)):
        if row is None:
            continue
        yield f"\n{layer:<10} {row.key}"
        yield f"{'':<10} {row.size_bytes} bytes, written {_utc(row.stored_at)} by {_run(row.built_by, ui_url)}"
        shown = (
            row.values.items() if row is processed else [i for i in row.values.items() if i[0] not in PROCESSED.columns]
        )
        yield from _wrapped(f"{column}={_plain(value)}" for column, value in shown)
    if found.source is not None:
        counts = found.source.counts
        accounting = f"{counts.lines_in} lines = {counts.rows_out} rows + {counts.dead_lettered} dead letters"
        accounting += f" + {counts.duplicate_rows} duplicates + {counts.remark_lines} remarks"
        yield f"{'':<10} the raw object was parsed {_utc(found.source.parsed_at)}: {accounting}"
    if raw is not None:
        yield f"\nraw        {raw.key}"
        yield f"{'':<10} {raw.size_bytes} bytes, SHA-256 {raw.sha256}"
        if raw.archive:
            yield f"{'':<10} packed in {raw.archive}"
        yield f"{'':<10} stored {_utc(raw.stored_at)}; fetched by {_run(raw.fetched_by, ui_url)}"
    if line is not None:
        place = f"{line.encoding}, {line.length} bytes from byte {line.offset}"
        yield f"\n{line.unit} {line.line_number:<5} {_on_one_line(line)}"
        yield f"{'':<10} {place}; reported {_utc(line.reported_at)}"
        if line.correction is not None:
            yield f"{'':<10} corrected by an operator to: {_visible(line.correction)}"
        for other in found.duplicates:
            lost = f"{other.unit} {other.line_number} lost to it as a duplicate, reported {_utc(other.reported_at)}"
            yield f"{'':<10} {lost}: {_on_one_line(other)}"
    for letter in found.letters:
        lines = ", ".join(str(record.line_number) for record in letter.records[:10])
        about = f"{letter.records_total} line(s) of this object ({lines})" if lines else "this object"
        yield f"\ndead letter {letter.entry_id} {letter.error_type} {letter.status}: {about}"
    for key in found.lineage:
        yield f"\nlineage    {key}"
    for warning in found.warnings:
        yield f"\nWarning: {warning}"


def _run(run_id: str, ui_url: str) -> str:
    return f"run {run_id} ({ui_url.rstrip('/')}/runs/{run_id})" if run_id else "an unknown run"


def _plain(value: Any) -> str:
    return _utc(value) if isinstance(value, datetime) else "" if value is None else _visible(str(value))


def _on_one_line(line: SourceLine) -> str:
    """A line as it is; an object without the indentation that it may have."""
    return _visible(line.text if line.unit == "line" else " ".join(line.text.split()))


def _visible(text: str) -> str:
    """Keep the feed's control characters off the reader's terminal; `--json` has them."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _wrapped(words: Iterable[str]) -> list[str]:
    text = textwrap.fill("  ".join(words), 110, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent(text, " " * 11).split("\n")
