"""Files of other writers in the folders of partitions: what ours lacks of them is taken over, then they move aside."""

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
    """What becomes of the files of other writers beside a partition.

    Attributes:
        superseded: Keys of those that move aside once the partition is published: their rows are in it.
        left: Those that stay where they are: they hold rows that ours lacks, or cannot be read.
        rows_taken: Rows that were taken over from them.
        file_count: How many there are.
        row_count: Rows in them; what several of them have counts as often.
    """

    superseded: tuple[str, ...] = ()
    left: tuple[Judged, ...] = ()
    rows_taken: int = 0
    file_count: int = 0
    row_count: int = 0


NOTHING = TakeOver()


def donors(partitions: PublishedPartitions, dt: date, processed: Published) -> list[StrayFile]:
    """Files that may hold rows of a day which ours lacks; a listing for each layer.

    Where there is no processed partition of ours, the enhanced one is among them: it has the same rows.
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
    """The processed partition with rows that it lacks and others have (None: it lacks none), and what was found."""
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
    """Which files move aside now that `ours` is as it is to be.

    Raises:
        PartitionWouldShrinkError: it `must_fit`, and more than 5 % of all rows are only in files of others.
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
    """Whether a partition is refused that lacks rows of others' files.

    Not where one of ours is published, nor on the day of now: a file that anyone puts there must not stop the city. It
    stays where it is, and is named.
    """
    return published is None and dt != local_date(now)


def remove_expired(store: ObjectStore, layout: Layout, *, now: datetime, max_age: timedelta = MAX_AGE) -> int:
    """Remove superseded files that have been kept for long enough; gives their number.

    Raises:
        ExternalError: the store failed; what is left goes the next time.
    """
    removed = 0
    for layer in LAYERS:
        for info in list(store.list(layout.superseded_prefix(layer))):
            if now - info.last_modified > max_age:
                store.delete(info.key)
                removed += 1
    return removed
