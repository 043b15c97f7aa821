"""Backup of what the bucket does not hold already, as one encrypted object in it, and restore onto a bare machine.

A backup is a tar file inside an encrypted file: `manifest.json`, which lists each member with its length and SHA-256,
then the members. It counts as taken once it has been read back from the store, decrypted and compared.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.postgres_dump import PostgresDatabase, describe, read_through
from wrm_pipeline.domain.backup_retention import Retention
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.flows import encrypted_file
from wrm_pipeline.flows.encrypted_file import EncryptedFileError, EncryptedReader, EncryptedWriter
from wrm_pipeline.flows.progress import Begin, unobserved
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.spool import Spool

MANIFEST = "manifest.json"
POSTGRES_DUMP = "postgres.dump"
DATABASE = "analytics.duckdb"
_FORMAT = 1
_COPY_BYTES = 1 << 20
# Steps of a backup: collect, encrypt, store, read back, remove old ones.
_STEPS = 5

Say = Callable[[str], None]


class BackupError(Exception):
    """A backup cannot be taken or used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Places:
    """What a backup includes, and where a restore puts it.

    Attributes:
        postgres: Dagster's storage; None if it is SQLite.
        sqlite: Dagster's SQLite files by member name. Event files of single runs, which only old runs or other
            installations have, are left out: they are many, and only for reading.
        database: The local analytics database.
        spool: Snapshots waiting for the store.
        files: Configuration: files, and folders with everything in them.
        scratch: A folder on a disk with room for everything twice. Emptied before and after.
        restored_files: Where a restore puts configuration, for review.
    """

    postgres: PostgresDatabase | None
    sqlite: Mapping[str, Path]
    database: Path
    spool: Spool
    files: Sequence[Path]
    scratch: Path
    restored_files: Path


@dataclass(frozen=True, slots=True)
class StoredBackup:
    """A backup in the store."""

    key: str
    taken_at: datetime
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OpenBackup:
    """A backup that was fetched, decrypted and checked against its manifest: its members are files in `scratch`."""

    key: str
    manifest: Mapping[str, Any]
    members: Mapping[str, Path]
    dump: str = ""
    """A readable description of the PostgreSQL dump."""

    def read_dump(self) -> None:
        """Turn the PostgreSQL dump, if there is one, into SQL that nobody keeps: all of it can be restored.

        Raises:
            PostgresToolError: it cannot.
        """
        if POSTGRES_DUMP in self.members:
            read_through(self.members[POSTGRES_DUMP])


# --- Taking one ----------------------------------------------------------------------------------------------------


def stored_backups(store: ObjectStore, layout: Layout) -> list[StoredBackup]:
    """All backups, newest first."""
    found = [
        StoredBackup(info.key, at, info.size_bytes)
        for info in store.list(layout.backup_prefix)
        if (at := layout.backup_time(info.key)) is not None
    ]
    return sorted(found, key=lambda backup: backup.taken_at, reverse=True)


def take_backup(
    store: ObjectStore,
    layout: Layout,
    places: Places,
    key: bytes,
    *,
    taken_at: datetime,
    facts: Mapping[str, Any],
    retention: Retention,
    say: Say,
    begin: Begin = unobserved,
) -> StoredBackup:
    """Dump, encrypt, store, read back, and only then remove the oldest backups beyond the number kept.

    Args:
        store: With a policy that allows enough time for a large object.
        layout: Names the object.
        places: What to back up.
        key: The backup key.
        taken_at: Aware; names the backup.
        facts: For the manifest: versions, settings without secrets.
        retention: Which backups to keep.
        say: Receives one line per finished step.
        begin: Called at the beginning of each step.

    Raises:
        BackupError, ExternalError, EncryptedFileError: no backup was taken; older ones are untouched.
    """
    with _scratch(places.scratch) as scratch:
        encrypted = scratch / "encrypted"
        with contextlib.ExitStack() as stack:
            begin("collect", _STEPS)
            sources = list(_collect(places, scratch, stack, say))
            manifest = {
                **facts,
                "format": _FORMAT,
                "taken_at": taken_at.isoformat(),
                "members": {source.name: source.describe() for source in sources},
            }
            begin("encrypt", _STEPS)
            _write(encrypted, key, manifest, sources)
        object_key = layout.backup_key(taken_at)
        metadata = {"key-id": encrypted_file.key_id(key)}
        begin("store", _STEPS)
        info = store.put(object_key, encrypted, metadata=metadata, content_type="application/octet-stream")
        encrypted.unlink()
        begin("read back", _STEPS)
        try:
            opened = _fetch(store, object_key, key, scratch)
        except (EncryptedFileError, BackupError, ExternalError) as error:
            store.delete(object_key)
            raise BackupError(
                f"{object_key} was stored but could not be read back, so it was removed again: {error}"
            ) from error
        say(f"stored as {store.url(object_key)}, {info.size_bytes:,} bytes")
        say(f"read back and compared: {len(opened.members)} members {opened.dump}".strip())
    begin("remove old ones", _STEPS)
    _remove_old(store, layout, retention, say)
    return StoredBackup(object_key, taken_at, info.size_bytes)


def _remove_old(store: ObjectStore, layout: Layout, retention: Retention, say: Say) -> None:
    backups = stored_backups(store, layout)
    kept = retention.kept(backup.taken_at for backup in backups)
    old = [backup for backup in backups if backup.taken_at not in kept]
    for backup in old:
        store.delete(backup.key)
    say(f"{len(backups) - len(old)} backups are kept" + (f", {len(old)} older ones removed" if old else ""))


@dataclass(slots=True)
class _Source:
    """A member to be archived, held open so that its content cannot change."""

    name: str
    file: IO[bytes]
    size_bytes: int = field(init=False)
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        self.sha256 = hashlib.file_digest(self.file, "sha256").hexdigest()  # type: ignore[arg-type]
        self.size_bytes = self.file.seek(0, os.SEEK_END)

    def describe(self) -> dict[str, Any]:
        return {"bytes": self.size_bytes, "sha256": self.sha256}


def _collect(places: Places, scratch: Path, stack: contextlib.ExitStack, say: Say) -> Iterator[_Source]:
    if places.postgres is not None:
        target = scratch / POSTGRES_DUMP
        places.postgres.dump(target)
        where = f"{places.postgres.host}:{places.postgres.port}/{places.postgres.name}"
        say(f"dumped PostgreSQL {where}: {target.stat().st_size:,} bytes")
        yield _Source(POSTGRES_DUMP, stack.enter_context(target.open("rb")))
    for name, path in places.sqlite.items():
        if path.exists():
            target = scratch / name.replace("/", "_")
            _copy_sqlite(path, target)
            say(f"copied {path}: {target.stat().st_size:,} bytes")
            yield _Source(name, stack.enter_context(target.open("rb")))
    if places.database.exists():
        # Replaced by a rename, never written in place: the open file does not change.
        source = _Source(DATABASE, stack.enter_context(places.database.open("rb")))
        say(f"{places.database}: {source.size_bytes:,} bytes")
        yield source
    waiting = 0
    for body in places.spool.waiting():
        with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
            yield _Source(f"spool/{body.path.name}", io.BytesIO(body.read()))
            waiting += 1
    if waiting:
        say(f"{waiting} snapshots waiting in {places.spool.folder}")
    for path in _configuration(places.files):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BackupError(
                f"{path} (WRM_BACKUP_FILES) cannot be read: {error.strerror}. Correct the path or its mode."
            ) from None
        yield _Source(f"files{path}", io.BytesIO(content))


def _configuration(files: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in files:
        if path.is_dir():
            found += sorted(inner for inner in path.rglob("*") if inner.is_file())
        else:
            found.append(path)
    return found


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a consistent state of a database that is in use."""
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _write(target: Path, key: bytes, manifest: Mapping[str, Any], sources: Sequence[_Source]) -> None:
    with target.open("wb") as file:
        with EncryptedWriter(file, key) as encrypted, tarfile.open(fileobj=encrypted, mode="w|") as tar:  # type: ignore[call-overload]
            _add(tar, MANIFEST, io.BytesIO(json.dumps(manifest, ensure_ascii=False, indent=1).encode()))
            for source in sources:
                source.file.seek(0)
                _add(tar, source.name, source.file, source.size_bytes)
        file.flush()
        os.fsync(file.fileno())


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes], size_bytes: int | None = None) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(file.getbuffer()) if size_bytes is None and isinstance(file, io.BytesIO) else size_bytes or 0
    tar.addfile(info, file)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """The empty scratch folder, for one process at a time; leftovers of a killed process are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"Another backup or restore is running in {folder}. Wait until it ends.") from None
        _empty(folder)
        yield folder
    finally:
        _empty(folder)
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# --- Opening one ---------------------------------------------------------------------------------------------------


def choose(store: ObjectStore, layout: Layout, name: str | None) -> StoredBackup:
    """The backup with that key, file name or time (or a prefix of it); the newest without a name.

    Raises:
        BackupError: none matches, or several do.
    """
    backups = stored_backups(store, layout)
    if not backups:
        raise BackupError(
            f"There is no backup below {layout.backup_prefix} of {store.name}. Check BUCKET_NAME and "
            "WRM_STATIONS_S3_PREFIX. Without a backup, `wrm rebuild` makes partitions and tables from raw/ and "
            "dlq/."
        )
    if name is None:
        return backups[0]
    found = [b for b in backups if name in (b.key, b.key.rpartition("/")[2])]
    found = found or [b for b in backups if b.key.rpartition("/")[2].removeprefix("wrm-backup_").startswith(name)]
    if len(found) != 1:
        raise BackupError(f"{name!r} matches {len(found)} backups; `wrm backup list` shows their names.")
    return found[0]


@contextlib.contextmanager
def opened(
    store: ObjectStore, backup: StoredBackup, key: bytes, scratch: Path, begin: Begin = unobserved
) -> Iterator[OpenBackup]:
    """A backup, fetched and checked; its files exist until the `with` block ends.

    Raises:
        EncryptedFileError: it has another key, is damaged, or incomplete.
        BackupError: it was made by another version, or another backup is being opened.
        ExternalError: the store failed.
    """
    with _scratch(scratch) as folder:
        yield _fetch(store, backup.key, key, folder, begin)


def _fetch(store: ObjectStore, object_key: str, key: bytes, scratch: Path, begin: Begin = unobserved) -> OpenBackup:
    begin("fetch", 1)
    reader = EncryptedReader(io.BytesIO(store.get(object_key)), key, object_key)
    members: dict[str, Path] = {}
    manifest: dict[str, Any] | None = None
    folder = scratch / "members"
    folder.mkdir()
    with _explained(object_key), tarfile.open(fileobj=reader, mode="r|") as tar:  # type: ignore[call-overload]
        for info in tar:
            source = tar.extractfile(info)
            if source is None:
                continue
            if manifest is None:
                manifest = _manifest(source.read(), info.name, object_key)
                continue
            begin(info.name, 1 + len(manifest["members"]))
            # Numbered files: a name in an archive is never used as a path.
            path = folder / str(len(members))
            digest, size = hashlib.sha256(), 0
            with path.open("wb") as file:
                while chunk := source.read(_COPY_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
            if manifest["members"].get(info.name) != {"bytes": size, "sha256": digest.hexdigest()}:
                raise BackupError(
                    f"{object_key} is damaged: {info.name} differs from its manifest. Use an older backup."
                )
            members[info.name] = path
    reader.read()  # to its authenticated end
    missing = set(manifest["members"]) - set(members) if manifest else {MANIFEST}
    if manifest is None or missing:
        raise BackupError(f"{object_key} lacks {', '.join(sorted(missing))}. Use an older backup (`wrm backup list`).")
    dump = f"({describe(members[POSTGRES_DUMP])})" if POSTGRES_DUMP in members else ""
    return OpenBackup(object_key, manifest, members, dump)


def _manifest(content: bytes, name: str, object_key: str) -> dict[str, Any]:
    manifest = json.loads(content) if name == MANIFEST else {}
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise BackupError(f"{object_key} was made by another version of this program. Use that version to restore it.")
    return manifest


@contextlib.contextmanager
def _explained(object_key: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise BackupError(f"{object_key} does not hold a backup archive ({error}). Use an older backup.") from error


# --- Putting it back -----------------------------------------------------------------------------------------------

Change = Literal["new", "replaces", "there already"]


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a restore.

    Attributes:
        part: `postgresql`, `sqlite`, `duckdb`, `spool` or `files`.
        source: The member.
        target: Where it goes, for display.
        change: What happens to existing data.
        apply: Carries it out.
    """

    part: str
    source: str
    target: str
    change: Change
    apply: Callable[[], None]


PARTS = ("postgresql", "sqlite", "duckdb", "spool", "files")


def plan_restore(backup: OpenBackup, places: Places, parts: Sequence[str] = PARTS) -> list[Step]:
    """What a restore would do on this machine; changes nothing.

    Raises:
        ExternalError: PostgreSQL does not answer.
        BackupError: the backup holds a PostgreSQL dump, and this machine has no PostgreSQL configured.
    """
    steps = [_step(name, path, places) for name, path in backup.members.items()]
    return [step for step in steps if step.part in parts]


def _step(name: str, path: Path, places: Places) -> Step:
    if ".." in name.split("/"):
        raise BackupError(f"The backup holds a file {name!r}, which would escape its folder. It is not restored.")
    if name == POSTGRES_DUMP:
        database = places.postgres
        if database is None:
            raise BackupError(
                "The backup holds a PostgreSQL dump, but POSTGRES_HOST is not set here. Create the database, set the "
                "POSTGRES_ variables, and try again; or leave it out with --only duckdb,spool,files."
            )
        where = f"PostgreSQL {database.host}:{database.port}/{database.name}"
        change: Change = "replaces" if database.tables() else "new"
        return Step("postgresql", name, where, change, lambda: database.restore(path))
    if name == DATABASE:
        return _copy_step("duckdb", name, path, places.database)
    if name.startswith("spool/"):
        return _copy_step("spool", name, path, places.spool.folder / name.removeprefix("spool/"))
    if name in places.sqlite:
        return _copy_step("sqlite", name, path, places.sqlite[name])
    return _copy_step("files", name, path, places.restored_files / name.removeprefix("files").lstrip("/"))


def _copy_step(part: str, name: str, source: Path, target: Path) -> Step:
    change: Change = "new"
    if target.exists():
        same = target.stat().st_size == source.stat().st_size and target.read_bytes() == source.read_bytes()
        change = "there already" if same else "replaces"
    return Step(part, name, str(target), change, lambda: _copy(source, target))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.restoring")
    shutil.copyfile(source, temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    # The write-ahead log of the previous database would be replayed into the new one.
    for suffix in ("-wal", "-shm", ".wal"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    temporary.replace(target)
