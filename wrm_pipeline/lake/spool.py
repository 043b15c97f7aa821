"""Store-and-forward on the local disk: where a fetched body waits while storage is away.

One file per body, named by time and kind, so that the folder's order is the order of the fetches. A file is there
whole or not at all: written under a temporary name, flushed to the disk, renamed. A body is here before anything has
looked at it; its name then says `fetched`. Who finds such a body later knows that a process died over it.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

Kind = Literal["raw", "quarantine", "fetched"]

# From here on each run says so: at 40 kB a minute the last fifth of 1 GiB lasts for more than three days.
ALARM_SHARE = 0.8

# Below the spool: what is not a body, or cannot be read.
ASIDE = "unreadable"

_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6})Z\.(raw|quarantine|fetched)(?:\.([0-9a-f-]{36}))?\.body")
_TEMPORARY = re.compile(r".*\.tmp-\d+")
_RUN_ID = re.compile(r"[0-9a-f-]{36}")
_TIME = "%Y%m%dT%H%M%S.%f"
# A folder of the file system itself, where the spool has a disk of its own.
_OF_THE_SYSTEM = frozenset({"lost+found"})
# Names with other years are not ours: the calendar ends at year 9999, and zones shift times beyond it.
_YEARS = range(2000, 2200)

# Troubles of this process or of the moment, not of a file.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})


class SpoolFullError(RuntimeError):
    """There is no room for another body; what waits already is kept, since the oldest can never be had again."""


class UnreadableBodyError(RuntimeError):
    """A file of the spool cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class SpooledBody:
    """A body that waits: what it is, when it was fetched (aware, UTC), and by which run (empty: not known).

    Of a `fetched` body nobody knows yet whether it is a snapshot.
    """

    path: Path
    kind: Kind
    fetched_at: datetime
    run_id: str = ""

    def read(self) -> bytes:
        """The very bytes that were fetched.

        Raises:
            FileNotFoundError: it was delivered meanwhile.
            UnreadableBodyError: it cannot be read, now or later.
        """
        try:
            # Not through a symlink, and without waiting for the writer of a FIFO.
            file = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(file, "rb") as opened:
                return opened.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in _PASSING:
                raise
            raise UnreadableBodyError(error.strerror or type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class Stranger:
    """A file or folder of the spool that is not a body that can be delivered: where it is now, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name} ({self.reason})"


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
        taken = {entry.name.partition("Z.")[0] for entry in self._entries()}
        # A simulated clock may stand still; nothing that waits is overwritten, and each body has a time of its own.
        while f"{fetched_at.astimezone(UTC):{_TIME}}" in taken:
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
        """All bodies that can be delivered, the oldest fetch first.

        Raises:
            OSError: the folder cannot be listed.
        """
        for path in self._entries():
            body = _body_of(path)
            if isinstance(body, SpooledBody):
                yield body

    def _entries(self) -> list[Path]:
        """All that is in the folder but the folder for what is set aside, temporary and hidden files."""
        try:
            names = sorted(entry.name for entry in self.folder.iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            if not self.folder.exists():  # a file stands where a parent should be: there is no spool at all
                return []
            raise
        kept_out = {ASIDE, *_OF_THE_SYSTEM}
        return [
            self.folder / name
            for name in names
            if name not in kept_out and not name.startswith(".") and not _TEMPORARY.fullmatch(name)
        ]

    @property
    def size_bytes(self) -> int:
        """Bytes of all bodies that wait."""
        total = 0
        for body in self.waiting():
            with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
                total += body.path.lstat().st_size
        return total

    @property
    def filling(self) -> bool:
        """Whether it is time for an alarm."""
        return self.size_bytes > self.max_bytes * ALARM_SHARE

    def rename(self, body: SpooledBody, kind: Kind) -> SpooledBody:
        """Keep in its name what a body is: so that it need not be inspected again, or that it is about to be.

        Raises:
            FileNotFoundError: it was delivered meanwhile.
        """
        path = self._path(kind, body.fetched_at, body.run_id)
        if path != body.path:
            body.path.replace(path)
        return replace(body, path=path, kind=kind)

    def remove(self, body: SpooledBody) -> None:
        """Forget a body that was delivered, and what killed processes left half written.

        Raises:
            OSError: it cannot be removed; it will be delivered again, which does no harm.
        """
        body.path.unlink(missing_ok=True)
        for orphan in self.folder.glob("*.tmp-*"):
            if not Path(f"/proc/{orphan.suffix.removeprefix('.tmp-')}").exists():
                with contextlib.suppress(OSError):  # a folder, or another user's: it is in nobody's way
                    orphan.unlink(missing_ok=True)

    def set_aside(self, path: Path, reason: str) -> Stranger:
        """Move what cannot be delivered out of the way; where that fails, too, it stays and the reason says so."""
        try:
            aside = self.folder / ASIDE
            aside.mkdir(exist_ok=True)
            target, count = aside / path.name, 0
            while os.path.lexists(target):
                count += 1
                target = aside / f"{path.name}.{count}"
            path.rename(target)
        except OSError as error:
            return Stranger(path, f"{reason}; it cannot be moved: {error.strerror}")
        return Stranger(target, reason)

    def sort_out(self) -> list[Stranger]:
        """Set aside all that is not a body that can be delivered; gives what was found.

        Raises:
            OSError: the folder cannot be listed.
        """
        found = [stranger for path in self._entries() if isinstance(stranger := _body_of(path), Stranger)]
        return [self.set_aside(stranger.path, stranger.reason) for stranger in found]

    def strangers(self) -> list[Stranger]:
        """What is set aside, and what would be; changes nothing. Never raises: it is for alarms."""
        try:
            names = sorted(entry.name for entry in (self.folder / ASIDE).iterdir())
        except FileNotFoundError:
            names = []
        except OSError as error:
            return [Stranger(self.folder / ASIDE, f"it cannot be listed: {error.strerror}")]
        aside = [Stranger(self.folder / ASIDE / name, "set aside") for name in names]
        try:
            entries = self._entries()
        except OSError as error:
            return [*aside, Stranger(self.folder, f"it cannot be listed: {error.strerror}")]
        return aside + [stranger for path in entries if isinstance(stranger := _body_of(path), Stranger)]


def _body_of(path: Path) -> SpooledBody | Stranger | None:
    """The body that a file is, or why it is none; None where it has just gone. Opens nothing."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return Stranger(path, f"it cannot be looked at: {error.strerror}")
    match = _NAME.fullmatch(path.name)
    at = _time_of(match[1]) if match else None
    if match is None or at is None:
        return Stranger(path, "its name is not that of a snapshot")
    if stat.S_ISLNK(mode):
        return Stranger(path, "a symbolic link, not a file")
    if not stat.S_ISREG(mode):
        return Stranger(path, "a folder, not a file" if stat.S_ISDIR(mode) else "not an ordinary file")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        return Stranger(path, "it may not be read: see its owner and mode")
    kind: Kind = "raw" if match[2] == "raw" else "quarantine" if match[2] == "quarantine" else "fetched"
    return SpooledBody(path, kind, at, match[3] or "")


def _time_of(text: str) -> datetime | None:
    try:
        at = datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return at if at.year in _YEARS else None
