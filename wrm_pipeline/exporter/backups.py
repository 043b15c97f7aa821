"""The newest backup in the store."""

import time
from collections.abc import Callable, Sequence

from prometheus_client.metrics_core import Metric

from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.exporter.connection import Connection
from wrm_pipeline.exporter.families import single
from wrm_pipeline.lake.object_store import ObjectStore

# Backups come once a day; a listing each 15 s would tell nothing new.
LOOK_EVERY_S = 300.0

# A name that says a later time is of a clock that was ahead, and must not hide that no backup is taken any more.
MAX_AHEAD_S = 300.0


class BackupSource:
    """When the newest backup was taken. It is in the store only if it could be read back.

    Where backups are not `expected` and there is none, nothing is told: on a laptop nobody waits for one.
    """

    name = "backups"

    def __init__(
        self,
        connect: Callable[[], ObjectStore],
        layout: Layout,
        *,
        expected: bool,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._time = wall_clock
        self._connection = Connection(connect)
        self._layout = layout
        self._expected = expected
        self._clock = clock
        self._looked_at: float | None = None
        self._found: tuple[float, int, int] | None = None

    def collect(self) -> None:
        """One listing every few minutes."""
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at < LOOK_EVERY_S:
            return
        with self._connection.use() as store:
            taken = [
                (at.timestamp(), info.size_bytes)
                for info in store.list(self._layout.backup_prefix)
                if (at := self._layout.backup_time(info.key)) is not None
                and at.timestamp() <= self._time() + MAX_AHEAD_S
            ]
        newest, size = max(taken, default=(0.0, 0))
        self._found, self._looked_at = (newest, size, len(taken)), now

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Time and size of the newest, and how many there are."""
        if self._found is None or not (self._expected or self._found[2]):
            return []
        newest, size, count = self._found
        return [
            single(
                "wrm_last_backup_timestamp_seconds", "When the newest backup was taken (Unix time; 0: none)", newest
            ),
            single("wrm_last_backup_bytes", "Size of the newest backup", size),
            single("wrm_backups", "Backups in the store", count),
        ]
