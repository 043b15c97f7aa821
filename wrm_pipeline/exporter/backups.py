"""The newest backup in the store, and when one was last tried."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client.metrics_core import Metric

from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.exporter.families import single
from wrm_pipeline.exporter.slow_sources import StoreSource
from wrm_pipeline.flows.restore_record import last_tried
from wrm_pipeline.lake.object_store import ObjectStore

# Backups are daily; a listing each 15 s would show nothing new.
LOOK_EVERY_S = 300.0

# A name from the future stems from a clock that was ahead; it must not hide that backups have stopped.
MAX_AHEAD_S = 300.0


class BackupSource(StoreSource):
    """When the newest backup was taken. Only backups that could be read back are in the store.

    Without any backup, and none `expected`, no metric is exported: on a laptop nobody waits for one.
    """

    name = "backups"
    every_s = LOOK_EVERY_S

    def __init__(
        self,
        connect: Callable[[], ObjectStore],
        layout: Layout,
        *,
        data_dir: Path,
        expected: bool,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(connect, layout, clock=clock)
        self._time = wall_clock
        self._data_dir = data_dir
        self._expected = expected
        self._found: tuple[float, int, int] | None = None
        self._tried = 0.0

    def look(self, store: ObjectStore) -> None:
        """One listing."""
        taken = [
            (at.timestamp(), info.size_bytes)
            for info in store.list(self.layout.backup_prefix)
            if (at := self.layout.backup_time(info.key)) is not None and at.timestamp() <= self._time() + MAX_AHEAD_S
        ]
        newest, size = max(taken, default=(0.0, 0))
        tried = last_tried(self._data_dir)
        self._tried = tried.timestamp() if tried else 0.0
        self._found = newest, size, len(taken)

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Time and size of the newest backup, the number of backups, and when one was tried."""
        if self._found is None or not (self._expected or self._found[2]):
            return []
        newest, size, count = self._found
        return [
            single(
                "wrm_last_backup_timestamp_seconds", "When the newest backup was taken (Unix time; 0: none)", newest
            ),
            single("wrm_last_backup_bytes", "Size of the newest backup", size),
            single("wrm_backups", "Backups in the store", count),
            single(
                "wrm_last_restore_test_timestamp_seconds",
                "When a backup was last opened and read to its end here, or restored (Unix time; 0: never)",
                self._tried,
            ),
        ]
