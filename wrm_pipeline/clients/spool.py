"""Store-and-forward on the local disk: where a fetched body waits while storage is away.

One file per body, named by time and kind, so that the folder's order is the order of the fetches. A file is there
whole or not at all: written under a temporary name, flushed to the disk, renamed.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

Kind = Literal["raw", "quarantine"]

# From here on each run says so: at 40 kB a minute the last fifth of 1 GiB lasts for more than three days.
ALARM_SHARE = 0.8

_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6})Z\.(raw|quarantine)(?:\.([0-9a-f-]{36}))?\.body")
_RUN_ID = re.compile(r"[0-9a-f-]{36}")
_TIME = "%Y%m%dT%H%M%S.%f"


class SpoolFullError(RuntimeError):
    """There is no room for another body; what waits already is kept, since the oldest can never be had again."""


@dataclass(frozen=True, slots=True)
class SpooledBody:
    """A body that waits: what it is, when it was fetched (aware, UTC), and by which run (empty: not known)."""

    path: Path
    kind: Kind
    fetched_at: datetime
    run_id: str = ""

    def read(self) -> bytes:
        """The very bytes that were fetched."""
        return self.path.read_bytes()


@dataclass(frozen=True, slots=True)
class Spool:
    """Bodies waiting in `folder`, together at most `max_bytes`."""

    folder: Path
    max_bytes: int

    def add(self, kind: Kind, fetched_at: datetime, body: bytes, *, run_id: str = "") -> SpooledBody:
        """Keep a body on the disk before this returns, with the id (a UUID) of the run that fetched it.

        Raises:
            SpoolFullError: `max_bytes` would be exceeded.
            OSError: the disk is full or may not be written; the message names the file.
        """
        if not _RUN_ID.fullmatch(run_id):
            run_id = ""  # a name that `waiting` would not know
        waiting = self.size_bytes
        if waiting + len(body) > self.max_bytes:
            raise SpoolFullError(
                f"The spool {self.folder} holds {waiting} bytes of at most {self.max_bytes}, so a snapshot was not "
                "kept. Bring the object store back (`wrm doctor` says what is wrong with it); until then raise "
                "WRM_SPOOL_MAX_BYTES if the disk has room."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(kind, fetched_at, run_id)
        while path.exists():  # a simulated clock may stand still; nothing that waits is overwritten
            fetched_at += timedelta(microseconds=1)
            path = self._path(kind, fetched_at, run_id)
        temporary = path.with_suffix(f".tmp-{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return SpooledBody(path, kind, fetched_at, run_id)

    def _path(self, kind: Kind, fetched_at: datetime, run_id: str) -> Path:
        run = f".{run_id}" if run_id else ""
        return self.folder / f"{fetched_at.astimezone(UTC):{_TIME}}Z.{kind}{run}.body"

    def waiting(self) -> Iterator[SpooledBody]:
        """All bodies, the oldest fetch first."""
        names = sorted(entry.name for entry in self.folder.iterdir()) if self.folder.is_dir() else []
        for name in names:
            match = _NAME.fullmatch(name)
            if match:
                kind: Kind = "raw" if match[2] == "raw" else "quarantine"
                at = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
                yield SpooledBody(self.folder / name, kind, at, match[3] or "")

    @property
    def size_bytes(self) -> int:
        """Bytes of all bodies that wait."""
        return sum(body.path.stat().st_size for body in self.waiting())

    @property
    def filling(self) -> bool:
        """Whether it is time for an alarm."""
        return self.size_bytes > self.max_bytes * ALARM_SHARE

    def remove(self, body: SpooledBody) -> None:
        """Forget a body that was delivered, and what killed processes left half written."""
        body.path.unlink(missing_ok=True)
        for orphan in self.folder.glob("*.tmp-*"):
            if not Path(f"/proc/{orphan.suffix.removeprefix('.tmp-')}").exists():
                orphan.unlink(missing_ok=True)
