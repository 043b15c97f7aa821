"""Published partitions of the Parquet layers in the object store: one object each, replaced whole."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa

from wrm_pipeline.clients.errors import ObjectNotFoundError, UnexpectedAnswerError
from wrm_pipeline.clients.object_store import RUN_ID, ObjectInfo, ObjectStore
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.partition_build import check_shrink
from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema, with_later_columns

LAYERS = ("processed", "enhanced")


class UnreadablePartitionError(UnexpectedAnswerError):
    """A published object is no Parquet file of ours, so what it holds is not known."""


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
        try:
            return ParquetParts.open(data)
        except (ValueError, OSError, LookupError, zlib.error) as error:  # Arrow's own are among them
            raise UnreadablePartitionError(
                f"the object is no Parquet file ({error})",
                self.store.name,
                "get",
                key,
                "Nothing here writes such objects; look at who else does. Delete it, and the next run rebuilds it",
            ) from error

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

    def publish(
        self, layer: str, dt: date, data: bytes, *, rows_now: int, rows_before: int, allow_shrink: bool
    ) -> ObjectInfo:
        """Replace a partition by one atomic write; after the first one, remove strays of older writers.

        Later writes do not look for them: that is a listing each minute for what is gone for good. Runs that a person
        asks for do (`remove_strays`), and whatever crash or older writer leaves one all the same, the reconciliation
        sees it (`strayed`), and the run that it asks for removes it.

        Raises:
            PartitionWouldShrinkError: it would lose more than 5 % of its rows; nothing was written.
        """
        key = self.layout.partition_key(layer, dt)
        check_shrink(f"{layer} dt={dt}", rows_now, rows_before, allow_shrink=allow_shrink)
        metadata = {RUN_ID: self.run_id} if self.run_id else None
        written = self.store.put(key, data, metadata=metadata, content_type="application/vnd.apache.parquet")
        if rows_before == 0:
            self.remove_strays(layer, dt)
        return written

    def remove_strays(self, layer: str, dt: date) -> None:
        """Remove other Parquet objects from a partition's folder; only where its own is published."""
        key = self.layout.partition_key(layer, dt)
        keys = [info.key for info in self.store.list(self.layout.partition_folder(layer, dt))]
        if key in keys:
            for other in keys:
                if other != key and other.endswith(".parquet"):
                    self.store.delete(other)

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

    def newest(self, layer: str, today: date | None = None) -> date | None:
        """The newest date up to `today` (by default that of now) that has a published object.

        What a clock that was ahead has published is of later days, and not the newest of anything until these come.
        """
        latest = today or local_date(datetime.now(UTC))
        for dt in reversed(self.dates(layer)):
            if dt <= latest and self.store.stat(self.layout.partition_key(layer, dt)) is not None:
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
