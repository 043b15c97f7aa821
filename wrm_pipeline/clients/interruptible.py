"""A DuckDB connection that a signal can end.

Called in the main thread, DuckDB turns what a signal handler raises (Dagster's DagsterExecutionInterruptedError on a
cancel, KeyboardInterrupt) into a RuntimeError, which Dagster takes for a failed step and goes on to the next; the
connection keeps its query and its files even after `close()`, so that the next `connect()` to that path spins for ever
(1.5.5). While a query waits for a silent server, no handler runs at all. So every call is made in a thread of the
connection's own: the main thread only waits, the handler's exception comes through as it is, and the query is
interrupted as DuckDB wants it.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from wrm_pipeline.logs import get_logger

if TYPE_CHECKING:
    import duckdb

_log = get_logger(__name__)

# A cancelled run has 10 s to end. A query that reads local files stops within tenths of a second; one that waits for a
# silent server does not, and is left behind in its thread.
GRACE_S = 5.0
_POLL_S = 0.05
_LOOK_S = 0.2

Call = Callable[[], Any]
# The call, what it gave, and what it raised.
Answer = tuple[Call, Any, BaseException | None]


class InterruptibleConnection:
    """Passes every call on to the connection that `connect` opens, in one thread.

    What would return the connection itself returns this object. Variables of the caller are not found as tables:
    register what a query is to read.
    """

    def __init__(self, connect: "Callable[[], duckdb.DuckDBPyConnection]") -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._abandoned = False
        self._thread = threading.Thread(target=_serve, args=(self._calls, self._answers), name="duckdb", daemon=True)
        self._thread.start()
        self._raw: duckdb.DuckDBPyConnection | None = None
        try:
            self._raw = self._run(connect)
        except BaseException:
            self._calls.put(None)
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
            self._calls.put(None)
        self._thread.join()

    def _run(self, call: Call) -> Any:
        if self._abandoned:
            raise RuntimeError("This connection was left behind with a query that could not be interrupted.")
        try:
            self._calls.put(call)
            _, found, error = self._wait()
        except BaseException:
            self._stop()
            raise
        if error is not None:
            raise error
        return found

    def _wait(self) -> Answer:
        """The next answer. Looked for now and then: a signal that comes just before the wait would not end it."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=_LOOK_S)

    def _stop(self) -> None:
        """Interrupt what is under way. Again and again, as an interrupt that comes before the query counts for none.

        The signal may have come before the call was handed over or after it was answered: what comes back for the
        fence tells that nothing is under way.
        """
        self._abandoned = True  # should another signal come meanwhile
        deadline = time.monotonic() + GRACE_S
        fence = _nothing_more
        self._calls.put(fence)
        while time.monotonic() < deadline:
            if self._raw is not None:
                self._raw.interrupt()
            try:
                answered, _, _ = self._answers.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if answered is fence:
                self._abandoned = False
                return
        self._calls.put(None)
        _log.warning("a query was left behind", reason=f"it did not stop within {GRACE_S:.0f} s of being cancelled")


def _nothing_more() -> None:
    """The call that is made last."""


def _serve(calls: "SimpleQueue[Call | None]", answers: "SimpleQueue[Answer]") -> None:
    while (call := calls.get()) is not None:
        answer: Answer
        try:
            answer = (call, call(), None)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the call came from
            answer = (call, None, error)
        del call
        answers.put(answer)
        del answer


def interruptible(connect: "Callable[[], duckdb.DuckDBPyConnection]") -> "duckdb.DuckDBPyConnection":
    """Open a connection by `connect` whose calls a signal's exception ends; it has DuckDB's own methods."""
    return cast("duckdb.DuckDBPyConnection", InterruptibleConnection(connect))
