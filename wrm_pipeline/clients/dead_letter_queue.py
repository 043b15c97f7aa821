"""The dead-letter queue in the object store: one JSON object per entry, by partition."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.cached_objects import CachedObjects
from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.clients.object_store import ObjectStore
from wrm_pipeline.domain import dead_letters
from wrm_pipeline.domain.dead_letters import DeadLetter
from wrm_pipeline.domain.layout import Layout, folder_date
from wrm_pipeline.domain.snapshot import FileReport


class UnreadableDeadLetterError(ValueError):
    """An entry was edited into something that is none; the message names the object and the field."""


@dataclass(frozen=True, slots=True)
class DeadLetterQueue:
    """Reads and writes entries. An entry's place follows from what failed, so writing twice keeps one.

    Entries seldom change and are read by each run of their day, so with a `cache` only new versions are fetched.
    """

    store: ObjectStore
    layout: Layout
    cache: Cache = field(default=NO_CACHE, repr=False)

    def of_date(self, dt: date) -> list[DeadLetter]:
        """All entries of a partition, whatever their status.

        Raises:
            UnreadableDeadLetterError: an entry is no valid JSON or has a wrong value.
        """
        return list(self._listed(self.layout.dead_letter_folder(dt)))

    def all(self) -> list[DeadLetter]:
        """All entries of all partitions."""
        return list(self._listed(self.layout.dead_letter_prefix))

    def find(self, entry_id: str) -> DeadLetter | None:
        """The entry of that id (or whose id starts so, if only one does), in whatever partition it is."""
        keys = [info.key for info in self.store.list(self.layout.dead_letter_prefix)]
        found = [key for key in keys if key.endswith(".json") and key.rpartition("/")[2].startswith(entry_id)]
        return self._letter(found[0], self.store.get(found[0])) if len(found) == 1 else None

    def dates(self) -> list[date]:
        """The partitions that have entries."""
        return sorted(
            dt for folder in self.store.list_folders(self.layout.dead_letter_prefix) if (dt := folder_date(folder))
        )

    def put(self, letter: DeadLetter) -> None:
        """Write an entry, over what it was before."""
        key = self.layout.dead_letter_key(letter.partition_date, letter.entry_id)
        body = letter.to_json()
        self.store.put(key, body, content_type="application/json")
        CachedObjects(self.store, self.cache).stored(key, body)

    def record(
        self, reports: Iterable[FileReport], *, asset_name: str, partition_date: date, seen_at: datetime
    ) -> list[DeadLetter]:
        """Write an entry for all that files could not give; an entry that is there already is brought up to date."""
        letters = [
            letter
            for report in reports
            for letter in dead_letters.letters_of(
                report, asset_name=asset_name, partition_date=partition_date, seen_at=seen_at
            )
        ]
        merged = [dead_letters.merge(letter, self._known(letter)) for letter in letters]
        for letter in merged:
            self.put(letter)
        return merged

    def _known(self, letter: DeadLetter) -> DeadLetter | None:
        """As it is now: an operator may have just edited it."""
        key = self.layout.dead_letter_key(letter.partition_date, letter.entry_id)
        try:
            return self._letter(key, self.store.get(key))
        except ObjectNotFoundError:
            return None

    def _listed(self, prefix: str) -> Iterator[DeadLetter]:
        infos = [info for info in self.store.list(prefix) if info.key.endswith(".json")]
        for key, body in CachedObjects(self.store, self.cache).bodies(infos):
            yield self._letter(key, body)

    def _letter(self, key: str, body: bytes) -> DeadLetter:
        try:
            return DeadLetter.from_json(body)
        except ValueError as error:
            raise UnreadableDeadLetterError(
                f"{key} in {self.store.name} cannot be read: {error}. Correct the object; nothing was changed."
            ) from error
