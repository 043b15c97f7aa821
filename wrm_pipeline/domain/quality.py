"""Statistics of a table as a whole: counts, shares, and a few samples of violations.

`checks/` decides what passes, and how severe a failure is.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.schemas import SORT_KEY, TableSchema, arrow_schema

MAX_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Violations:
    """The number of violations, and at most MAX_SAMPLES of them."""

    count: int
    samples: tuple[Mapping[str, Any], ...] = ()


def column_differences(file: ParquetParts, schema: TableSchema) -> Violations:
    """Columns whose name, type, nullability or position differs from the schema."""
    expected, actual = (
        [str(field) for field in fields] for fields in (arrow_schema(schema), file.metadata.schema.to_arrow_schema())
    )
    differences = [
        {"position": position, "expected": wanted, "found": found}
        for position, (wanted, found) in enumerate(zip_longest(expected, actual, fillvalue="nothing"))
        if wanted != found
    ]
    return Violations(len(differences), tuple(differences[:MAX_SAMPLES]))


def unbalanced_sources(manifest: Manifest) -> Violations:
    """Raw objects with lines that are not accounted for."""
    wrong = [
        {"source": key, "lines_in": source.counts.lines_in, "counts": str(source.counts)}
        for key, source in manifest.sources.items()
        if not source.counts.balanced
    ]
    return Violations(len(wrong), tuple(wrong[:MAX_SAMPLES]))


def rows_out_of_order(file: ParquetParts) -> Violations:
    """Rows that do not come strictly after the one before by (file_timestamp, station_id).

    If there are none, the rows are sorted and their keys unique: one pass, no hashing.
    """
    count, samples, row = 0, [], 0
    last: tuple[datetime, str] | None = None
    for group in file.read_groups(columns=list(SORT_KEY)):
        if not group.num_rows:
            continue
        times, ids = group["file_timestamp"].chunk(0), group["station_id"].chunk(0)
        names = ids.dictionary.to_pylist()
        rank_of = np.empty(len(names), dtype=np.int64)
        rank_of[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        instants, ranks = times.cast("int64").to_numpy(), rank_of[ids.indices.to_numpy()]
        later = instants[1:] > instants[:-1]
        wrong = ~(later | ((instants[1:] == instants[:-1]) & (ranks[1:] > ranks[:-1])))
        positions = [int(at) + 1 for at in np.flatnonzero(wrong)[:MAX_SAMPLES]]
        count += int(wrong.sum())
        first = (times[0].as_py(), ids[0].as_py())
        if last is not None and first <= last:
            count, positions = count + 1, [0, *positions]
        samples += [{"row": row + at, "file_timestamp": str(times[at]), "station_id": str(ids[at])} for at in positions]
        last, row = (times[-1].as_py(), ids[-1].as_py()), row + group.num_rows
    return Violations(count, tuple(samples[:MAX_SAMPLES]))


def overlapping_stays(rows: pa.Table) -> Violations:
    """Stays of a bike that are not after its stay before: not sorted, or begun before that one ended."""
    bikes = rows["bike_id"].to_pylist()
    arrived, left = (rows[name].cast(pa.int64()).to_pylist() for name in ("arrived_at", "left_at"))
    wrong = [
        at
        for at in range(rows.num_rows)
        if (left[at] is not None and left[at] < arrived[at])
        or (
            at > 0
            and not bikes[at - 1] < bikes[at]
            and (bikes[at - 1] != bikes[at] or left[at - 1] is None or left[at - 1] >= arrived[at])
        )
    ]
    samples = [{"row": at, "bike_id": bikes[at], "arrived_at": str(rows["arrived_at"][at])} for at in wrong]
    return Violations(len(wrong), tuple(samples[:MAX_SAMPLES]))


def count_by(file: ParquetParts, column: str) -> Counter[Any]:
    """The number of rows with each value of a column; 0 for a missing column."""
    counts: Counter[Any] = Counter()
    if column in file.metadata.schema.names:
        for group in file.read_groups(columns=[column]):
            for found in pc.value_counts(group[column].chunk(0)) if group.num_rows else ():
                counts[found["values"].as_py()] += found["counts"].as_py()
    return counts


def newest_rows_with(file: ParquetParts, column: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    """The last rows in which a column has this value, as samples; only from the last row group."""
    if not file.group_count:
        return ()
    rows = next(file.read_groups(file.group_count - 1, columns=["station_id", "name", "file_timestamp", column]))
    strings = rows[column].cast("string") if isinstance(value, str) else rows[column]
    found = rows.filter(pc.equal(strings, value))
    last = found.slice(max(0, found.num_rows - MAX_SAMPLES)).select(["station_id", "name", "file_timestamp"])
    return tuple({**row, "file_timestamp": str(row["file_timestamp"])} for row in last.to_pylist())


@dataclass(frozen=True, slots=True)
class Expectation:
    """How many rows a day should have by now."""

    rows: float
    days_compared: int


def expected_rows(rows_of_earlier_days: Iterable[int], share_of_day: float) -> Expectation | None:
    """The median day, scaled to the share of the day that has passed; None without an earlier day.

    The feed is asked each minute, by day and by night, so rows grow evenly.
    """
    rows = list(rows_of_earlier_days)
    return Expectation(median(rows) * share_of_day, len(rows)) if rows else None


@dataclass(frozen=True, slots=True)
class CountComparison:
    """How far the bikes listed at stations are as many as are counted there.

    Attributes:
        compared: Rows of stations.
        differing: Those with another number; of the last ones, samples.
        stations: Stations among these.
        minutes: Snapshots among these.
    """

    compared: int = 0
    differing: Violations = Violations(0)
    stations: int = 0
    minutes: int = 0


def compare_counts(stays: pa.Table, rows: pa.Table, sources: Collection[str]) -> CountComparison:
    """Compare the stays of bikes at stations with `bikes` of enhanced rows from these raw objects.

    A stay lasts from the first to the last snapshot that shows it, both included.
    """
    wanted = pc.and_(
        pc.is_in(rows["s3_source_key"].cast(pa.string()), pa.array(sorted(sources), pa.string())),
        pc.equal(rows["record_type"].cast(pa.string()), "station"),
    )
    rows = rows.filter(wanted)
    if not rows.num_rows:
        return CountComparison()
    instants = rows["file_timestamp"].cast(pa.int64()).to_numpy()
    times, row_times = np.unique(instants, return_inverse=True)
    ids = rows["station_id"].cast(pa.string()).combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy()
    places = pc.index_in(stays["station_id"].cast(pa.string()), ids.dictionary)
    stays, places = stays.filter(pc.is_valid(places)), pc.drop_null(places).to_numpy()
    begun = np.searchsorted(times, stays["arrived_at"].cast(pa.int64()).to_numpy())
    left = pc.fill_null(stays["left_at"].cast(pa.int64()), int(times[-1])).to_numpy()
    changes = np.zeros((len(ids.dictionary), len(times) + 1), dtype=np.int32)
    np.add.at(changes, (places, begun), 1)
    np.subtract.at(changes, (places, np.searchsorted(times, left, side="right")), 1)
    listed = changes.cumsum(axis=1)[codes, row_times]
    differing = np.flatnonzero(listed != rows["bikes"].to_numpy())
    last = rows.take(pa.array(differing[-MAX_SAMPLES:])).select(["station_id", "name", "file_timestamp", "bikes"])
    samples = [
        {**row, "file_timestamp": str(row["file_timestamp"]), "bikes_listed": int(count)}
        for row, count in zip(last.to_pylist(), listed[differing[-MAX_SAMPLES:]], strict=True)
    ]
    return CountComparison(
        rows.num_rows,
        Violations(len(differing), tuple(samples)),
        len(np.unique(codes[differing])),
        len(np.unique(instants[differing])),
    )
