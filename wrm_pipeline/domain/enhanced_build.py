"""A day's processed partition -> its enhanced partition: each row classified and flagged."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.manifest import AccountingError, parse_times
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.rules import STALE_AFTER, ServiceArea
from wrm_pipeline.domain.schemas import (
    ENHANCED,
    FLAGS,
    RECORD_TYPES,
    arrow_schema,
    validate,
    with_later_columns,
)

# Stored with the enhanced partition: a different version means that its rows are built again.
RULES_VERSION = "2"


@dataclass(frozen=True, slots=True)
class EnhancedBuild:
    """An enhanced partition, ready to be published.

    `counts` has rows by record type and by flag, for the whole partition.
    """

    data: bytes
    row_count: int
    counts: Mapping[str, int]


def build_enhanced(
    processed: ParquetParts, previous: ParquetParts | None, *, area: ServiceArea, dt: date, build_id: str
) -> EnhancedBuild:
    """Classify and flag the rows of a processed partition.

    A pure function of the processed file, the area and RULES_VERSION: rows of frozen row groups that `previous` was
    built from are copied unchanged.
    """
    rules = rules_id(area)
    parsed_at = parse_times(processed.footer_metadata)
    if parsed_at is None:
        raise AccountingError("The processed partition does not list its raw objects; rebuild it (full_rebuild).")
    keep = previous is not None and previous.footer_metadata.get("rules") == rules and _starts_like(previous, processed)
    writer = PartsWriter(arrow_schema(ENHANCED), build_id, previous if keep else None)
    kept_groups = previous.frozen_count if previous is not None and keep else 0
    frozen_counts: Counter[str] = Counter(
        previous.footer_metadata["sealed_counts"] if previous is not None and keep else {}
    )
    tail_counts: Counter[str] = Counter()
    for group, rows in enumerate(processed.read_groups(kept_groups), start=kept_groups):
        enhanced = enhance_rows(rows, area=area, dt=dt, processed_at=parsed_at)
        validate(enhanced, ENHANCED)
        writer.write(enhanced)
        (frozen_counts if group < processed.frozen_count else tail_counts).update(_count_rows(enhanced))
    if writer.row_count != processed.row_count:
        raise AccountingError(f"{processed.row_count} processed rows became {writer.row_count} enhanced rows.")
    footer = {
        "rules": rules,
        "strict": strict_of(processed),
        "source_built_at": processed.footer_metadata["built_at"],
        "source_groups": list(processed.group_ids),
        "sealed_counts": dict(frozen_counts),
    }
    counts = {name: frozen_counts[name] + tail_counts[name] for name in (*RECORD_TYPES, *FLAGS)}
    return EnhancedBuild(writer.finish(footer), writer.row_count, counts)


def rules_id(area: ServiceArea) -> str:
    """Identifies a set of flag rules."""
    return f"{RULES_VERSION} {area}"


def strict_of(parts: ParquetParts) -> str:
    """The strict rules that judged the rows of a partition of either layer; empty for none."""
    return str(parts.footer_metadata.get("strict", ""))


def has_todays_rules(enhanced: ParquetParts) -> bool:
    """Whether an enhanced partition was made by this version's rules, for any area."""
    return str(enhanced.footer_metadata.get("rules", "")).partition(" ")[0] == RULES_VERSION


def is_derived_from(enhanced: ParquetParts, processed: ParquetParts) -> bool:
    """Whether an enhanced partition was made from exactly this processed one."""
    return (
        "built_at" in processed.footer_metadata
        and enhanced.footer_metadata.get("source_built_at") == processed.footer_metadata["built_at"]
    )


def _starts_like(enhanced: ParquetParts, processed: ParquetParts) -> bool:
    groups = tuple(enhanced.footer_metadata.get("source_groups", ()))
    if len(groups) != enhanced.frozen_count or groups != processed.group_ids[: len(groups)]:
        return False
    # Groups end at other rows if FROZEN_ROWS had another value when the processed file was started.
    return all(
        enhanced.metadata.row_group(i).num_rows == processed.metadata.row_group(i).num_rows for i in range(len(groups))
    )


def enhance_rows(rows: pa.Table, *, area: ServiceArea, dt: date, processed_at: Mapping[str, datetime]) -> pa.Table:
    """Add class, partition date, time of processing (by raw object) and flags to processed rows.

    Rows of an older parser are accepted, too. A flag is off if the values that it depends on are unknown.
    """
    rows = with_later_columns(rows)
    ids, names, sources = (rows[name].chunk(0) for name in ("station_id", "name", "s3_source_key"))
    id_values, name_values = ids.dictionary.to_pylist(), names.dictionary.to_pylist()
    id_codes, name_codes = ids.indices.to_numpy(), names.indices.to_numpy()
    digits = np.array([value.isascii() and value.isdigit() for value in id_values], dtype=bool)[id_codes]
    floating = np.array([value.startswith("fb") for value in id_values], dtype=bool)[id_codes]
    bike_name = np.array([value.startswith("BIKE") for value in name_values], dtype=bool)[name_codes]
    is_bike = floating & bike_name
    is_station = (digits & ~bike_name) | (_of_feeds_with_any_ids(rows) & ~is_bike)
    type_codes = np.where(is_station, 0, np.where(is_bike, 1, 2)).astype(np.int8)
    lat, lon, bikes = (rows[name].to_numpy() for name in ("lat", "lon", "bikes"))
    # Unknown docks are below 0, and unknown spaces so far below that no number of bikes makes up for it.
    spaces, docks = (_filled(rows[name], unknown) for name, unknown in (("spaces", -1_000_000), ("total_docks", -1)))
    inside = (lat >= area.lat_min) & (lat <= area.lat_max) & (lon >= area.lon_min) & (lon <= area.lon_max)
    age = pc.subtract(rows["file_timestamp"], rows["timestamp"])
    # Dictionaries may hold keys that no row uses any more; a row without a time does not pass validation.
    times = pa.array([processed_at.get(key) for key in sources.dictionary.to_pylist()], pa.timestamp("us", "UTC"))
    added = {
        "record_type": pa.DictionaryArray.from_arrays(pa.array(type_codes).cast(pa.int32()), list(RECORD_TYPES)),
        "date": pa.repeat(pa.scalar(dt, pa.date32()), rows.num_rows),
        "processed_at": times.take(sources.indices),
        "over_capacity": pa.array((docks > 0) & (bikes + spaces > docks)),
        "no_docks": pa.array(is_station & (docks == 0)),
        "outside_service_area": pa.array(~inside),
        "stale": pc.greater(age, pa.scalar(STALE_AFTER, pa.duration("us"))),
    }
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return rows.select(list(ENHANCED.columns))


def _of_feeds_with_any_ids(rows: pa.Table) -> NDArray[np.bool_]:
    feeds = rows["feed"].chunk(0)
    any_ids = np.array([KINDS[name].any_ids for name in feeds.dictionary.to_pylist()], dtype=bool)
    return np.asarray(any_ids[feeds.indices.to_numpy()])


def _filled(values: pa.ChunkedArray, unknown: int) -> NDArray[np.int32]:
    known = pc.fill_null(values, unknown) if values.null_count else values
    return np.asarray(known.to_numpy(), dtype=np.int32)


def _count_rows(rows: pa.Table) -> dict[str, int]:
    codes = rows["record_type"].chunk(0).indices.to_numpy()
    counts = dict(zip(RECORD_TYPES, np.bincount(codes, minlength=len(RECORD_TYPES)).tolist(), strict=True))
    return counts | {flag: int(pc.sum(rows[flag]).as_py() or 0) for flag in FLAGS}
