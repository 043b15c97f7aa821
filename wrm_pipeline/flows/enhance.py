"""processed/ -> enhanced/ of one day."""

import time
import zlib
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from wrm_pipeline.domain.enhanced_build import EnhancedBuild, build_enhanced, is_derived_from, rules_id, strict_of
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.snapshot import PARSER_VERSION
from wrm_pipeline.domain.strays import OurRows
from wrm_pipeline.flows.raw_inputs import published_manifest
from wrm_pipeline.flows.readable import can_be_read
from wrm_pipeline.flows.take_over import NOTHING, TakeOver, must_fit, settle, strays_of
from wrm_pipeline.lake.published_partitions import PartitionFile, Published, PublishedPartitions
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EnhancedPartition:
    """An enhanced partition, built but not yet published; `changed` is False if it is already published.

    `take_over` and `set_aside` are as in ProcessedPartition. `other_rules`: the processed rows were judged by other
    strict rules than those that the published file was made from; their loss was checked when they were published.
    """

    build: EnhancedBuild
    rows_before: int
    changed: bool
    take_over: TakeOver = NOTHING
    set_aside: bytes | None = None
    other_rules: bool = False

    def to_publish(self, *, allow_shrink: bool) -> PartitionFile | None:
        """What to publish; None if nothing changed."""
        if not self.changed:
            return None
        data, rows = self.build.data, self.build.row_count
        before = 0 if self.other_rules else self.rows_before
        return PartitionFile(data, rows, before, allow_shrink, self.take_over.superseded, self.set_aside)


def enhance_partition(
    processed: ParquetParts,
    partitions: PublishedPartitions,
    dt: date,
    *,
    area: ServiceArea,
    built_at: datetime,
    allow_shrink: bool = False,
    look_for_strays: bool = True,
) -> EnhancedPartition:
    """Classify and flag a day's processed rows.

    Raises:
        PartitionWouldShrinkError: other writers' files hold rows that are not among them.
    """
    published = partitions.find("enhanced", dt)
    started = time.monotonic()

    def build_on(previous: ParquetParts | None) -> EnhancedBuild:
        return build_enhanced(processed, previous, area=area, dt=dt, build_id=built_at.isoformat())

    try:
        build = build_on(published.parts)
    except (pa.ArrowException, OSError, zlib.error):
        if published.parts is None or can_be_read(published.parts):
            raise
        published = Published(None, published.data, "its rows cannot be read")
        build = build_on(None)
    _log.info(
        "built enhanced partition", dt=str(dt), rows=build.row_count, seconds=round(time.monotonic() - started, 3)
    )
    previous = published.parts
    changed = not is_current(previous, processed, area)
    if not changed and previous is not None and not can_be_read(previous):
        published, previous, changed = Published(None, published.data, "its rows cannot be read"), None, True
    files = []
    if look_for_strays or previous is None or not changed:
        files = strays_of(partitions, "enhanced", dt)
    over = NOTHING
    if files:
        over = settle(
            f"enhanced dt={dt}",
            files,
            OurRows(ParquetParts.open(build.data), published_manifest(processed) or Manifest(PARSER_VERSION, {})),
            partitions.layout,
            dt,
            allow_shrink=allow_shrink,
            must_fit=must_fit(dt, previous, built_at),
        )
    if not changed:
        for key in over.superseded:
            partitions.supersede("enhanced", dt, key)
    other_rules = previous is not None and strict_of(previous) != strict_of(processed)
    rows_before = previous.row_count if previous else 0
    return EnhancedPartition(build, rows_before, changed, over, published.set_aside, other_rules)


def is_current(enhanced: ParquetParts | None, processed: ParquetParts, area: ServiceArea) -> bool:
    """Whether the published enhanced partition was made from exactly these processed rows, by the current rules."""
    return (
        enhanced is not None
        and is_derived_from(enhanced, processed)
        and enhanced.footer_metadata.get("rules") == rules_id(area)
    )
