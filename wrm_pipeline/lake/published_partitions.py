"""Published partitions of the Parquet layers in the object store: one object each, replaced atomically."""

import hashlib
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa

from wrm_pipeline.clients.errors import DamagedContentError, ObjectNotFoundError, UnexpectedAnswerError
from wrm_pipeline.domain.layout import Layout, folder_date, folder_dates, local_date
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import check_shrink
from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema, with_later_columns
from wrm_pipeline.lake.object_store import RUN_ID, ObjectInfo, ObjectStore

LAYERS = ("processed", "enhanced")


class UnreadablePartitionError(UnexpectedAnswerError):
    """A published object is not a Parquet file of ours, so its content is unknown."""


@dataclass(frozen=True, slots=True)
class Published:
    """The object under a partition's key: `parts` if it is ours.

    Otherwise `data` is its content (None: there is none, or it cannot be fetched), and `problem` says what is wrong.
    """

    parts: ParquetParts | None
    data: bytes | None = None
    problem: str = ""

    @property
    def set_aside(self) -> bytes | None:
        """Another writer's content, to be saved before it is replaced."""
        return self.data if self.parts is None else None


@dataclass(frozen=True, slots=True)
class PartitionFile:
    """A partition ready to be published.

    Attributes:
        data: The Parquet file.
        row_count: Its rows.
        rows_before: The rows that it replaces.
        allow_shrink: Whether an operator agreed to fewer rows.
        superseded: Keys of other writers' files whose rows it includes.
        set_aside: Another writer's content that is under the key now.
    """

    data: bytes
    row_count: int
    rows_before: int
    allow_shrink: bool = False
    superseded: tuple[str, ...] = ()
    set_aside: bytes | None = None


@dataclass(frozen=True, slots=True)
class PublishedPartitions:
    """Reads and replaces partitions; `layer` is `processed` or `enhanced`, or one of somebody's own assets.

    `run_id` is the publishing run; it is kept in the objects' metadata.
    """

    store: ObjectStore
    layout: Layout
    run_id: str = ""

    def read(self, layer: str, dt: date) -> ParquetParts | None:
        """The published partition, or None if there is none.

        Raises:
            UnreadablePartitionError: the object is not a Parquet file.
        """
        return self.read_key(self.layout.partition_key(layer, dt))

    def read_key(self, key: str) -> ParquetParts | None:
        """As `read`, of any layer's object."""
        try:
            data = self.store.get(key)
        except ObjectNotFoundError:
            return None
        except DamagedContentError as error:
            raise self._unreadable(key, error.problem) from error
        try:
            return ParquetParts.open(data)
        except (ValueError, OSError, LookupError, zlib.error) as error:  # Arrow's own are among them
            raise self._unreadable(key, f"the object is not a Parquet file ({error})") from error

    def _unreadable(self, key: str, problem: str) -> UnreadablePartitionError:
        remedy = (
            "The next run of the day keeps it in superseded/ and rebuilds it; find out what else writes to the lake"
        )
        return UnreadablePartitionError(problem, self.store.name, "get", key, remedy)

    def read_enhanced_rows(self, dt: date, columns: Sequence[str] = tuple(ENHANCED.columns)) -> pa.Table | None:
        """The rows of an enhanced partition, strings dictionary-encoded; None if there is none.

        Raises:
            UnreadablePartitionError: the object is damaged, or lacks these columns with these types.
        """
        parts = self.read("enhanced", dt)
        if parts is None:
            return None
        try:
            present = [name for name in columns if name in parts.metadata.schema.names]
            groups = [with_later_columns(group) for group in parts.read_groups(columns=present)]
            rows = pa.concat_tables(groups) if groups else arrow_schema(ENHANCED).empty_table()
            rows = rows.select(columns)
            _check_types(rows)
        except (ValueError, OSError, LookupError) as error:  # Arrow's own are among them
            raise UnreadablePartitionError(
                f"the object is damaged or another writer's ({error})",
                self.store.name,
                "read",
                self.layout.partition_key("enhanced", dt),
                f"`wrm rebuild --from {dt} --to {dt}` makes it again",
            ) from error
        return rows

    def find(self, layer: str, dt: date) -> "Published":
        """The object under the partition's key: ours, none, or one that a build replaces.

        Raises:
            ExternalError: the store failed.
        """
        key = self.layout.partition_key(layer, dt)
        try:
            data = self.store.get(key)
        except ObjectNotFoundError:
            return Published(None)
        except DamagedContentError as error:
            return Published(None, problem=str(error))
        try:
            parts = ParquetParts.open(data)
            wanted = "parser" if layer == "processed" else "rules"
            if wanted in parts.footer_metadata:
                return Published(parts, data)
            return Published(None, data, f"{key} is a Parquet file, but not one of this pipeline's")
        except (ValueError, OSError, LookupError, TypeError, zlib.error) as error:  # Arrow's own are among them
            return Published(None, data, f"{key} is not a Parquet file, or damaged ({error})")

    def publish(self, layer: str, dt: date, file: PartitionFile) -> ObjectInfo:
        """Replace a partition with one atomic write.

        First, another writer's object under the key is saved below `superseded/` (`set_aside`); afterwards, other
        writers' files whose rows it includes move there (`superseded`). A crash in between leaves them in place, and
        the next reconciliation moves them.

        Raises:
            PartitionWouldShrinkError: it would lose more than 5 % of its rows; nothing was written.
        """
        key = self.layout.partition_key(layer, dt)
        check_shrink(f"{layer} dt={dt}", file.row_count, file.rows_before, allow_shrink=file.allow_shrink)
        if file.set_aside is not None:
            self._keep(layer, dt, key, file.set_aside)
        written = self.put_key(key, file.data)
        for other in file.superseded:
            self.supersede(layer, dt, other)
        return written

    def put_key(self, key: str, data: bytes) -> ObjectInfo:
        """Write the object of a partition."""
        metadata = {RUN_ID: self.run_id} if self.run_id else None
        return self.store.put(key, data, metadata=metadata, content_type="application/vnd.apache.parquet")

    def supersede(self, layer: str, dt: date, key: str) -> None:
        """Move a file out of a partition's folder, to be kept for a while: copied, compared, then removed."""
        try:
            data = self.store.get(key)
        except ObjectNotFoundError:
            return  # another run did it
        self._keep(layer, dt, key, data)
        self.store.delete(key)

    def _keep(self, layer: str, dt: date, key: str, data: bytes) -> None:
        name = key.removeprefix(self.layout.partition_folder(layer, dt))
        stem = name.removesuffix(".parquet")
        for target in (name, f"{stem}.{hashlib.sha256(data).hexdigest()[:12]}.parquet"):
            copy = self.layout.superseded_key(layer, dt, target)
            self.store.put_if_absent(copy, data)
            if self.store.get(copy) == data:
                return
        raise UnexpectedAnswerError("it does not hold what was just stored", self.store.name, "get", copy)

    def strays(self, layer: str, dt: date) -> list[ObjectInfo]:
        """Parquet objects of other writers in a partition's folder and below it; one listing."""
        folder = self.layout.partition_folder(layer, dt)
        return [info for info in self.store.list(folder) if self._is_stray(layer, dt, info.key)]

    def strays_by_day(self) -> dict[date, list[ObjectInfo]]:
        """Parquet objects of other writers in partition folders; one listing per layer and 1,000 days."""
        found: dict[date, list[ObjectInfo]] = {}
        for layer in LAYERS:
            for info in self.store.list(self.layout.layer_prefix(layer)):
                dt = self._day_of(layer, info.key)
                if dt is not None and self._is_stray(layer, dt, info.key):
                    found.setdefault(dt, []).append(info)
        return found

    def _day_of(self, layer: str, key: str) -> date | None:
        """The partition whose folder holds an object, directly or below."""
        return folder_date(key.removeprefix(self.layout.layer_prefix(layer)).partition("/")[0])

    def _is_stray(self, layer: str, dt: date, key: str) -> bool:
        return key.endswith(".parquet") and key != self.layout.partition_key(layer, dt)

    def dates(self, layer: str) -> list[date]:
        """The dates with a folder in a layer, ascending; a single listing."""
        return folder_dates(self.store.list_folders(self.layout.layer_prefix(layer)))

    def newest(self, layer: str, today: date | None = None, *, without: Collection[date] = ()) -> date | None:
        """The newest date up to `today` (default: the current date) with a published object, `without` some.

        Later days, published while a clock was ahead, do not count until they come.
        """
        latest = today or local_date(datetime.now(UTC))
        for dt in reversed(self.dates(layer)):
            if dt <= latest and dt not in without and self.store.stat(self.layout.partition_key(layer, dt)) is not None:
                return dt
        return None

    def objects(self, layer: str) -> Iterator[ObjectInfo]:
        """All published objects of a layer, without strays."""
        for info in self.store.list(self.layout.layer_prefix(layer)):
            dt = folder_date(info.key.rpartition("/")[0])
            if dt is not None and info.key == self.layout.partition_key(layer, dt):
                yield info


def _check_types(rows: pa.Table) -> None:
    for field in rows.schema:
        found = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if found != ENHANCED.columns[field.name].type:
            raise ValueError(f"column {field.name} is of type {found}")
