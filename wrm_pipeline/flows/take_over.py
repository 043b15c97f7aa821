"""Other writers' files in partition folders: rows that ours lacks are taken over, then the files move aside."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from wrm_pipeline.clients.errors import PermanentError, UnexpectedAnswerError
from wrm_pipeline.domain.layout import Layout, local_date
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import ProcessedBuild
from wrm_pipeline.domain.strays import MAX_AGE, Judged, OurRows, StrayFile, adopted, check_strays, judge
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.published_partitions import LAYERS, Published, PublishedPartitions


@dataclass(frozen=True, slots=True)
class TakeOver:
    """What happens to other writers' files beside a partition.

    Attributes:
        superseded: Keys of files to move aside once the partition is published, as it has all their rows.
        left: Files that stay in place: they hold rows that ours lacks, or cannot be read.
        rows_taken: Rows taken over from them.
        file_count: Number of files.
        row_count: Rows in all of them; a row in several files counts several times.
    """

    superseded: tuple[str, ...] = ()
    left: tuple[Judged, ...] = ()
    rows_taken: int = 0
    file_count: int = 0
    row_count: int = 0


NOTHING = TakeOver()


def donors(partitions: PublishedPartitions, dt: date, processed: Published) -> list[StrayFile]:
    """Files that may hold rows of a day that ours lacks; one listing per layer.

    Without a processed partition of ours, the enhanced one is among them: it has the same rows.
    """
    found = [stray for layer in reversed(LAYERS) for stray in strays_of(partitions, layer, dt)]
    if processed.parts is None:
        enhanced = partitions.find("enhanced", dt)
        for layer, published in (("enhanced", enhanced), ("processed", processed)):
            if published.data is not None:
                key = partitions.layout.partition_key(layer, dt)
                found.append(StrayFile(key, published.data))
    return found


def strays_of(partitions: PublishedPartitions, layer: str, dt: date) -> list[StrayFile]:
    """Parquet objects of other writers in a partition's folder, with their content."""
    folder, found = partitions.layout.partition_folder(layer, dt), []
    for info in partitions.strays(layer, dt):
        target = partitions.layout.superseded_key(layer, dt, info.key.removeprefix(folder))
        try:
            found.append(StrayFile(info.key, partitions.store.get(info.key), target))
        except (PermanentError, UnexpectedAnswerError) as error:
            found.append(StrayFile(info.key, b"", target, problem=str(error)))
    return found


def with_rows_of(
    files: Iterable[StrayFile], base: ParquetParts, manifest: Manifest, layout: Layout, dt: date, *, parsed_at: datetime
) -> tuple[ProcessedBuild | None, list[Judged]]:
    """The processed partition with the rows that only others have (None: there are none), and what was found."""
    ours = OurRows(base, manifest)
    judged = [judge(file, ours, layout, dt) for file in files]
    return adopted(base, manifest, judged, parsed_at=parsed_at), judged


def settle(
    name: str,
    files: Iterable[StrayFile],
    ours: OurRows,
    layout: Layout,
    dt: date,
    *,
    allow_shrink: bool,
    must_fit: bool,
) -> TakeOver:
    """Which files move aside, given the final state of `ours`.

    Raises:
        PartitionWouldShrinkError: `must_fit` is set, and more than 5 % of all rows are only in other writers' files.
    """
    judged = [judge(file, ours, layout, dt) for file in files if file.moves_to]
    if must_fit:
        check_strays(name, ours.row_count, judged, allow_shrink=allow_shrink)
    gone = [stray for stray in judged if stray.broken or (not stray.foreign and (allow_shrink or not stray.lost))]
    return TakeOver(
        superseded=tuple(stray.file.key for stray in gone),
        left=tuple(stray for stray in judged if not any(stray is other for other in gone)),
        file_count=len(judged),
        row_count=sum(stray.row_count for stray in judged),
    )


def must_fit(dt: date, published: ParquetParts | None, now: datetime) -> bool:
    """Whether to refuse a partition that lacks rows of other writers' files.

    Not if one of ours is published, nor for the current day: a file that anyone puts there must not stop the pipeline.
    It stays in place and is reported.
    """
    return published is None and dt != local_date(now)


def remove_expired(store: ObjectStore, layout: Layout, *, now: datetime, max_age: timedelta = MAX_AGE) -> int:
    """Remove superseded files that have been kept long enough; returns their number.

    Raises:
        ExternalError: the store failed; the rest is removed next time.
    """
    removed = 0
    for layer in LAYERS:
        for info in list(store.list(layout.superseded_prefix(layer))):
            if now - info.last_modified > max_age:
                store.delete(info.key)
                removed += 1
    return removed
