"""A limit on requests per second, shared by all processes of a machine.

Services count by address (Hetzner: 750 requests/s), and runs are processes: a limit in each would not limit anything.
They share one number in a locked file, the moment at which the next request is due; reading and writing it takes 10 µs,
a request thousands.
"""

import contextlib
import fcntl
import logging
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

# Requests that may come at once after a quiet time, as a share of a second's.
_BURST_S = 0.1

# A later moment is from before a reboot: the clock starts at 0 when the machine does.
_BELIEVED_S = 60.0

_MOMENT = struct.Struct("<d")


class SharedRate:
    """At most `per_second` requests, on average over any second, of all processes that name the same file.

    If the file cannot be written there is no limit: better too fast than not at all.
    """

    def __init__(
        self,
        path: Path,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._interval_s = 1 / per_second
        self._clock = clock
        self._sleep = sleep
        self._was_logged = False

    def wait(self) -> None:
        """Return when the next request may be sent."""
        try:
            delay = self._reserve()
        except OSError as error:
            if not self._was_logged:
                self._was_logged = True
                logger.warning("Requests are not held to a rate: %s cannot be written (%s)", self._path, error)
            return
        if delay > 0:
            self._sleep(delay)

    def _reserve(self) -> float:
        """Seconds until the moment reserved for this request."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            now = self._clock()
            due = now - _BURST_S
            with contextlib.suppress(struct.error):
                (kept,) = _MOMENT.unpack(os.pread(descriptor, _MOMENT.size, 0))
                due = max(due, kept) if kept <= now + _BELIEVED_S else due
            os.pwrite(descriptor, _MOMENT.pack(due + self._interval_s), 0)
            return due - now
        finally:
            os.close(descriptor)  # and with it the lock
