"""Store-and-forward on the local disk: fetched bodies wait here while storage is down.

One file per body, named by time and kind, so that names sort in the order of the fetches. A file is complete or does
not exist: it is written under a temporary name, flushed to disk and renamed. A body arrives here before anything
inspects it, and its name then says `fetched`; a process that finds such a body later knows that another one died
inspecting it.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from wrm_pipeline.domain.feeds import KINDS, UCL, FeedKind

Kind = Literal["raw", "quarantine", "fetched"]

# Beyond this share each run warns: at 40 kB a minute the last fifth of 1 GiB lasts for more than three days.
ALARM_SHARE = 0.8

# Below the spool: files that are not bodies, or cannot be read.
ASIDE = "unreadable"

_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6})Z\.(raw|quarantine|fetched)(?:\.([0-9a-f-]{36}))?(?:\.([a-z]{1,20}))?\.body")
_TEMPORARY = re.compile(r".*\.tmp-\d+")
_RUN_ID = re.compile(r"[0-9a-f-]{36}")
_TIME = "%Y%m%dT%H%M%S.%f"
# The file system's own folder, if the spool has a separate disk.
_OF_THE_SYSTEM = frozenset({"lost+found"})
# Names with other years are not ours: the calendar ends at year 9999, and zones shift times beyond it.
_YEARS = range(2000, 2200)

# Temporary problems of this process, not of a file.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})


class SpoolFullError(RuntimeError):
    """There is no room for another body; waiting ones are kept, since the oldest cannot be fetched again."""


class UnreadableBodyError(RuntimeError):
    """A file of the spool cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class SpooledBody:
    """A waiting body: its kind, when it was fetched (aware, UTC), by which run (empty: unknown), from which feed.

    Whether a `fetched` body is a snapshot is not known yet.
    """

    path: Path
    kind: Kind
    fetched_at: datetime
    run_id: str = ""
    feed: FeedKind = UCL

    def read(self) -> bytes:
        """The bytes that were fetched.

        Raises:
            FileNotFoundError: it was delivered meanwhile.
            UnreadableBodyError: it cannot be read, now or later.
        """
        try:
            # Follows no symlink, and does not wait for the writer of a FIFO.
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
    """A file or folder in the spool that cannot be delivered: its current path, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Spool:
    """Bodies waiting in `folder`, together at most `max_bytes`."""

    folder: Path
    max_bytes: int

    def add(
        self, kind: Kind, fetched_at: datetime, body: bytes, *, run_id: str = "", feed: FeedKind = UCL
    ) -> SpooledBody:
        """Keep a body on disk, durably before this returns, with the id (a UUID) of the run that fetched it.

        Raises:
            SpoolFullError: `max_bytes` would be exceeded.
            OSError: the disk is full or not writable; the message names the file.
        """
        if not _RUN_ID.fullmatch(run_id):
            run_id = ""  # `waiting` would not recognise such a name
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone() as folder:
            waiting = self.size_bytes
            if waiting + len(body) > self.max_bytes:
                raise SpoolFullError(
                    f"The spool {self.folder} holds {waiting} bytes of at most {self.max_bytes}, so a snapshot was not "
                    "kept. Bring the object store back (`wrm doctor` says what is wrong with it); until then raise "
                    "WRM_SPOOL_MAX_BYTES if the disk has room."
                )
            taken = {entry.name.partition("Z.")[0] for entry in self._entries()}
            # A simulated clock may stand still; no waiting body is overwritten, and each has its own time.
            while f"{fetched_at.astimezone(UTC):{_TIME}}" in taken:
                fetched_at += timedelta(microseconds=1)
            path = self._path(kind, fetched_at, run_id, feed)
            temporary = path.with_suffix(f".tmp-{os.getpid()}")
            try:
                with temporary.open("wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            os.fsync(folder)
        return SpooledBody(path, kind, fetched_at, run_id, feed)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """The open folder, to which no other thread or process adds meanwhile: two would take the same free time."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # NFS locks no folders; only a clock that stands still minds
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(folder)

    def _path(self, kind: Kind, fetched_at: datetime, run_id: str, feed: FeedKind) -> Path:
        run = f".{run_id}" if run_id else ""
        # Names of bodies of the first kind are as they were before there were others.
        of = "" if feed is UCL else f".{feed.name}"
        return self.folder / f"{fetched_at.astimezone(UTC):{_TIME}}Z.{kind}{run}{of}.body"

    def waiting(self) -> Iterator[SpooledBody]:
        """All bodies that can be delivered, oldest fetch first.

        Raises:
            OSError: the folder cannot be listed.
        """
        for path in self._entries():
            body = _body_of(path)
            if isinstance(body, SpooledBody):
                yield body

    def _entries(self) -> list[Path]:
        """Everything in the folder except the folder of files set aside, temporary and hidden files."""
        try:
            names = sorted(entry.name for entry in self.folder.iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            if not self.folder.exists():  # a file is where a parent should be: there is no spool at all
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
        """Total size of all waiting bodies."""
        total = 0
        for body in self.waiting():
            with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
                total += body.path.lstat().st_size
        return total

    @property
    def filling(self) -> bool:
        """Whether the spool is full enough for an alarm."""
        return self.size_bytes > self.max_bytes * ALARM_SHARE

    def rename(self, body: SpooledBody, kind: Kind) -> SpooledBody:
        """Record a body's kind in its name: so that it need not be inspected again, or that it is about to be.

        Raises:
            FileNotFoundError: it was delivered meanwhile.
        """
        path = self._path(kind, body.fetched_at, body.run_id, body.feed)
        if path != body.path:
            body.path.replace(path)
        return replace(body, path=path, kind=kind)

    def remove(self, body: SpooledBody) -> None:
        """Remove a delivered body, and files that killed processes left half written.

        Raises:
            OSError: it cannot be removed; it will be delivered again, which is harmless.
        """
        body.path.unlink(missing_ok=True)
        for orphan in self.folder.glob("*.tmp-*"):
            if not Path(f"/proc/{orphan.suffix.removeprefix('.tmp-')}").exists():
                with contextlib.suppress(OSError):  # a folder, or another user's: it blocks nothing
                    orphan.unlink(missing_ok=True)

    def set_aside(self, path: Path, reason: str) -> Stranger:
        """Move an undeliverable file out of the way; if that fails, too, it stays and the reason says so."""
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
        """Set aside everything that cannot be delivered; returns what was found.

        Raises:
            OSError: the folder cannot be listed.
        """
        found = [stranger for path in self._entries() if isinstance(stranger := _body_of(path), Stranger)]
        return [self.set_aside(stranger.path, stranger.reason) for stranger in found]

    def strangers(self) -> list[Stranger]:
        """Files that are set aside, and files that would be; changes nothing. Never raises: it is for alarms."""
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
    """The body in a file, or why it is not one; None if it has just vanished. Opens nothing."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return Stranger(path, f"it cannot be examined: {error.strerror}")
    match = _NAME.fullmatch(path.name)
    at = _time_of(match[1]) if match else None
    feed = KINDS.get(match[4] or UCL.name) if match else None
    if match is None or at is None or feed is None:
        return Stranger(path, "its name is not a snapshot's")
    if stat.S_ISLNK(mode):
        return Stranger(path, "a symbolic link, not a file")
    if not stat.S_ISREG(mode):
        return Stranger(path, "a folder, not a file" if stat.S_ISDIR(mode) else "not a regular file")
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        return Stranger(path, "no permission to read it: check its owner and mode")
    kind: Kind = "raw" if match[2] == "raw" else "quarantine" if match[2] == "quarantine" else "fetched"
    return SpooledBody(path, kind, at, match[3] or "", feed)


def _time_of(text: str) -> datetime | None:
    try:
        at = datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return at if at.year in _YEARS else None
