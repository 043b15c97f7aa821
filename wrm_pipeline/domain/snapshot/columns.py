"""Converts columns of text, or of Arrow's types where it could read them, to columns of rows."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.schemas import UTC_TIMESTAMP
from wrm_pipeline.domain.snapshot.records import (
    BATTERY_COLUMN,
    COUNT_COLUMNS,
    EARLIEST_MICROS,
    FLAG_COLUMNS,
    LATEST_AFTER_FETCH_MICROS,
    RefusedError,
)
from wrm_pipeline.domain.snapshot.values import (
    RANGES,
    battery_of,
    coordinate_of,
    count_of,
    flag_of,
    id_of,
    name_of,
    offset_of,
    report_of,
)

TEXT = pa.dictionary(pa.int32(), pa.string())
TRUE_WORDS = ("true", "True", "TRUE")
FALSE_WORDS = ("false", "False", "FALSE")

# Columns that Arrow can parse itself, as long as they have no other spellings.
ARROW_TYPES: dict[str, pa.DataType] = {
    "lat": pa.float64(),
    "lon": pa.float64(),
    **dict.fromkeys(COUNT_COLUMNS, pa.int32()),
    **dict.fromkeys(FLAG_COLUMNS, pa.bool_()),
}

_SAMPLE_ROWS = 1_000
# Longer numbers overflow.
_USUAL_REPORT = r"^-?[0-9]{1,12}\|-?[0-9]{1,9}\|-?[0-9]{1,9}$"
_DECIMAL_SECONDS = r"^\+?[1-9][0-9]{9}\.[0-9]*$"
_MILLISECONDS = r"^\+?[1-9][0-9]{12}$"


def row_columns(raw: pa.Table, file_micros: npt.NDArray[np.int64]) -> pa.Table:
    """The typed columns of rows, from what Arrow has read: one chunk per column, text dictionary-encoded.

    Args:
        raw: Columns by name; those of ARROW_TYPES in their type or as text.
        file_micros: The time of each row's snapshot, microseconds since 1970.

    Raises:
        BadValueError, RefusedError: a value makes its row invalid.
    """
    lat, lon = _coordinate(raw, "lat"), _coordinate(raw, "lon")
    if pc.any(pc.and_(pc.equal(lat, 0.0), pc.equal(lon, 0.0))).as_py():
        raise RefusedError
    columns = {
        "station_id": _mapped_text(only_chunk(raw["station_id"]), id_of),
        "name": _mapped_text(only_chunk(raw["name"]), name_of),
        **_reports(only_chunk(raw["combined"]), file_micros),
        "lat": lat,
        "lon": lon,
    }
    capped = np.zeros(raw.num_rows, dtype=bool)
    for name in COUNT_COLUMNS:
        columns[name] = _counts(raw, name, capped)
    for name in FLAG_COLUMNS:
        columns[name] = _flags(raw, name)
    return pa.table(columns | _battery(raw) | {"count_capped": pa.array(capped)})


def is_usual(name: str, values: pa.StringArray) -> bool:
    """Whether Arrow parses these values of a column itself, and none of them means "unknown"."""
    arrow_type = ARROW_TYPES[name]
    if arrow_type == pa.bool_():
        return set(values.to_pylist()) <= {*TRUE_WORDS, *FALSE_WORDS}
    try:
        found = pc.min_max(pc.ascii_trim(values, " \t").cast(arrow_type)).as_py()
    except pa.ArrowInvalid:
        return False
    return bool(RANGES[name][0] <= found["min"] <= found["max"] <= RANGES[name][1])


def only_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The single array of a column whose chunks were combined."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _mapped_text(array: pa.DictionaryArray, meaning: Callable[[str], str]) -> pa.DictionaryArray:
    texts = array.dictionary.to_pylist()
    values = [meaning(text) for text in texts]
    if values == texts:
        return array
    mapped = pa.array(values, pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(mapped.indices.take(array.indices), mapped.dictionary)


def _mapped(array: pa.DictionaryArray, arrow_type: pa.DataType, meaning: Callable[[str], Any]) -> pa.Array:
    return pa.array([meaning(text) for text in array.dictionary.to_pylist()], arrow_type).take(array.indices)


def _coordinate(raw: pa.Table, name: str) -> pa.Array:
    array = only_chunk(raw[name])
    if array.type == TEXT:
        return _mapped(array, pa.float64(), partial(coordinate_of, name))
    _refuse_range(name, array)
    return array


def _refuse_range(name: str, array: pa.Array) -> None:
    lowest, highest = RANGES[name]
    found = pc.min_max(array)
    # The lowest and the highest value leave NaN out.
    finite = not pa.types.is_floating(array.type) or pc.all(pc.is_finite(array)).as_py()
    if not finite or found["min"].as_py() < lowest or found["max"].as_py() > highest:
        raise RefusedError


def refuse_out_of_range(raw: pa.Table) -> None:
    """Check the numbers that Arrow has read.

    Raises:
        RefusedError: one is out of its range.
    """
    for name in ("lat", "lon", *COUNT_COLUMNS):
        if name in raw.column_names and raw[name].type == ARROW_TYPES[name]:
            _refuse_range(name, only_chunk(raw[name]))


def _counts(raw: pa.Table, name: str, capped: npt.NDArray[np.bool_]) -> pa.Array:
    """A column of counts; rows whose count is capped are marked in `capped`."""
    if name not in raw.column_names:
        return pa.nulls(raw.num_rows, pa.int32())
    array = only_chunk(raw[name])
    if array.type == TEXT:
        values = [count_of(name, text) for text in array.dictionary.to_pylist()]
        if any(value[1] for value in values):
            capped |= np.array([value[1] for value in values], dtype=bool)[array.indices.to_numpy()]
        return pa.array([value[0] for value in values], pa.int32()).take(array.indices)
    _refuse_range(name, array)
    return array


def _flags(raw: pa.Table, name: str) -> pa.Array:
    if name not in raw.column_names:
        return pa.nulls(raw.num_rows, pa.bool_())
    array = only_chunk(raw[name])
    return _mapped(array, pa.bool_(), partial(flag_of, name)) if array.type == TEXT else array


def _battery(raw: pa.Table) -> dict[str, pa.Array]:
    if BATTERY_COLUMN not in raw.column_names:
        return {BATTERY_COLUMN: pa.nulls(raw.num_rows, pa.bool_()), "battery_pct": pa.nulls(raw.num_rows, pa.int16())}
    array = only_chunk(raw[BATTERY_COLUMN])
    values = [battery_of(value) for value in array.dictionary.to_pylist()]
    flags = pa.array([value[0] for value in values], pa.bool_())
    levels = pa.array([value[1] for value in values], pa.int16())
    return {BATTERY_COLUMN: flags.take(array.indices), "battery_pct": levels.take(array.indices)}


# --- the combined field: nearly every row has a different value, so columns of one spelling are read as a whole ------


_Reports = tuple[npt.NDArray[np.int64], pa.Array, pa.Array]


def _reports(column: pa.Array, file_micros: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    # Dictionary-encoding values that rarely repeat costs more than it saves.
    sample = column.slice(0, _SAMPLE_ROWS)
    if pc.count_distinct(sample).as_py() * 2 > len(sample):
        texts, codes = column, None
    else:
        encoded = column.dictionary_encode()
        texts, codes = encoded.dictionary, encoded.indices
    first = texts[0].as_py()
    if first != first.strip():
        texts = pc.ascii_trim(texts, " \t")
    micros, local_s, server_s = _reports_with_one_ending(texts) or _other_reports(texts)
    if codes is not None:
        micros, local_s, server_s = micros[codes.to_numpy()], local_s.take(codes), server_s.take(codes)
    if (micros < EARLIEST_MICROS).any() or (micros > file_micros + LATEST_AFTER_FETCH_MICROS).any():
        raise RefusedError
    return {
        "timestamp": pa.array(micros).cast(UTC_TIMESTAMP),
        "gmt_local_diff_sec": local_s,
        "gmt_servertime_diff_sec": server_s,
    }


def _reports_with_one_ending(texts: pa.StringArray) -> _Reports | None:
    """Times with up to six decimal places and all with the same offsets; None if any differs."""
    _, bar, offsets = texts[0].as_py().partition("|")
    ending = bar + offsets
    if "\n" in ending or not pc.all(pc.ends_with(texts, ending)).as_py():
        return None
    seconds = _plain_seconds(pc.utf8_slice_codeunits(texts, 0, -len(ending)) if ending else texts)
    if seconds is None:
        return None
    report = report_of(texts[0].as_py())
    local_s, server_s = (
        pa.repeat(pa.scalar(value, pa.int32()), len(texts)) for value in (report.local_s, report.server_s)
    )
    return _micros_of(seconds), local_s, server_s


def _micros_of(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    # A float holds the sixteen digits.
    return np.rint(seconds * 1e6).astype(np.int64)


def _other_reports(texts: pa.StringArray) -> _Reports:
    if pc.any(pc.match_substring(texts, "\n")).as_py():
        raise RefusedError
    return _usual_reports(texts) or _reports_of_one_kind(texts) or _each_report(texts)


def _usual_reports(texts: pa.StringArray) -> _Reports | None:
    """Three whole numbers; None if any differs."""
    if not _all_match(texts, _USUAL_REPORT):
        return None
    values = pc.split_pattern(texts, "|").flatten().cast(pa.int64()).to_numpy().reshape(-1, 3)
    # None with 13 digits: those are milliseconds.
    return values[:, 0] * 1_000_000, pa.array(values[:, 1].astype(np.int32)), pa.array(values[:, 2].astype(np.int32))


def _all_match(texts: pa.StringArray, pattern: str) -> bool:
    """Whether all match; usually the first one shows that they do not."""
    return re.search(pattern, texts[0].as_py()) is not None and bool(
        pc.all(pc.match_substring_regex(texts, pattern)).as_py()
    )


def _each_report(texts: pa.StringArray) -> _Reports:
    values = [report_of(text) for text in texts.to_pylist()]
    return (
        np.array([value.micros for value in values], dtype=np.int64),
        pa.array([value.local_s for value in values], pa.int32()),
        pa.array([value.server_s for value in values], pa.int32()),
    )


def _reports_of_one_kind(texts: pa.StringArray) -> _Reports | None:
    """The reports, if all have the same number of parts and one kind of time; else None."""
    parts = pc.split_pattern(texts, "|")
    lengths = pc.min_max(pc.list_value_length(parts)).as_py()
    count = lengths["min"]
    if count != lengths["max"] or not 1 <= count <= 3:
        return None
    flat, starts = parts.flatten(), np.arange(len(texts)) * count
    micros = _micros_of_one_kind(pc.ascii_trim_whitespace(flat.take(pa.array(starts)) if count > 1 else flat))
    if micros is None:
        return None
    offsets = [_offsets(flat.take(pa.array(starts + place))) for place in range(1, count)]
    local_s, server_s = (*offsets, *(pa.nulls(len(texts), pa.int32()) for _ in range(3 - count)))
    return micros, local_s, server_s


def _micros_of_one_kind(times: pa.StringArray) -> npt.NDArray[np.int64] | None:
    digits = pc.ascii_ltrim(times, "+")
    seconds = _plain_seconds(digits)
    if seconds is not None and pc.max(pc.subtract(pc.binary_length(times), pc.binary_length(digits))).as_py() < 2:
        return _micros_of(seconds)
    if _all_match(times, _MILLISECONDS):
        return np.asarray(digits.cast(pa.int64()).to_numpy() * 1_000)
    if _all_match(times, _DECIMAL_SECONDS):
        halves = pc.split_pattern(digits, ".").flatten()
        places = pc.utf8_slice_codeunits(pc.ascii_rpad(halves[1::2], 7, "0"), 0, 7).cast(pa.int64()).to_numpy()
        return np.asarray(halves[0::2].cast(pa.int64()).to_numpy() * 1_000_000 + (places + 5) // 10)
    return None


def _plain_seconds(times: pa.StringArray) -> npt.NDArray[np.float64] | None:
    """Seconds with ten digits and up to six decimal places, or None if any differs: a float holds sixteen digits.

    Checked by length and value, which takes half the time of a regular expression.
    """
    if pc.max(pc.binary_length(times)).as_py() > len("1755781502.123456"):
        return None
    if any(pc.any(pc.match_substring(times, letter)).as_py() for letter in "eE"):
        return None
    try:
        seconds: npt.NDArray[np.float64] = times.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return seconds if ((seconds >= 1e9) & (seconds < 1e10)).all() else None


def _offsets(texts: pa.StringArray) -> pa.Array:
    encoded = texts.dictionary_encode()
    try:
        values = [offset_of(text.strip()) for text in encoded.dictionary.to_pylist()]
    except ValueError as error:
        raise RefusedError from error
    return pa.array(values, pa.int32()).take(encoded.indices)
