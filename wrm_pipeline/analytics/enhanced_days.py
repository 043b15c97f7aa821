"""Reads published enhanced days for a refresh: an unreadable day does not affect the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa

from wrm_pipeline.clients.errors import PermanentError, StorageFullError
from wrm_pipeline.lake.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# Days that are requested to find out whether one object is at fault, or the store.
_PROBES = 3


class PartitionGoneError(RuntimeError):
    """A published partition was removed between the listing and the reading."""


@dataclass(slots=True)
class EnhancedDays:
    """Reads days, and records those that could not be read.

    Attributes:
        columns: To read.
        unreadable: Days whose objects are damaged, another writer's, or denied.
        denied: Days whose objects the store does not return (their own permissions, a cold storage class), and why.
        was_read: Whether any was read.
    """

    partitions: PublishedPartitions
    columns: Sequence[str]
    unreadable: list[date] = field(default_factory=list)
    denied: dict[date, PermanentError] = field(default_factory=dict)
    was_read: bool = False

    def read(self, dt: date) -> pa.Table | None:
        """A day's rows; None if its object cannot be read.

        Raises:
            PartitionGoneError: it is no longer published.
            ExternalError: the store failed.
        """
        if dt in self.unreadable:
            return None
        try:
            rows = self.partitions.read_enhanced_rows(dt, self.columns)
        except StorageFullError:
            raise
        except (UnreadablePartitionError, PermanentError) as error:
            _log.warning("an enhanced partition cannot be read; the tables omit it", dt=str(dt), error=str(error))
            self.unreadable.append(dt)
            if isinstance(error, PermanentError):
                self.denied[dt] = error
            return None
        if rows is None:
            raise PartitionGoneError(
                f"The enhanced partition of {dt} was removed while the tables were being refreshed. They are "
                f"unchanged; materialize their asset again."
            )
        self.was_read = True
        return rows

    def check_the_store(self, published: Iterable[date]) -> None:
        """Make sure that single objects are at fault: the store returns one of another day.

        Raises:
            PermanentError: the first error, if the store returns none.
        """
        others = sorted(set(published).difference(self.unreadable), reverse=True)
        if self.denied and not self.was_read and all(self.read(dt) is None for dt in others[:_PROBES]):
            raise next(iter(self.denied.values()))
