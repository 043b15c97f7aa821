"""Processed and enhanced partitions made anew from what is in `raw/` and `dlq/`, by the code that builds every run's.

What is published already is left alone, so a rebuild that was cut short goes on where it was.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.object_store import ObjectStore
from wrm_pipeline.clients.published_partitions import PublishedPartitions
from wrm_pipeline.domain.layout import Layout, folder_date
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline.flows.process import enhance_partition, process_partition

Layer = Literal["processed", "enhanced"]
LAYERS: tuple[Layer, ...] = ("processed", "enhanced")


@dataclass(frozen=True, slots=True)
class RebuiltPartition:
    """What became of a day: the layers that were written, and what the day holds now."""

    dt: date
    written: tuple[Layer, ...]
    snapshots: int
    counts: LineCounts


def raw_dates(store: ObjectStore, layout: Layout, first: date | None = None, last: date | None = None) -> list[date]:
    """The days that have a raw folder, from `first` to `last`, both included; one listing.

    Some may be no partitions (`Layout.not_a_partition`).
    """
    days = (folder_date(folder) for folder in store.list_folders(layout.raw_prefix))
    return sorted(dt for dt in days if dt and (first is None or dt >= first) and (last is None or dt <= last))


def rebuild_partition(
    store: ObjectStore,
    layout: Layout,
    dt: date,
    *,
    area: ServiceArea,
    now: datetime,
    layers: Collection[Layer] = LAYERS,
    reparse: Collection[str] = (),
    full: bool = False,
    allow_shrink: bool = False,
    moved: Collection[str] = (),
    run_id: str = "",
    cache: Cache = NO_CACHE,
) -> RebuiltPartition:
    """Build a day and publish what differs from what is published.

    Args:
        store: Where raw and dead letters are.
        layout: The keys.
        dt: The day.
        area: The service area, for the flags.
        now: Aware; when rows count as parsed.
        layers: What may be written; enhanced alone is made from the processed partition as it is to be.
        reparse: Raw objects that are parsed again though the published partition has them.
        full: Parse everything again.
        allow_shrink: Let rows leave that would stay otherwise.
        moved: Raw objects that are elsewhere now: their rows leave.
        run_id: Kept in the metadata of what is published.
        cache: Where raw objects and dead letters may be had without a request.

    Raises:
        NoRawDataError: there is nothing to build it from.
        ExternalError: the store failed; run it again.
        PartitionWouldShrinkError: a partition would lose rows; it was left as it is.
    """
    partitions = PublishedPartitions(store, layout, run_id)
    written: list[Layer] = []
    processed = process_partition(
        store,
        layout,
        dt,
        parsed_at=now,
        full_rebuild=full,
        reparse=reparse,
        allow_shrink=allow_shrink,
        moved=moved,
        cache=cache,
    )
    if processed.build is not None and "processed" in layers:
        partitions.publish(
            "processed",
            dt,
            processed.build.data,
            rows_now=processed.build.row_count,
            rows_before=processed.rows_before,
            allow_shrink=allow_shrink or bool(moved),
        )
        written.append("processed")
    if "enhanced" in layers:
        enhanced = enhance_partition(processed.file, partitions, dt, area=area, built_at=now)
        if enhanced.changed:
            partitions.publish(
                "enhanced",
                dt,
                enhanced.build.data,
                rows_now=enhanced.build.row_count,
                rows_before=enhanced.rows_before,
                allow_shrink=allow_shrink or bool(moved),
            )
            written.append("enhanced")
    return RebuiltPartition(dt, tuple(written), len(processed.manifest.sources), processed.manifest.counts)
