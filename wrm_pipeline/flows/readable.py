"""Reads what may be unreadable, so that a damaged raw object or partition does not stop its day."""

import contextlib
import zlib
from collections.abc import Iterable, Iterator

import pyarrow as pa

from wrm_pipeline.clients.errors import (
    ExternalError,
    ObjectNotFoundError,
    PermanentError,
    StorageFullError,
    UnexpectedAnswerError,
)
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.raw_archive import ArchiveReader
from wrm_pipeline.lake.raw_objects import RawDay, ReadVersions, whole_body

# Problems of a single object: removed after the listing, in a cold storage class, with its own access rights, damaged,
# on a bad sector. A store that does not answer affects all of them.
_OF_ONE_OBJECT = (PermanentError, UnexpectedAnswerError)

# Objects held in memory since others need files of them: the first of the day, and those in which a file changed.
_OTHERS_HELD = 8

# Objects to request in order to find out whether one object is at fault, or the store.
_PROBES = 3


class ReadableBodies:
    """Reads the readable objects, in the requested order, and records the others.

    Attributes:
        failed: The error of each object that could not be read, by key.
        was_read: Some of those that could be read.
    """

    def __init__(self, raw: RawDay, bodies: ReadVersions | None = None) -> None:
        self._raw = raw
        self._bodies = bodies
        self._archive: ArchiveReader | None = None
        self._others: dict[str, bytes] = {}
        self.failed: dict[str, ExternalError] = {}
        self.was_read: list[str] = []

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Key and content of each readable object.

        Raises:
            ExternalError: the store failed.
        """
        wanted = [key for key in keys if key not in self.failed]
        position, singly = 0, False
        while position < len(wanted):
            # After an unreadable object the next one is requested alone: in a series of a thousand unreadable ones,
            # nothing is prefetched in vain.
            step = wanted[position : position + 1] if singly else wanted[position:]
            try:
                for key, body in self._raw.read(step, self._bodies, archive=self._opened):
                    found = key, whole_body(key, body, self._other)
                    position += 1
                    if len(self.was_read) < _PROBES:
                        self.was_read.append(found[0])
                    yield found
                singly = False
            except _OF_ONE_OBJECT as error:
                if isinstance(error, StorageFullError):
                    raise
                self._blame(wanted[position:], error)
                wanted = wanted[:position] + [key for key in wanted[position:] if key not in self.failed]
                singly = True

    def _other(self, key: str) -> bytes:
        """Another object of the day, of which many others need files."""
        if key not in self._others:
            while len(self._others) >= _OTHERS_HELD:
                self._others.pop(next(iter(self._others)))
            ((_, self._others[key]),) = self._raw.read([key], archive=self._opened)
        return self._others[key]

    def _opened(self) -> ArchiveReader:
        if self._archive is None:
            self._archive = self._raw.open_archive()
        return self._archive

    def _blame(self, keys: list[str], error: ExternalError) -> None:
        packed = keys[0] not in self._raw.loose
        if packed and self._archive is None:  # nothing in the archive can be read
            self.failed.update({key: error for key in keys if key not in self._raw.loose})
        self.failed[keys[0]] = error

    @property
    def unreadable(self) -> dict[str, str]:
        """Reasons by key, without objects that no longer exist."""
        return {key: str(error) for key, error in self.failed.items() if not isinstance(error, ObjectNotFoundError)}

    def check_the_store(self, others: Iterable[str]) -> None:
        """Make sure that single objects are at fault: the store returns one that was read, now or before (`others`).

        Raises:
            ExternalError: the first failure, if the store returns none.
        """
        failures = [error for error in self.failed.values() if not isinstance(error, ObjectNotFoundError)]
        if not failures:
            return
        candidates = [key for key in (*self.was_read, *others) if key not in self.failed]
        loose = [key for key in dict.fromkeys(candidates) if key in self._raw.loose][:_PROBES]
        for key in loose:
            # Not through the cache, which would answer while the store refuses everything.
            with contextlib.suppress(*_OF_ONE_OBJECT):
                self._raw.store.get(key)
                return
        if loose or not candidates:
            raise failures[0]


def can_be_read(parts: ParquetParts) -> bool:
    """Whether all rows of a Parquet file can be decoded, which its footer does not show."""
    try:
        return all(rows.num_rows >= 0 for rows in parts.read_groups())
    except (pa.ArrowException, OSError, zlib.error):
        return False
