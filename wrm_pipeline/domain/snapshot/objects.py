"""Bodies whose rows are JSON objects: translated to lines for the parser, and its results back to objects."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from wrm_pipeline.domain.feeds.translation import DeadObject, Translation
from wrm_pipeline.domain.snapshot.exact import SourceLine, cut, good_lines
from wrm_pipeline.domain.snapshot.records import (
    MAX_DEAD_BYTES_KEPT,
    MAX_DEAD_ROWS_KEPT,
    DeadRow,
    FileFault,
    FileResult,
    Part,
    RawSnapshot,
    micros_of,
)
from wrm_pipeline.domain.snapshot.text import count_lines


@dataclass(frozen=True, slots=True)
class Translated:
    """A JSON body as lines; with a `fault` it has no objects."""

    original: RawSnapshot
    lines: RawSnapshot
    dead: tuple[DeadObject, ...]
    fault: FileFault | None


def as_lines(file: RawSnapshot) -> Translated | None:
    """A body of JSON objects as lines; None for one that consists of lines."""
    found = _translation_of(file)
    if found is None:
        return None
    fault = FileFault(*found.fault) if found.fault else None
    lines = replace(file, body=b"" if fault else found.body, corrections={})
    return Translated(file, lines, found.dead, fault)


def _translation_of(file: RawSnapshot) -> Translation | None:
    translate = file.kind.translate
    return translate(file.body, micros_of(file.file_timestamp), file.corrections) if translate else None


def as_example(file: RawSnapshot) -> tuple[bytes, int]:
    """A body as lines for showing values to a person, and the number of its first line.

    An object that cannot become a line appears as its JSON.
    """
    found = _translation_of(file)
    if found is None or found.fault is not None:
        return file.body, 1
    lines = [line or found.text_of(number) for number, line in enumerate(found.lines, start=1)]
    return replace(found, lines=tuple(lines)).body, 0


def without_objects(file: RawSnapshot, fault: FileFault) -> Part:
    """The result of a body without objects: each line that is not blank is dead."""
    return Part(None, [FileResult(0, 0, dead_counts={fault.error_type: count_lines(file.body)}, fault=fault)])


def of_objects(result: FileResult, translated: Translated) -> FileResult:
    """Convert a result about lines to one about objects, including those that did not become a line."""
    counts = Counter(result.dead_counts)
    given = [DeadRow(dead.number, "", dead.error_type, dead.field, dead.error_message) for dead in translated.dead] + [
        replace(row, line_number=row.line_number - 1) for row in result.dead_rows
    ]
    fault = result.fault
    if translated.lines.fault is not None and fault is not None:
        # All of them are rejected, whatever they contain.
        counts[fault.error_type] += len(translated.dead)
        return replace(result, dead_counts=counts)
    counts.update(dead.error_type for dead in translated.dead)
    # Read again: few bodies have such objects, and otherwise the whole batch would have to be kept.
    again = _translation_of(translated.original) if given else None
    kept: list[DeadRow] = []
    kept_of: Counter[str] = Counter()
    kept_bytes = 0
    for row in sorted(given, key=lambda row: row.line_number):
        kept_of[row.error_type] += 1
        if again and kept_of[row.error_type] <= MAX_DEAD_ROWS_KEPT and kept_bytes <= MAX_DEAD_BYTES_KEPT:
            kept.append(replace(row, raw_data=cut(again.text_of(row.line_number))))
            kept_bytes += len(kept[-1].raw_data)
    if fault is not None and fault.error_type == "file_no_valid_row" and kept:
        reason = f"object {kept[0].line_number}: {kept[0].error_message}"
        fault = replace(fault, error_message=f"None of {counts.total()} objects is valid; {reason}")
    return replace(result, dead_rows=tuple(kept), dead_counts=counts, fault=fault)


def lines_of(file: RawSnapshot, station_id: str) -> list[SourceLine]:
    """The good lines or objects about one station, in order; the last with the latest report became the row."""
    return [_in_source(file, line) for name, line in _good_lines(file) if name == station_id]


def lines_by_id(file: RawSnapshot, station_ids: Collection[str]) -> dict[str, SourceLine]:
    """The line or object that became the row of each of these stations."""
    found: dict[str, SourceLine] = {}
    for name, line in _good_lines(file):
        if name in station_ids and (name not in found or line.reported_at >= found[name].reported_at):
            found[name] = line
    return {name: _in_source(file, line) for name, line in found.items()}


def _good_lines(file: RawSnapshot) -> Iterator[tuple[str, SourceLine]]:
    translated = as_lines(file)
    if translated is None or translated.fault is None:
        yield from good_lines(file if translated is None else translated.lines)


def _in_source(file: RawSnapshot, line: SourceLine) -> SourceLine:
    """Convert a line of the translation to the object that it was made from."""
    locate = file.kind.locate
    if locate is None:
        return line
    number = line.line_number - 1
    source = locate(file.body, number)
    return SourceLine(
        number,
        source.offset,
        source.length,
        source.text,
        source.encoding,
        file.corrections.get(number),
        line.reported_at,
        "object",
    )
