"""Metrics of this machine: the spool, the circuit breakers, the disks."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prometheus_client.metrics_core import Metric

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.exporter.families import gauge, single
from wrm_pipeline.exporter.vocabulary import TARGETS
from wrm_pipeline.lake.spool import Spool


class SpoolSource:
    """Snapshots waiting for the store."""

    name = "spool"

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._found: tuple[int, int, int] | None = None

    def collect(self) -> None:
        """Read the folder."""
        self._found = sum(1 for _ in self._spool.waiting()), self._spool.size_bytes, len(self._spool.strangers())

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Number and bytes of waiting bodies, and of files that cannot be delivered."""
        if self._found is None:
            return []
        count, size, strangers = self._found
        return [
            single("wrm_spooled_snapshots", "Fetched bodies waiting on the disk for the store", count),
            single("wrm_spool_bytes", "Bytes of waiting bodies", size),
            single(
                "wrm_spool_unreadable_files", "Files in the spool that cannot be delivered, or set aside", strangers
            ),
            single("wrm_spool_max_bytes", "Bytes that may wait (WRM_SPOOL_MAX_BYTES)", self._spool.max_bytes),
        ]


class BreakerSource:
    """Circuit breakers, as runs see them."""

    name = "breakers"

    def __init__(self, connect: Callable[[], Breakers]) -> None:
        self._connect = connect
        self._open: Mapping[str, bool] = {}

    def collect(self) -> None:
        """Read their state; changes nothing."""
        breakers = self._connect()
        self._open = {target: breakers.is_open(target) for target in TARGETS}

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """1 while calls to a target are suspended."""
        values = {target: int(is_open) for target, is_open in self._open.items()}
        text = "1 while calls to the target are suspended because it kept failing"
        return [gauge("wrm_circuit_open", text, "target", values)] if values else []


class DiskSource:
    """Space on the disks that the pipeline writes to."""

    name = "disk"

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._usage: Mapping[str, tuple[int, int]] = {}

    def collect(self) -> None:
        """Query the file systems."""
        self._usage = {volume: _usage(folder) for volume, folder in self._folders.items()}

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Free and total bytes."""
        if not self._usage:
            return []
        free = {volume: free for volume, (free, _) in self._usage.items()}
        size = {volume: size for volume, (_, size) in self._usage.items()}
        return [
            gauge("wrm_disk_free_bytes", "Free bytes of the disk that holds the folder", "volume", free),
            gauge("wrm_disk_size_bytes", "Size of that disk", "volume", size),
        ]


def _usage(folder: Path) -> tuple[int, int]:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return usage.free, usage.total
