"""The dead-letter queue in the object store: one JSON object per entry, by partition.

Anyone may have put anything below `dlq/`: objects that cannot be read are counted and listed (`Entries.unreadable`),
and block nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.errors import ExternalError, ObjectNotFoundError, TransientError, UnexpectedAnswerError
from wrm_pipeline.domain import dead_letters
from wrm_pipeline.domain.asset_letters import with_another_record
from wrm_pipeline.domain.dead_letters import MAX_READ_BYTES, DeadLetter, entry_id
from wrm_pipeline.domain.layout import Layout, folder_date, folder_dates
from wrm_pipeline.domain.snapshot import FileReport
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.object_store import ObjectInfo, ObjectStore

# Names to try for an entry whose own name an unreadable object has.
_MAX_NAMES = 100


class DeadLetterTooLargeError(ValueError):
    """An entry would be too large to be read again; the message says what makes it large."""


@dataclass(frozen=True, slots=True)
class UnreadableLetter:
    """An object that is not, or no longer, a dead letter; `reason` says why, naming the field if there is one."""

    key: str
    size_bytes: int
    last_modified: datetime | None
    reason: str

    @property
    def name(self) -> str:
        """Its name in `wrm dlq`: the file name without its ending."""
        return self.key.rpartition("/")[2].removesuffix(".json")


@dataclass(frozen=True, slots=True)
class Entries:
    """The content of a part of the queue."""

    letters: tuple[DeadLetter, ...] = ()
    unreadable: tuple[UnreadableLetter, ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetterQueue:
    """Reads and writes entries. An entry's key follows from what failed, so writing it twice keeps one.

    Entries seldom change and every run of their day reads them, so with a `cache` only new versions are fetched.
    """

    store: ObjectStore
    layout: Layout
    cache: Cache = field(default=NO_CACHE, repr=False)

    def entries(self, dt: date | None = None) -> Entries:
        """The entries of a partition (None: the whole queue), of any status, and the objects that cannot be read.

        Raises:
            ExternalError: the store failed.
        """
        prefix = self.layout.dead_letter_folder(dt) if dt else self.layout.dead_letter_prefix
        letters: list[DeadLetter] = []
        unreadable: list[UnreadableLetter] = []
        infos = [info for info in self.store.list(prefix) if info.key.endswith(".json")]
        small = [info for info in infos if info.size_bytes <= MAX_READ_BYTES]
        unreadable += [_too_large(info) for info in infos if info.size_bytes > MAX_READ_BYTES]
        for info, body in self.contents(small):
            found = body if isinstance(body, UnreadableLetter) else read_letter(self.layout, info, body)
            if isinstance(found, DeadLetter):
                letters.append(found)
            else:
                unreadable.append(found)
        return Entries(tuple(letters), tuple(sorted(unreadable, key=lambda letter: letter.key)))

    def of_date(self, dt: date) -> list[DeadLetter]:
        """The readable entries of a partition, of any status."""
        return list(self.entries(dt).letters)

    def all(self) -> list[DeadLetter]:
        """The readable entries of all partitions."""
        return list(self.entries().letters)

    def find(self, entry_id: str) -> DeadLetter | UnreadableLetter | None:
        """The entry with that id (or a unique prefix of it), in any partition."""
        found = [
            info
            for info in self.store.list(self.layout.dead_letter_prefix)
            if info.key.endswith(".json") and info.key.rpartition("/")[2].startswith(entry_id)
        ]
        exact = [info for info in found if info.key.rpartition("/")[2] == f"{entry_id}.json"]
        if len(exact or found) != 1:
            return None
        (info,) = exact or found
        if info.size_bytes > MAX_READ_BYTES:
            return _too_large(info)
        return read_letter(self.layout, info, self.store.get(info.key))

    def dates(self) -> list[date]:
        """The partitions that have entries."""
        return folder_dates(self.store.list_folders(self.layout.dead_letter_prefix))

    def put(self, letter: DeadLetter) -> None:
        """Write an entry, replacing its previous version.

        Raises:
            DeadLetterTooLargeError: its corrections make it too large to be read again; nothing was written.
        """
        key = letter.key or self.layout.dead_letter_key(letter.partition_date, letter.entry_id)
        body = letter.to_json()
        if len(body) > MAX_READ_BYTES:
            raise DeadLetterTooLargeError(
                f"{key} would have {len(body)} bytes, and letters of more than {MAX_READ_BYTES} are not read. Its "
                "corrections are too long; nothing was written."
            )
        self.store.put(key, body, content_type="application/json")
        CachedObjects(self.store, self.cache).stored(key, body)

    def set_aside(self, letter: UnreadableLetter) -> str:
        """Move an unreadable object out of the queue, unchanged; returns its new key."""
        key = self.layout.set_aside_key(letter.key)
        self.store.put(key, self.store.get(letter.key))
        self.store.delete(letter.key)
        return key

    def record(
        self,
        reports: Iterable[FileReport],
        *,
        asset_name: str,
        partition_date: date,
        seen_at: datetime,
        unreadable: Iterable[UnreadableLetter] = (),
    ) -> list[DeadLetter]:
        """Write an entry for each failure; existing entries are updated.

        An unreadable object is never overwritten: the entry gets another name beside it. `unreadable` lists those
        already known, which need not be fetched to find out.
        """
        letters = [
            letter
            for report in reports
            for letter in dead_letters.letters_of(
                report, asset_name=asset_name, partition_date=partition_date, seen_at=seen_at
            )
        ]
        blocked = {letter.key for letter in unreadable}
        merged = [self._merged(letter, blocked) for letter in letters]
        for letter in merged:
            self.put(letter)
        return merged

    def add(self, letter: DeadLetter) -> DeadLetter:
        """Write an asset's entry, or add its record to the entry that exists; returns the stored entry.

        The entry is read and written again: of two processes that add to one entry at the same time, one may lose its
        record.

        Raises:
            ExternalError: the store failed.
        """
        merged = self._merged(letter, set(), with_another_record)
        self.put(merged)
        return merged

    def _merged(
        self,
        letter: DeadLetter,
        blocked: set[str],
        merge: Callable[[DeadLetter, DeadLetter | None], DeadLetter] = dead_letters.merge,
    ) -> DeadLetter:
        for beside in range(_MAX_NAMES):
            found = replace(letter, entry_id=entry_id(letter.source_key, letter.error_type, beside))
            key = self.layout.dead_letter_key(found.partition_date, found.entry_id)
            if key in blocked:
                continue
            try:
                # The current version: an operator may have just edited it.
                body = self.store.get(key)
                known = DeadLetter.from_json(body, key=key, folder=found.partition_date, modified=found.timestamp)
            except ObjectNotFoundError:
                return found
            except ValueError:
                continue
            return merge(found, known)
        raise AssertionError(f"{_MAX_NAMES} unreadable objects have the names of one entry: {key}")

    def contents(self, infos: list[ObjectInfo]) -> Iterator[tuple[ObjectInfo, bytes | UnreadableLetter]]:
        """Contents of listed objects, fetched together; after a failure, the rest one by one.

        Raises:
            ExternalError: the store is down.
        """
        objects = CachedObjects(self.store, self.cache)
        done = 0
        try:
            for info, (_, body) in zip(infos, objects.bodies(infos), strict=True):
                yield info, body
                done += 1
        except ExternalError as error:
            if _is_outage(error):
                raise
            for info in infos[done:]:
                try:
                    yield info, self.store.get(info.key)
                except ObjectNotFoundError:
                    continue  # removed after the listing
                except ExternalError as problem:
                    if _is_outage(problem):
                        raise
                    yield info, UnreadableLetter(info.key, info.size_bytes, info.last_modified, str(problem))


def read_letter(layout: Layout, info: ObjectInfo, body: bytes) -> DeadLetter | UnreadableLetter:
    """The entry in an object, or why it is not one; never raises."""
    folder = folder_date(info.key.removeprefix(layout.dead_letter_prefix).partition("/")[0])
    try:
        letter = DeadLetter.from_json(body, key=info.key, folder=folder, modified=info.last_modified)
    except ValueError as error:
        return UnreadableLetter(info.key, info.size_bytes, info.last_modified, str(error))
    source = layout.parse_raw_key(layout.released_key(letter.source_key))
    if source is not None and source.dt != letter.partition_date:
        # No build of that day would see it, or its corrections.
        right = layout.dead_letter_folder(source.dt)
        reason = f"its source_key is of dt={source.dt}, so it belongs in {right}: move it there"
        return UnreadableLetter(info.key, info.size_bytes, info.last_modified, reason)
    return letter


def _is_outage(error: ExternalError) -> bool:
    """Whether the store is down, rather than one object damaged, archived or denied."""
    return isinstance(error, TransientError) and not isinstance(error, UnexpectedAnswerError)


def _too_large(info: ObjectInfo) -> UnreadableLetter:
    reason = f"it has {info.size_bytes} bytes, and letters of more than {MAX_READ_BYTES} are not read"
    return UnreadableLetter(info.key, info.size_bytes, info.last_modified, reason)
