"""Small files that several processes read and write: replaced whole, so that a reader never meets half of one."""

import contextlib
import os
import threading
from pathlib import Path


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace a file, and create its folder if necessary; its permissions are `mode`, less the umask.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sweep_orphans(path: Path) -> None:
    """Remove the temporary files of processes that were killed while writing `path`; they are rare, and so is this."""
    with contextlib.suppress(OSError):
        for orphan in path.parent.glob(f".{path.name}.*-*"):
            if not Path(f"/proc/{orphan.name.rpartition('.')[2].partition('-')[0]}").exists():
                orphan.unlink(missing_ok=True)
