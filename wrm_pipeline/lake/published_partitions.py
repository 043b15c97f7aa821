"""Published partitions of the Parquet layers in the object store: one object each, replaced whole."""

import hashlib
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa

from wrm_pipeline.clients.errors import DamagedContentError, ObjectNotFoundError, UnexpectedAnswerError
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import check_shrink
from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema, with_later_columns
from wrm_pipeline.lake.object_store import RUN_ID, ObjectInfo, ObjectStore

LAYERS = ("processed", "enhanced")


class UnreadablePartitionError(UnexpectedAnswerError):
    """A published object is no Parquet file of ours, so what it holds is not known."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is under a partition's key: `parts` where it is ours.

    Else `data` is what is there (None: nothing, or nothing that can be fetched), and `problem` says what is
    wrong with it.
    """

    parts: ParquetParts | None
    data: bytes | None = None
    problem: str = ""

    @property
    def set_aside(self) -> bytes | None:
        """What is there and not ours: kept before it is replaced."""
        return self.data if self.parts is None else None


@dataclass(frozen=True, slots=True)
class PartitionFile:
    """A partition that is ready to be published.

    Attributes:
        data: The Parquet file.
        row_count: Its rows.
        rows_before: The rows that it replaces.
        allow_shrink: Whether someone has agreed that it may have fewer of them.
        superseded: Keys of other writers' files whose rows are in it.
        set_aside: What is under the key now and is not ours.
    """

    data: bytes
    row_count: int
    rows_before: int
    allow_shrink: bool = False
    superseded: tuple[str, ...] = ()
    set_aside: bytes | None = None


@dataclass(frozen=True, slots=True)
class PublishedPartitions:
    """Reads and replaces partitions; `layer` is `processed` or `enhanced`.

    `run_id` says who publishes; it is kept in the objects' metadata.
    """

    store: ObjectStore
    layout: Layout
    run_id: str = ""

    def read(self, layer: str, dt: date) -> ParquetParts | None:
        """The published partition, or None if there is none.

        Raises:
            UnreadablePartitionError: the object is no Parquet file.
        """
        key = self.layout.partition_key(layer, dt)
        try:
            data = self.store.get(key)
        except ObjectNotFoundError:
            return None
        except DamagedContentError as error:
            raise self._unreadable(key, error.problem) from error
        try:
            return ParquetParts.open(data)
        except (ValueError, OSError, LookupError, zlib.error) as error:  # Arrow's own are among them
            raise self._unreadable(key, f"the object is no Parquet file ({error})") from error

    def _unreadable(self, key: str, problem: str) -> UnreadablePartitionError:
        remedy = "The next run of the day keeps it in superseded/ and builds it again; see who else writes to the lake"
        return UnreadablePartitionError(problem, self.store.name, "get", key, remedy)

    def read_enhanced_rows(self, dt: date, columns: Sequence[str] = tuple(ENHANCED.columns)) -> pa.Table | None:
        """The rows of an enhanced partition, strings dictionary-encoded; None if there is none.

        Raises:
            UnreadablePartitionError: the object is damaged, or has not these columns in these types.
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
        """What is under the partition's key: ours, nothing, or something that a build replaces.

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
            return Published(None, data, f"{key} is a Parquet file, but not one of this pipeline")
        except (ValueError, OSError, LookupError, TypeError, zlib.error) as error:  # Arrow's own are among them
            return Published(None, data, f"{key} is not a Parquet file that can be read ({error})")

    def publish(self, layer: str, dt: date, file: PartitionFile) -> ObjectInfo:
        """Replace a partition by one atomic write.

        Before it, what is under the key and is not ours is kept below `superseded/` (`set_aside`); after it, files of
        other writers whose rows are in ours go there (`superseded`). A crash in between leaves them where they were,
        and the next look does it.

        Raises:
            PartitionWouldShrinkError: it would lose more than 5 % of its rows; nothing was written.
        """
        key = self.layout.partition_key(layer, dt)
        check_shrink(f"{layer} dt={dt}", file.row_count, file.rows_before, allow_shrink=file.allow_shrink)
        if file.set_aside is not None:
            self._keep(layer, dt, key, file.set_aside)
        metadata = {RUN_ID: self.run_id} if self.run_id else None
        written = self.store.put(key, file.data, metadata=metadata, content_type="application/vnd.apache.parquet")
        for other in file.superseded:
            self.supersede(layer, dt, other)
        return written

    def supersede(self, layer: str, dt: date, key: str) -> None:
        """Move a file out of a partition's folder, where it stays for a while: copied, compared, then removed."""
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
        raise UnexpectedAnswerError("it does not hold what was just put there", self.store.name, "get", copy)

    def strays(self, layer: str, dt: date) -> list[ObjectInfo]:
        """Parquet objects of other writers in a partition's folder and below it; one listing."""
        folder = self.layout.partition_folder(layer, dt)
        return [info for info in self.store.list(folder) if self._is_stray(layer, dt, info.key)]

    def strays_by_day(self) -> dict[date, list[ObjectInfo]]:
        """Parquet objects of other writers in the folders of partitions; one listing for each 1,000 days and layer."""
        found: dict[date, list[ObjectInfo]] = {}
        for layer in LAYERS:
            for info in self.store.list(self.layout.layer_prefix(layer)):
                dt = self._day_of(layer, info.key)
                if dt is not None and self._is_stray(layer, dt, info.key):
                    found.setdefault(dt, []).append(info)
        return found

    def _day_of(self, layer: str, key: str) -> date | None:
        """The partition in whose folder, or below it, an object is."""
        return folder_date(key.removeprefix(self.layout.layer_prefix(layer)).partition("/")[0])

    def _is_stray(self, layer: str, dt: date, key: str) -> bool:
        return key.endswith(".parquet") and key != self.layout.partition_key(layer, dt)

    def dates(self, layer: str) -> list[date]:
        """The dates that have a folder in a layer, in order; one listing however many there are."""
        folders = self.store.list_folders(self.layout.layer_prefix(layer))
        return sorted(dt for folder in folders if (dt := folder_date(folder)))

    def newest(self, layer: str, today: date | None = None, *, without: Collection[date] = ()) -> date | None:
        """The newest date up to `today` (by default that of now) that has a published object, `without` some.

        What a clock that was ahead has published is of later days, and not the newest of anything until these come.
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
