"""Where the output of a forked run leads besides its file, which the UI shows: to the log of the code server."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MIRROR_EVERY_S = 0.25
_CHUNK_BYTES = 65_536


@contextmanager
def mirrored(path: str, stream: Any) -> Iterator[tuple[None, None]]:
    """While the block runs, copy what is appended to a file to where `stream` leads at the beginning of the block.

    In place of two `tail` and two Pythons that watch them, which cost a run 0.1 s of processor time and 30 MB. If the
    process is killed, the last quarter of a second is in the file alone.
    """
    try:
        to = os.dup(stream.fileno())
    except (OSError, AttributeError):  # it leads to no file
        yield None, None
        return
    ended = threading.Event()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - Dagster gives a text

        def copy() -> None:
            while chunk := file.read(_CHUNK_BYTES):
                _write(to, chunk)

        def keep_copying() -> None:
            while not ended.wait(_MIRROR_EVERY_S):
                copy()

        thread = threading.Thread(target=keep_copying, name="mirror of a run's output", daemon=True)
        thread.start()
        try:
            yield None, None
        finally:
            ended.set()
            thread.join()
            copy()
            os.close(to)


def _write(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return  # nobody reads it any more
