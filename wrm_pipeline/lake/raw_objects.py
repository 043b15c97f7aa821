"""A day's raw objects, whether loose in the day's folder or packed in its archive."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime

from wrm_pipeline.clients.errors import ObjectNotFoundError, PermanentError, UnexpectedAnswerError
from wrm_pipeline.domain.feeds import UCL, FeedKind, kind_of
from wrm_pipeline.domain.feeds.gbfs_zip import whole, zips_needed
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.domain.raw_archive import MAX_INDEX_BYTES, ArchiveIndex, ArchiveReader, DamagedArchiveError, Member
from wrm_pipeline.lake.object_store import RUN_ID, ObjectInfo, ObjectStore

# Contents of objects in exactly these versions, in the requested order.
ReadVersions = Callable[[Iterable[ObjectInfo]], Iterator[tuple[str, bytes]]]


def fetched_since(
    store: ObjectStore, layout: Layout, folder: str, start: datetime | None, kinds: Iterable[FeedKind]
) -> Iterator[ObjectInfo]:
    """Objects of a day's folder, of `raw/` or `quarantine/`, that are named later than `start` (aware; None: all).

    One listing for each kind of feed.
    """
    for kind in kinds:
        # The names of UCL's raw objects may begin with anything.
        prefix = folder if kind is UCL else f"{folder}{kind.stem}_"
        is_of_day = start is not None and local_date(start) == folder_date(folder)
        after = f"{folder}{layout.snapshot_name(start, kind)}" if start is not None and is_of_day else ""
        for info in store.list(prefix, start_after=after):
            if kind_of(info.key) is kind:
                yield info


class IncompleteSnapshotError(PermanentError):
    """A raw object needs another one of its day, which is missing or differs from what it was."""


def whole_body(key: str, body: bytes, read: Callable[[str], bytes]) -> bytes:
    """A raw object as the parser needs it: with the files that an earlier one of the day holds.

    Args:
        key: Its key.
        body: Its content; nearly always it is returned as it is.
        read: The content of another raw object of the day, by key.

    Raises:
        IncompleteSnapshotError: the other one is missing.
    """
    kind = kind_of(key)
    needed = zips_needed(body) if kind is not None and kind.of_files else ()
    if not needed:
        return body
    folder = key.rpartition("/")[0]
    try:
        # A damaged description must not lead to other objects.
        others = {name: read(f"{folder}/{name}") for name in needed if "/" not in name and kind_of(name) is kind}
        return whole(body, others)
    except (ObjectNotFoundError, LookupError) as error:
        problem = error.problem if isinstance(error, ObjectNotFoundError) else str(error).strip("'")
        remedy = "Bring that object back; the next run of the day reads both"
        named = f"it needs files of {', '.join(sorted(needed))} of the same day: {problem}"
        raise IncompleteSnapshotError(named, "raw", "read", key, remedy) from error


class UnreadableArchiveError(UnexpectedAnswerError):
    """A day's archive or its index is damaged."""


@dataclass(frozen=True, slots=True)
class RawDay:
    """The raw objects of a day.

    Attributes:
        store: Holds them.
        layout: Names them.
        dt: The day.
        loose: Separate objects, by key.
        index: The packed objects; None if there are none.
    """

    store: ObjectStore
    layout: Layout
    dt: date
    loose: Mapping[str, ObjectInfo]
    index: ArchiveIndex | None

    @classmethod
    def of(cls, store: ObjectStore, layout: Layout, dt: date) -> "RawDay":
        """Read the state of a day: a listing and, for a packed day, the index.

        Raises:
            UnreadableArchiveError: the index is damaged.
        """
        index_key = layout.archive_index_key(dt)
        loose: dict[str, ObjectInfo] = {}
        packed: ObjectInfo | None = None
        for info in store.list(layout.raw_folder(dt)):
            if layout.is_raw_key(info.key):
                loose[info.key] = info
            if info.key == index_key:
                packed = info
        index = None
        if packed is not None:
            try:
                index = _read_index(store, packed, dt)
            except DamagedArchiveError as error:
                raise _unreadable(store, index_key, error) from error
        return cls(store, layout, dt, loose, index)

    def objects(self) -> list[ObjectInfo]:
        """Each raw object once, ascending by key; a loose one takes precedence over a packed one of the same key."""
        found = dict(self.loose)
        folder = self.layout.raw_folder(self.dt)
        for member in self.index.members if self.index else ():
            key = folder + member.name
            found.setdefault(
                key,
                ObjectInfo(key, member.size_bytes, member.etag, member.last_modified, _metadata(member)),
            )
        return [found[key] for key in sorted(found)]

    def read(
        self,
        keys: Iterable[str],
        bodies: ReadVersions | None = None,
        archive: Callable[[], ArchiveReader] | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Contents in the requested order, checked; loose ones are prefetched, the archive is fetched once.

        `bodies` reads loose ones instead of the store (from a cache, say), and `archive` returns the archive if it may
        be open already.

        Raises:
            ObjectNotFoundError: there is no such raw object.
            UnreadableArchiveError: the archive is damaged.
        """
        wanted = list(keys)
        folder = self.layout.raw_folder(self.dt)
        packed = self.index.by_name if self.index else {}
        loose = [self.loose[key] for key in wanted if key in self.loose]
        fetched = bodies(loose) if bodies else self.store.get_many(info.key for info in loose)
        reader: ArchiveReader | None = None
        for key in wanted:
            name = key.removeprefix(folder)
            if key in self.loose:
                yield next(fetched)
                continue
            if name not in packed:
                yield key, self.store.get(key)  # the store raises that it does not exist
                continue
            reader = reader or (archive or self.open_archive)()
            try:
                body = reader.read(name)
            except DamagedArchiveError as error:
                raise _unreadable(self.store, self.archive_key, error) from error
            yield key, body

    @property
    def archive_key(self) -> str:
        """Key of the archive."""
        return self.layout.archive_folder(self.dt) + (self.index.name if self.index else "")

    def open_archive(self) -> ArchiveReader:
        """The archive, fetched completely and checked."""
        if self.index is None:
            raise AssertionError(f"nothing of {self.dt} is packed")
        try:
            return ArchiveReader(self.index, self.store.get(self.archive_key))
        except DamagedArchiveError as error:
            raise _unreadable(self.store, self.archive_key, error) from error


def _read_index(store: ObjectStore, info: ObjectInfo, dt: date) -> ArchiveIndex:
    if info.size_bytes > MAX_INDEX_BYTES:
        raise DamagedArchiveError(f"it has {info.size_bytes} bytes, more than any index")
    index = ArchiveIndex.from_json(store.get(info.key))
    if index.dt != dt:
        raise DamagedArchiveError(f"it is the index of {index.dt}")
    return index


def _metadata(member: Member) -> dict[str, str]:
    return {"sha256": member.sha256} | ({RUN_ID: member.run_id} if member.run_id else {})


def _unreadable(store: ObjectStore, key: str, error: DamagedArchiveError) -> UnreadableArchiveError:
    remedy = "Restore the object from a backup or an older version; nothing else holds the raw objects of this day"
    return UnreadableArchiveError(str(error), store.name, "get", key, remedy)
