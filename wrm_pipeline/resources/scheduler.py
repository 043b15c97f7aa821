"""Dagster's scheduler with a watch on the clock of the daemon's process.

In dagster.yaml::

    scheduler:
      module: wrm_pipeline.resources.scheduler
      class: ClockWatchedScheduler

When the clock was ahead and is right again, all of Dagster waits for the future time that it has seen: no sensor,
schedule or job runs that could notice, let alone repair it. The storage can be repaired from anywhere (`clock_repair`),
but the daemon's loops keep times in memory (when a schedule is due, since when a loop has been sleeping), and the queue
of runs stands still as well. So the watch runs in the daemon's process, and this class is the only way into it. It
notices that the clock went back and restarts the daemon in place: the process id stays the same, so neither systemd nor
`dagster dev` considers it dead, and to Dagster it looks like a crash, which it is built to survive. The new daemon
repairs the storage before its first evaluation.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.scheduler.scheduler import DEFAULT_MAX_CATCHUP_RUNS, DagsterDaemonScheduler
from dagster._serdes import ConfigurableClassData

logger = logging.getLogger("dagster.daemon.clock")

# Loops may well wait for a minute longer; time synchronisation usually steps by less.
JUMP = timedelta(minutes=1)
LOOK_EVERY_S = 1.0
# Another daemon with a different clock may write to the same storage; and the storage may be down when this one starts.
REPAIR_EVERY_S = 60.0

_DAEMON_THREAD = "dagster-daemon-"


class ClockWatchedScheduler(DagsterDaemonScheduler):
    """`DagsterDaemonScheduler`; in the daemon's process it starts a `ClockWatch`."""

    def __init__(
        self,
        max_catchup_runs: int = DEFAULT_MAX_CATCHUP_RUNS,
        max_tick_retries: int = 0,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        super().__init__(max_catchup_runs, max_tick_retries, inst_data)

    @property
    def max_catchup_runs(self) -> int:
        """Called only by the daemon's schedule loop, once, when it starts."""
        if threading.current_thread().name.startswith(_DAEMON_THREAD):
            _begin_once()
        return self._max_catchup_runs

    @max_catchup_runs.setter
    def max_catchup_runs(self, value: int) -> None:
        self._max_catchup_runs = value


_watch_lock = threading.Lock()
_watch: "ClockWatch | None" = None


def _begin_once() -> None:
    global _watch  # noqa: PLW0603 - one process has one clock
    with _watch_lock:
        if _watch is None:
            _watch = ClockWatch(dg.DagsterInstance.get)
            _watch.repair()
            threading.Thread(target=_watch.run, name="clock-watch", daemon=True).start()


def start_again() -> None:
    """Replace this process by the same program with the same arguments: fresh memory under the old process id."""
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line


class ClockWatch:
    """Checks the clock every second.

    Args:
        connect: Opens Dagster's instance.
        clock: The time in Unix seconds.
        restart: Called once the clock has gone back.
    """

    def __init__(
        self,
        connect: Callable[[], dg.DagsterInstance],
        *,
        clock: Callable[[], float] = time.time,
        restart: Callable[[], Any] = start_again,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._restart = restart
        self._last = clock()
        self._next_repair = 0.0

    def run(self) -> None:
        """Runs for as long as the process lives."""
        while True:
            time.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Once."""
        now, before = self._clock(), self._last
        self._last = now
        if now < before - JUMP.total_seconds():
            logger.warning(
                "The clock went back by %.0f s, to %s UTC: the daemon restarts, as its loops would otherwise wait "
                "that long.",
                before - now,
                datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            )
            self._restart()
        if time.monotonic() >= self._next_repair:
            self.repair()

    def repair(self) -> None:
        """Repair the storage if necessary; a failure is tried again later, and stops nothing."""
        from wrm_pipeline.resources.clock_repair import is_believable, repair_clock

        self._next_repair = time.monotonic() + REPAIR_EVERY_S
        now = datetime.fromtimestamp(self._clock(), UTC)
        if not is_believable(now):
            logger.warning("The clock says %s, which is before this program was installed. Correct it.", now)
            return
        try:
            with self._connect() as instance:
                found = repair_clock(instance, now)
        except Exception:
            logger.warning("It is unknown whether the clock was ahead; checking again in a minute", exc_info=True)
            return
        if found.in_the_way:
            logger.warning("The clock was ahead. Repaired, so that everything continues now: %s.", found)
