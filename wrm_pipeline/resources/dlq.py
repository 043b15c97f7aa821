"""`dlq`: the dead-letter queue, for data that an asset could not use."""

import threading
from dataclasses import replace
from datetime import date

from pydantic import Field

from wrm_pipeline.domain.asset_letters import letter_of_asset
from wrm_pipeline.domain.dead_letters import MAX_RETRIES, REPROCESSED, STATUSES, DeadLetter
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue, UnreadableLetter
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.cache import RedisCacheResource
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource

# Two threads must not both read an entry before one of them writes it.
_ONE_WRITER = threading.Lock()


class DlqResource(BaseResource):
    """The dead-letter queue of the lake, shared with the pipeline's own dead letters.

    An asset's entries are listed by `wrm dlq list`, counted in `wrm_dlq_entries`, and ignored by `reprocess_dlq`, which
    can only replay snapshots of the stations: the asset tries again, and calls `settle`.
    """

    lake: LakeResource
    cache: RedisCacheResource
    clock: ClockResource
    max_retries: int = Field(
        default=MAX_RETRIES, ge=1, description="Failed replays after which reprocess_dlq parks an entry"
    )

    @property
    def queue(self) -> DeadLetterQueue:
        """Its operations."""
        return DeadLetterQueue(self.lake.store, self.lake.layout, self.cache.client)

    def write(
        self,
        asset_name: str,
        partition_date: date | str,
        error_type: str,
        raw_data: object,
        error: BaseException | str,
        *,
        source: str = "",
        line_number: int = 0,
        field: str = "",
    ) -> DeadLetter:
        """Store data that could not be used, before this returns, with known secrets masked.

        There is one entry for each asset, day, source and error type; further records are added to it, and one that it
        has already is not added again. Beyond 1 MiB, records are only counted.

        Args:
            asset_name: The owner: `context.asset_key.to_user_string()`.
            partition_date: The day that it belongs to, or its key (YYYY-MM-DD).
            error_type: A short name of what is wrong, the same each time: "not_a_number".
            raw_data: Text, bytes, or anything that JSON can hold; cut at 64 KiB.
            error: The exception, from which `stack_trace` is filled, or a message.
            source: The source of the data: a URL, a key, a file's name.
            line_number: Its line in the source, from 1; 0 if not applicable.
            field: Which value of `raw_data` is wrong.

        Raises:
            ValueError: a name is empty or one of the pipeline's own assets, or the date is not one.
            ExternalError: the store failed; nothing was written.
        """
        letter = letter_of_asset(
            asset_name,
            _date(partition_date),
            error_type,
            raw_data,
            error,
            seen_at=self.clock.now(),
            source=source,
            line_number=line_number,
            field=field,
        )
        with _ONE_WRITER:
            return self.queue.add(letter)

    def list(
        self, asset_name: str | None = None, partition_date: date | str | None = None, status: str | None = None
    ) -> tuple[DeadLetter, ...]:
        """The readable entries, newest first; optionally only those of an asset, a day or a status.

        Raises:
            ValueError: there is no such status, or the date is not one.
            ExternalError: the store failed.
        """
        if status is not None and status not in STATUSES:
            raise ValueError(f"status is {status!r}; give one of {', '.join(STATUSES)}")
        letters = self.queue.entries(None if partition_date is None else _date(partition_date)).letters
        found = (
            letter for letter in letters if asset_name in (None, letter.asset_name) and status in (None, letter.status)
        )
        return tuple(sorted(found, key=lambda letter: letter.timestamp, reverse=True))

    def get(self, entry_id: str) -> DeadLetter | None:
        """The entry with this id, or the only one whose id begins with it; None if there is none.

        Raises:
            ValueError: the object cannot be read as a dead letter; the message says why.
            ExternalError: the store failed.
        """
        letter = self.queue.find(entry_id)
        if isinstance(letter, UnreadableLetter):
            raise ValueError(f"{letter.key} cannot be read: {letter.reason}. Correct the object, or discard it")  # noqa: TRY004 - of a value
        return letter

    def settle(self, entry_id: str, note: str = "") -> DeadLetter:
        """Mark an entry `reprocessed`: its data has been used after all. If the failure recurs, it is opened again.

        Raises:
            ValueError: there is no entry with this id, or it cannot be read.
            ExternalError: the store failed.
        """
        with _ONE_WRITER:
            letter = self.get(entry_id)
            if letter is None:
                raise ValueError(f"there is no one entry whose id begins with {entry_id!r}. See `list` for the ids")
            settled = replace(letter, status=REPROCESSED, note=note or letter.note)
            self.queue.put(settled)
        return settled


def _date(given: date | str) -> date:
    if isinstance(given, date):
        return given
    try:
        return date.fromisoformat(given)
    except ValueError:
        raise ValueError(f"partition_date is {given!r}; give a date, or a key like 2025-08-21") from None
