"""The files of the analytics database: its lock, obstacles next to it, and its permissions.

Nothing is deleted that this pipeline did not write: an obstacle is renamed to `….before-<time>`.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from glob import escape
from pathlib import Path

from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

# Longer than any refresh of a day. The first `data_quality` over years takes a minute, in Dagster's own pool.
LOCK_WAIT_S = 60.0
_LOCK_POLL_S = 0.05

# DuckDB's file: a main header, two database headers of 4 kB each, then blocks. The header with the higher iteration
# counts; it has the blocks' size (and their number, but blocks that are free at the end need not be there).
_HEADER_BYTES = 3 * 4096
_MAGIC_AT, _MAGIC = 8, b"DUCK"
_DATABASE_HEADER = struct.Struct("<QQQQQ")  # iteration, two block numbers, block count, block size
_COPIES_TRIED = 3


class AnalyticsDatabaseError(RuntimeError):
    """The database cannot be used; the message says what to do."""


class DamagedDatabaseError(AnalyticsDatabaseError):
    """The file at the database's path is not a readable database."""


class DatabaseLockedError(AnalyticsDatabaseError):
    """Another process is refreshing the database, and did not finish in time."""


@contextmanager
def locked(database: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock on a database's folder, which the kernel frees if this process dies.

    Raises:
        DatabaseLockedError: it was not free within `wait_s` seconds; the message names its holder.
    """
    descriptor = os.open(database.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DatabaseLockedError(
                        f"{database} is being refreshed by {_holder(database, descriptor)}, and {wait_s:g} s of "
                        "waiting were not enough. If that process hangs, end it: the lock goes with it, and the "
                        "database is as it was before."
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def new_file(database: Path) -> Path:
    """The path for building the next database: next to the old one.

    The name differs each time, since DuckDB identifies a database that is open in this process by its path; and it
    contains the process and its start time.
    """
    return database.with_name(f"{database.name}.new-{os.getpid()}-{time.time_ns()}")


def _holder(database: Path, descriptor: int) -> str:
    """Who holds the lock, according to the file being built, else to the kernel's list of locks."""
    for path in _real(database).parent.glob(f"{_real(database).name}.new-*-*"):
        pid, since = path.name.rsplit("-", 2)[1:]
        if pid.isdigit() and since.isdigit() and Path(f"/proc/{pid}").exists():
            at = datetime.fromtimestamp(int(since) / 1e9, UTC)
            return f"process {pid} ({_command(int(pid))}) since {at:%Y-%m-%d %H:%M:%S} UTC"
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                at = datetime.fromtimestamp(Path(f"/proc/{fields[4]}").stat().st_ctime, UTC)
                return f"process {fields[4]} ({_command(int(fields[4]))}), which began {at:%Y-%m-%d %H:%M:%S} UTC"
    return f"a process that is not visible from here (`fuser {database.parent}` may show it)"


def _command(pid: int) -> str:
    if pid == os.getpid():
        return "this one"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "of another account"
    return " ".join(command.split())[:120] or "a kernel thread"


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def home_of(path: Path) -> Path:
    """The path of the database's file: the target of a symlink at `path`, else `path`.

    Anything there that is not a file is moved aside, and so is a symlink to a missing folder.
    """
    if reason := no_place(path):
        set_aside(path, reason)
    return _real(path) if path.is_symlink() else path


def no_place(path: Path) -> str:
    """Why `path` is neither a file nor a symlink to a possible place for one; empty if it is."""
    if path.is_symlink():
        target = _real(path)
        good = not target.is_symlink() and target.parent.is_dir() and (target.is_file() or not target.exists())
        return "" if good else "it is a symlink to nothing that could be a database"
    if path.exists() and not path.is_file():
        return "it is a directory" if path.is_dir() else "it is not a regular file"
    return ""


def set_aside(path: Path, reason: str) -> Path:
    """Rename `path` to `….before-<time>`, with its write-ahead log; returns the new name."""
    aside = _free_name(path)
    path.rename(aside)
    for log in logs_beside(path):
        log.rename(aside.with_name(log.name.replace(path.name, aside.name, 1)))
    _tell(path, aside, reason)
    return aside


def set_aside_logs(path: Path) -> None:
    """Move a write-ahead log aside, with the database that it was written for.

    Someone opened the published file for writing and was killed. DuckDB would replay the log over every later file of
    this name, whatever its content. A hard link to the current file keeps both together.
    """
    logs = logs_beside(path)
    if not logs:
        return
    aside = _free_name(path)
    if path.exists():
        try:
            os.link(path, aside)
        except OSError:  # another account's file, or a file system without links
            shutil.copy2(path, aside)
    for log in logs:
        log.rename(aside.with_name(log.name.replace(path.name, aside.name, 1)))
    _tell(
        logs[0],
        aside,
        "someone opened the database for writing and did not close it; its changes are in this one",
    )


def logs_beside(path: Path) -> list[Path]:
    """Write-ahead logs that DuckDB would replay over the database at `path`."""
    # Also `.wal.checkpoint` and `.wal.recovery`, which DuckDB 1.5 writes meanwhile.
    return sorted(path.parent.glob(f"{escape(path.name)}.wal*"))


def _free_name(path: Path) -> Path:
    stem = f"{path.name}.before-{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}"
    names = (path.with_name(f"{stem}{'' if n == 1 else f'-{n}'}") for n in range(1, 1000))
    return next(name for name in names if not os.path.lexists(name) and not logs_beside(name))


def _tell(path: Path, aside: Path, reason: str) -> None:
    reported(f"{path} is now {aside.name}: {reason}")


# What this process has moved aside and not yet reported in a run's metadata.
_reported: list[str] = []


def reported(message: str) -> None:
    """Report in the log, and in the metadata of the next materialization, what was moved aside."""
    _log.warning(message, todo="Look at it, then remove it; nothing uses it")
    _reported.append(message)
    del _reported[:-20]


def take_reports() -> list[str]:
    """What was moved aside since the last call."""
    found = list(_reported)
    _reported.clear()
    return found


def moved_aside(database: Path) -> list[Path]:
    """What has been moved aside from a database's place, oldest first."""
    places = {database.parent, _real(database).parent}
    return sorted(path for folder in places for path in folder.glob(f"{escape(database.name)}.before-*"))


def problem_of(path: Path) -> str:
    """Why a regular file cannot be a valid DuckDB database; empty if no reason is visible.

    Only the headers are checked: DuckDB opens a truncated file, and fails when it reaches the missing part.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    size = path.stat().st_size
    if head[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        return "it is not a valid DuckDB database"
    if len(head) < _HEADER_BYTES:
        return f"it is cut off after {size} bytes"
    *_, block_size = max(_DATABASE_HEADER.unpack_from(head, at + 8) for at in (4096, 8192))
    return f"it is cut off after {size} bytes" if block_size and (size - _HEADER_BYTES) % block_size else ""


def copy_database(source: Path, target: Path) -> None:
    """Copy a database to a file that only its owner may read; again if it was written meanwhile."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    for _ in range(_COPIES_TRIED):
        before = source.stat()
        shutil.copyfile(source, target)
        after = source.stat()
        if (before.st_ino, before.st_mtime_ns, before.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size):
            return
    _log.warning("the database was written by someone else while it was copied", path=str(source))


def take_over_rights(old: Path, new: Path) -> None:
    """Give `new` the owner, group, mode, ACL and extended attributes of `old`, as far as this account is permitted to.

    If the group cannot be kept, its permissions are not given to another one.
    """
    was = old.stat()
    kept_group = was.st_gid == new.stat().st_gid
    for owner, group in ((was.st_uid, was.st_gid), (-1, was.st_gid)):
        with contextlib.suppress(OSError):
            os.chown(new, owner, group)
            kept_group = True
            break
    shutil.copystat(old, new)
    os.utime(new)
    if not kept_group:
        new.chmod(stat.S_IMODE(was.st_mode) & ~stat.S_IRWXG)
        _log.warning("the database's group could not be kept", path=str(old), group=was.st_gid)
