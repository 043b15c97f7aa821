"""Metrics of this machine: the spool, the circuit breakers, the disks, the memory."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prometheus_client.metrics_core import Metric

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.exporter.families import counter, gauge, single
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
        self._usage: Mapping[str, os.statvfs_result] = {}

    def collect(self) -> None:
        """Query the file systems."""
        self._usage = {volume: _usage(folder) for volume, folder in self._folders.items()}

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Free and total bytes and inodes; a file system that makes inodes as it needs them has no number of them."""
        if not self._usage:
            return []
        found = self._usage.items()
        values = {
            "free_bytes": {volume: usage.f_bavail * usage.f_frsize for volume, usage in found},
            "size_bytes": {volume: usage.f_blocks * usage.f_frsize for volume, usage in found},
            "free_inodes": {volume: usage.f_favail for volume, usage in found if usage.f_files},
            "inodes": {volume: usage.f_files for volume, usage in found if usage.f_files},
        }
        texts = {
            "free_bytes": "Free bytes of the disk that holds the folder",
            "size_bytes": "Size of that disk",
            "free_inodes": "Files that can still be made on that disk",
            "inodes": "Files that it can hold",
        }
        return [gauge(f"wrm_disk_{name}", texts[name], "volume", values[name]) for name in texts if values[name]]


def _usage(folder: Path) -> os.statvfs_result:
    return os.statvfs(next(path for path in (folder, *folder.parents) if path.exists()))


class MemorySource:
    """Memory of the machine, and how often something was killed for the lack of it."""

    name = "memory"

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._found: tuple[int, int, int] | None = None

    def collect(self) -> None:
        """Read what the kernel counts."""
        memory = _numbers(self._proc / "meminfo")
        kills = _numbers(self._proc / "vmstat")["oom_kill"]
        self._found = memory["MemAvailable"] * 1024, memory["MemTotal"] * 1024, kills

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Available and total bytes; processes killed since the machine started, by a unit's own limit or for all."""
        if self._found is None:
            return []
        available, total, kills = self._found
        return [
            single("wrm_memory_available_bytes", "Memory that programs can still get without swapping", available),
            single("wrm_memory_size_bytes", "Memory of the machine", total),
            counter("wrm_oom_kills", "Processes killed because memory was short", (), {(): kills}),
        ]


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line of a file in /proc, by the line's first word."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
