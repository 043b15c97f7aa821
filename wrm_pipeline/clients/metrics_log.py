"""Metrics recorded by a run's process, written to disk immediately so that a kill loses nothing.

There is one file per process, with one line per record. A process that ends normally puts the sums into Dagster's event
log and removes its file; the exporter reads the files of killed ones (docs/monitoring.md). There is no fsync: a power
cut may lose the last seconds.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from wrm_pipeline.domain.declared_metrics import Declaration, Recorded
from wrm_pipeline.domain.masking import redact

logger = logging.getLogger(__name__)

_SUFFIX = ".jsonl"
# A larger file was not written by a run.
_MAX_FILE_BYTES = 256 * 2**20
KEPT_S = 7 * 86400.0
_MAX_TEXTS = 10_000


def process_name() -> str:
    """This process, among those of a run."""
    return f"{os.uname().nodename}-{os.getpid()}"


class MetricsLog:
    """Records of one process of a run; thread-safe. If the file cannot be written, a kill would lose them."""

    def __init__(self, folder: Path, run_id: str, max_series: int, *, clock: Callable[[], float] = time.time) -> None:
        self.path = folder / f"{run_id}.{process_name()}{_SUFFIX}"
        self.recorded = Recorded(max_series=max_series)
        self._numbers: dict[Declaration, int] = {}
        self._masked: dict[str, str] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._warned = False

    def declare(self, declaration: Declaration) -> None:
        """Declare a metric."""
        with self._lock:
            self._declare(declaration)

    def record(self, declaration: Declaration, labels: tuple[str, ...], amount: float) -> None:
        """Record once."""
        at = self._clock()
        with self._lock:
            number = self._declare(declaration)
            self.recorded.add(declaration, labels, amount, at)
            self._write([number, list(labels), amount, at])

    def masked(self, text: str) -> str:
        """A label's value with known secrets masked, looked for once in each text."""
        found = self._masked.get(text)
        if found is None:
            found = redact(text)
            if len(self._masked) < _MAX_TEXTS:
                self._masked[text] = found
        return found

    def close(self) -> None:
        """Remove the file: its content is safe elsewhere."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _declare(self, declaration: Declaration) -> int:
        if declaration not in self._numbers:
            self._numbers[declaration] = len(self._numbers)
            self.recorded.declare(declaration)
            d = declaration
            self._write([d.name, d.kind, d.documentation, list(d.labels), list(d.buckets)])
        return self._numbers[declaration]

    def _write(self, line: list[object]) -> None:
        try:
            if self._descriptor is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._descriptor = os.open(self.path, flags, 0o600)
            os.write(self._descriptor, (json.dumps(line) + "\n").encode())
        except OSError as error:
            if not self._warned:
                self._warned = True
                logger.warning("Metrics of this run would be lost if it were killed: %s: %s", self.path, error)


def read_log(path: Path) -> Recorded:
    """A file's content, up to a truncated line; nothing if it cannot be read."""
    recorded, declarations = Recorded(), list[Declaration]()
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return recorded
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return recorded
    for line in lines:
        try:
            content = json.loads(line)
            if isinstance(content[0], str):
                name, kind, documentation, labels, buckets = content
                declaration = Declaration(name, kind, documentation, tuple(labels), tuple(buckets))
                declarations.append(declaration)
                recorded.declare(declaration)
            else:
                number, labels, amount, at = content
                recorded.add(declarations[number], tuple(map(str, labels)), float(amount), float(at))
        except (ValueError, TypeError, IndexError, KeyError):
            break
    return recorded


def logs_of(folder: Path, run_id: str) -> dict[str, Path]:
    """Files that processes of a run have left, by process."""
    return {path.name.removesuffix(_SUFFIX).partition(".")[2]: path for path in folder.glob(f"{run_id}.*{_SUFFIX}")}


def remove_forgotten(folder: Path, now: float) -> None:
    """Remove files of runs that have not been counted for a week."""
    for path in _files(folder):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < now - KEPT_S:
                path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from folder.glob(f"*{_SUFFIX}")
