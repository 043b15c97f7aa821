"""Rebuilds processed, enhanced and bike position partitions from `raw/` and `dlq/`, with the code that every run uses.

Partitions that are already right are left alone, so an interrupted rebuild continues where it stopped.
"""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.domain.layout import Layout, folder_date
from wrm_pipeline.domain.rules import NO_STRICT_RULES, ServiceArea, StrictRules
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline.flows.bike_positions import NoAnswersError, PositionsPartition, positions_partition
from wrm_pipeline.flows.enhance import EnhancedPartition, enhance_partition
from wrm_pipeline.flows.process import ProcessedPartition, process_partition
from wrm_pipeline.flows.take_over import TakeOver
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions

Layer = Literal["processed", "enhanced", "bike_positions"]
LAYERS: tuple[Layer, ...] = ("processed", "enhanced", "bike_positions")


@dataclass(frozen=True, slots=True)
class RebuiltPartition:
    """The result for one day.

    Attributes:
        dt: The day.
        written: Layers that were written.
        snapshots: Raw objects that its rows come from.
        counts: What became of their lines.
        rows_before: Rows published before, in the processed layer.
        take_over: By layer, what happened to other writers' files.
        vanished: Raw objects that are gone, and whose rows are kept.
        replaced: Layers whose object was not ours or could not be read.
    """

    dt: date
    written: tuple[Layer, ...]
    snapshots: int
    counts: LineCounts
    rows_before: int = 0
    take_over: Mapping[Layer, TakeOver] = field(default_factory=dict)
    vanished: int = 0
    replaced: tuple[Layer, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """Anything unusual, one line each."""
        said = [f"{layer}: the existing object is not ours and is kept in superseded/" for layer in self.replaced]
        if self.vanished:
            said.append(f"{self.vanished} raw objects are gone; their rows are kept")
        for layer, over in self.take_over.items():
            if over.rows_taken:
                said.append(f"{layer}: {over.rows_taken:,} rows that only other files have are taken over")
            if over.superseded:
                said.append(f"{layer}: {len(over.superseded)} files move to superseded/, e.g. {over.superseded[0]}")
            said.extend(f"{layer}: stays where it is: {stray}" for stray in over.left)
        return said


def days_of(store: ObjectStore, layout: Layout, first: date | None = None, last: date | None = None) -> list[date]:
    """The days with a folder in `raw/` or in a layer, from `first` to `last`, inclusive.

    Some may not be partitions (`Layout.not_a_partition`).
    """
    prefixes = (layout.raw_prefix, *(layout.layer_prefix(layer) for layer in LAYERS))
    days = {folder_date(folder) for prefix in prefixes for folder in store.list_folders(prefix)}
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
    strict: StrictRules = NO_STRICT_RULES,
) -> RebuiltPartition:
    """Build a day and publish what differs from the published partitions.

    Args:
        store: Where raw and dead letters are.
        layout: Names of objects.
        dt: The day.
        area: The service area, for the flags.
        now: Aware; the time at which rows count as parsed.
        layers: What may be written; enhanced alone is made from the processed partition as it would be.
        reparse: Raw objects to parse again although the published partition has them.
        full: Parse everything again.
        allow_shrink: Drop rows that would otherwise be kept.
        moved: Raw objects that were moved: their rows are dropped.
        run_id: Kept in the metadata of published objects.
        cache: Holds raw objects and dead letters, to save requests.
        strict: The rules whose rows are dead letters.

    Raises:
        NoRawDataError: there is nothing to build it from.
        ExternalError: the store failed; run it again.
        PartitionWouldShrinkError: a partition would lose rows; it was left unchanged.
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
        strict=strict,
    )
    taken_over: dict[Layer, TakeOver] = {"processed": processed.take_over}
    replaced: list[Layer] = []
    may_shrink = allow_shrink or bool(moved)

    def publish(layer: Layer, result: ProcessedPartition | EnhancedPartition | PositionsPartition) -> None:
        file = result.to_publish(allow_shrink=may_shrink)
        if file is not None:
            partitions.publish(layer, dt, file)
            written.append(layer)
            replaced.extend([layer] if file.set_aside is not None else [])

    if "processed" in layers:
        publish("processed", processed)
    if "enhanced" in layers:
        enhanced = enhance_partition(processed.file, partitions, dt, area=area, built_at=now, allow_shrink=allow_shrink)
        taken_over["enhanced"] = enhanced.take_over
        publish("enhanced", enhanced)
    if "bike_positions" in layers:
        with contextlib.suppress(NoAnswersError):  # most days have no answer of the operator's feed
            publish(
                "bike_positions",
                positions_partition(
                    partitions, dt, built_at=now, full_rebuild=full, allow_shrink=may_shrink, cache=cache
                ),
            )
    return RebuiltPartition(
        dt,
        tuple(written),
        len(processed.manifest.sources),
        processed.manifest.counts,
        processed.rows_before,
        taken_over,
        len(processed.vanished),
        tuple(replaced),
    )
