"""A DuckDB connection that a signal can end.

Called in the main thread, DuckDB turns what a signal handler raises (Dagster's DagsterExecutionInterruptedError on a
cancel, KeyboardInterrupt) into a RuntimeError, which Dagster takes for a failed step, going on to the next one; the
connection keeps its query and its files even after `close()`, so that the next `connect()` to that path spins for ever
(1.5.5). While a query waits for a silent server, no handler runs at all. So every call is made in the connection's own
thread: the main thread only waits, the handler's exception is raised unchanged, and the query is interrupted the way
DuckDB expects.
"""

import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, cast

from wrm_pipeline.clients.daemon_threads import DaemonThreads, interrupted, result_of
from wrm_pipeline.logs import get_logger

if TYPE_CHECKING:
    import duckdb

_log = get_logger(__name__)

# A cancelled run has 10 s to end. A query that reads local files stops within tenths of a second; one that waits for a
# silent server does not, and is left behind in its thread.
GRACE_S = 3.0
_POLL_S = 0.05


class InterruptibleConnection:
    """Passes every call on to the connection that `connect` opens, in one thread.

    Methods that would return the connection itself return this object. Variables of the caller are not found as tables:
    register what a query is to read.
    """

    def __init__(self, connect: "Callable[[], duckdb.DuckDBPyConnection]") -> None:
        self._thread = DaemonThreads(1, "duckdb")
        self._abandoned = False
        self._raw: duckdb.DuckDBPyConnection | None = None
        try:
            self._raw = self._run(connect)
        except BaseException:
            self._thread.shutdown()
            raise

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._raw, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            found = self._run(lambda: value(*arguments, **options))
            return self if found is self._raw else found

        return call

    def close(self) -> None:
        """Close the connection; one whose query could not be stopped is left to its thread."""
        if self._raw is None or self._abandoned:
            return
        raw, self._raw = self._raw, None
        try:
            self._run(raw.close)
        finally:
            self._thread.shutdown()

    def _run(self, call: Callable[[], Any]) -> Any:
        if self._abandoned:
            raise RuntimeError("This connection was left behind with a query that could not be interrupted.")
        try:
            found, error = result_of(self._thread.submit(_carried_out, call))
        except BaseException as signalled:
            self._stop(type(signalled))
            raise
        if error is not None:
            raise error
        return found

    def _stop(self, reason: type[BaseException]) -> None:
        """Interrupt the call under way; repeatedly, as an interrupt that comes before the query has no effect.

        The signal may have come before the call was handed over or after it was answered: once a later call that does
        nothing has run, nothing is under way.
        """
        self._abandoned = True  # should another signal come meanwhile
        deadline = time.monotonic() + GRACE_S
        fence = self._thread.submit(_nothing)
        while time.monotonic() < deadline:
            if self._raw is not None:
                self._raw.interrupt()
            wait([fence], _POLL_S)
            if fence.done():
                self._abandoned = False
                return
        interrupted(reason)
        self._thread.shutdown()
        _log.warning("a query was left behind", reason=f"it did not stop within {GRACE_S:.0f} s of being cancelled")


def _carried_out(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a call returned or raised; anything else raised while waiting for it comes from a signal."""
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - it is raised again where the call came from
        return None, error


def _nothing() -> None:
    """The last call."""


def interruptible(connect: "Callable[[], duckdb.DuckDBPyConnection]") -> "duckdb.DuckDBPyConnection":
    """Open a connection with `connect` whose calls end when a signal raises; it has DuckDB's own methods."""
    return cast("duckdb.DuckDBPyConnection", InterruptibleConnection(connect))
