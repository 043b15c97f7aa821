"""Mirrors reports/ of the object store into a folder that a web server serves."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What changed: files written, files removed, files already up to date."""

    written: int = 0
    removed: int = 0
    unchanged: int = 0


def mirror(store: ObjectStore, prefix: str, folder: Path) -> Mirrored:
    """Make `folder` hold the objects under `prefix`, each file replaced by a rename; hidden names are left out.

    A file counts as unchanged if it has the object's size and time.

    Raises:
        ExternalError: the store failed; the folder holds a mix of old and new files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = unchanged = 0
    wanted = set()
    for info in list(store.list(prefix)):
        name = PurePosixPath(info.key.removeprefix(prefix))
        if not name.parts or any(part.startswith(".") for part in name.parts):
            continue
        path = folder / name
        wanted.add(path)
        if _is_current(path, info.size_bytes, info.last_modified.timestamp()):
            unchanged += 1
            continue
        try:
            body = store.get(info.key)
        except ObjectNotFoundError:  # removed since it was listed
            wanted.discard(path)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_bytes(body)
        os.utime(temporary, (info.last_modified.timestamp(),) * 2)
        temporary.replace(path)
        written += 1
    removed = 0
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
        elif path not in wanted:
            path.unlink()
            removed += 1
    _log.info("mirrored reports", written=written, removed=removed, unchanged=unchanged)
    return Mirrored(written, removed, unchanged)


def _is_current(path: Path, size: int, modified_s: float) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_size == size and abs(status.st_mtime - modified_s) < 1e-3
