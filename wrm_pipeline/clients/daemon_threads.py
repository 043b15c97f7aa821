"""Threads that a cancelled run leaves behind.

`ThreadPoolExecutor` cannot be left: its `with` block waits for every call, and so does the end of the process. A call
that waits for a silent server takes up to two minutes (DuckDB: 4 attempts of 30 s), and a cancelled run has 10 s.
"""

import atexit
import contextlib
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LOOK_S = 0.2
"""A signal that arrives just before a wait does not end it, so no single wait is longer than this."""

_INTERRUPTED = 130
"""Exit status of a program that SIGINT has ended."""

_under_way: set[Future[Any]] = set()
_interrupts: list[type[BaseException]] = []


class DaemonThreads(Executor):
    """As `ThreadPoolExecutor(count)`, with threads that do not hold up the `with` block.

    At its end, calls that have not begun are cancelled, and those under way go on in their threads; so take the results
    within it.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._started = 0

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> "Future[R]":
        """See `Executor.submit`."""
        future: Future[R] = Future()
        self._calls.put((future, lambda: fn(*args, **kwargs)))
        if self._started < self._count:
            self._started += 1
            name = f"{self._name}-{self._started}"
            threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True).start()
        return future

    def map_all(self, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The result of `fn` for each item, in order; raises the first exception that one of them raised."""
        return [result_of(future) for future in [self.submit(fn, item) for item in items]]

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:  # noqa: ARG002
        """Let the threads end. Never waits, whatever the arguments say."""
        with contextlib.suppress(Empty):
            while (call := self._calls.get_nowait()) is not None:
                call[0].cancel()
        for _ in range(self._started):
            self._calls.put(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception | GeneratorExit):
            interrupted(kind)
        self.shutdown()


def result_of(future: "Future[R]") -> R:
    """The result of a call in another thread; a signal's exception ends the wait."""
    while not future.done():
        wait([future], LOOK_S)
    return future.result()


def interrupted(kind: type[BaseException]) -> None:
    """Note that this process is being ended: it will not wait for calls that are still under way."""
    _interrupts.append(kind)


def _serve(calls: "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]") -> None:
    while (call := calls.get()) is not None:
        future, fn = call
        if not future.set_running_or_notify_cancel():
            continue
        _under_way.add(future)
        try:
            result = fn()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is taken
            future.set_exception(error)
        else:
            future.set_result(result)
            del result
        _under_way.discard(future)
        del call, future, fn


@atexit.register
def _end_process() -> None:
    """Wait for calls under way, as `ThreadPoolExecutor` does, except in a run's process or after an interrupt.

    Python cannot end around it: one in four processes died of a segmentation fault in DuckDB's read of a silent server.
    """
    if not _under_way:
        return
    if not _interrupts and multiprocessing.parent_process() is None:
        wait(list(_under_way))
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(_INTERRUPTED)
