"""Processor time and memory of a service with all of its processes, those that have ended included."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# What the command of a process says about its kind; the first that fits. The rest are runs, and what forks them.
_KINDS = (
    ("dagster dev", "watcher"),
    ("code-server start", "watcher"),
    ("dagster._daemon", "daemon"),
    ("dagster_webserver", "web server"),
    ("api grpc", "code server"),
)
RUNS = "runs"
KINDS = ("daemon", "code server", "watcher", "web server", RUNS)


def processor_seconds(root: int) -> dict[str, float]:
    """Processor seconds by kind of the process `root` and its descendants, ended ones included.

    An ended process is counted by the one that waited for it. Those are runs: all others live as long as the service.
    """
    seconds = dict.fromkeys(KINDS, 0.0)
    for pid in descendants(root):
        with suppress(OSError):
            own, waited = _times(pid)
            kind = kind_of(pid)
            seconds[kind] += own
            seconds[RUNS] += waited
    return seconds


def descendants(root: int) -> list[int]:
    """The process and everything that it has started, directly or not."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError, IndexError):
                children[int(_stat(int(path.name))[1])].append(int(path.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def kind_of(pid: int) -> str:
    """What a process of a Dagster service is for."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return next((kind for part, kind in _KINDS if part in command), RUNS)


def proportional_mb(root: int) -> float:
    """Memory of all processes, shared pages divided among those that share them, in MB (10^6)."""
    total_kb = 0
    for pid in descendants(root):
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total_kb += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total_kb * 1024 / 1e6


def _stat(pid: int) -> list[str]:
    """The fields from the state on: a command's name may contain blanks and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _times(pid: int) -> tuple[float, float]:
    user, system, waited_user, waited_system = (int(ticks) for ticks in _stat(pid)[11:15])
    return (user + system) / _TICKS_A_SECOND, (waited_user + waited_system) / _TICKS_A_SECOND


class Memory:
    """Samples of a service's memory in MB."""

    def __init__(self) -> None:
        self.samples: list[float] = []

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def peak(self) -> float:
        return max(self.samples)


@contextmanager
def memory_of(root: int, every_s: float = 0.5) -> Iterator[Memory]:
    """Sample the memory of a process and its descendants until the end of the block."""
    memory, stop = Memory(), threading.Event()

    def sample() -> None:
        while not stop.is_set():
            memory.samples.append(proportional_mb(root))
            stop.wait(every_s)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()
