"""Fans heavy work out behind `concurrent.futures.Executor`: in this process, in processes of this machine, or on Dask.

A worker process may die midway (out of memory, a machine that goes away). Its task is then given to another one, so a
task must depend on its argument only and may run twice.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from traceback import format_exception
from typing import Any, Generic, Literal, TypeVar

from wrm_pipeline.clients.daemon_threads import LOOK_S, DaemonThreads
from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.logs import get_logger

_log = get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

Kind = Literal["sequential", "threads", "processes", "dask"]

# A task that was running each time a worker died is given up; its last tries run alone, so that it cannot be the fault
# of another.
MAX_LOSSES = 3

DASK_TIMEOUT_S = 10

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class TaskFailedError(RuntimeError):
    """A task raised an exception; the message names it, the traceback is the worker's.

    It holds text only, which can always be sent between processes.
    """

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message, traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        return str(self.args[0])


class WorkerLostError(RuntimeError):
    """A task killed its worker each time it was tried."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """The outcome of one task: a result, or a `TaskFailedError` or `WorkerLostError`."""

    task: T
    result: R | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Workers:
    """Where tasks run, and how many at a time.

    Attributes:
        kind: `sequential` is this process, one after the other.
        count: Tasks at a time; Dask reports its own capacity.
        dask_address: The scheduler, for `dask`.
        preload: Modules that each worker process starts with.
    """

    kind: Kind = "sequential"
    count: int = 1
    dask_address: str | None = None
    preload: tuple[str, ...] = ()

    def run(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[Outcome[T, R]]:
        """Run `function` for each task; outcomes come as they are ready, in any order.

        A task that raises is an outcome, too, and does not stop the others. Function, tasks and results must be
        picklable.

        Raises:
            PermanentError: there is no Dask cluster at the address.
        """
        if self.kind == "sequential":
            for task in tasks:
                yield _carried_out(function, task)
            return
        if self.kind != "threads":
            function = partial(_in_dask_worker if self.kind == "dask" else _in_worker, function)
        queue = _Queue(deque(tasks))
        while queue.waiting or queue.suspects:
            with self._open() as (executor, room):
                yield from queue.work_off(executor, function, room)

    @contextmanager
    def _open(self) -> Iterator[tuple[Executor, int]]:
        if self.kind == "dask":
            with _dask(self.dask_address or "") as opened:
                yield opened
            return
        executor: Executor
        if self.kind == "threads":
            executor = DaemonThreads(self.count, "worker")
        else:
            # Not forked from this process: it has threads (Arrow's, gRPC's), and a fork may inherit a lock that one of
            # them holds. The fork server loads the code once instead, which takes seconds.
            server = multiprocessing.get_context("forkserver")
            server.set_forkserver_preload(list(self.preload))
            executor = ProcessPoolExecutor(self.count, mp_context=server)
        others = set(multiprocessing.active_children())
        try:
            yield executor, self.count
        except BaseException:  # e.g. cancelled: do not wait for calls under way
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise
        finally:
            executor.shutdown(cancel_futures=True)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class _Queue(Generic[T]):
    """Tasks that are still to be done; `suspects` were under way when a worker died, and run one at a time."""

    waiting: deque[T]
    suspects: deque[T] = field(default_factory=deque)
    losses: Counter[T] = field(default_factory=Counter)

    def work_off(self, executor: Executor, function: Callable[[T], R], room: int) -> Iterator[Outcome[T, R]]:
        """Runs until everything is done, or the executor is broken."""
        under_way: dict[Future[R], T] = {}
        while self.waiting or self.suspects or under_way:
            try:
                self._submit(executor, function, under_way, room)
            except BrokenExecutor:
                yield from self._lost(list(under_way.values()))
                return
            done, _ = wait(under_way, LOOK_S, FIRST_COMPLETED)
            broken = False
            for future in done:
                task = under_way.pop(future)
                outcome = _outcome_of(task, future)
                if outcome is not None:
                    yield outcome
                    continue
                broken |= isinstance(_error_of(future), BrokenExecutor | CancelledError)
                yield from self._lost([task])
            if broken:
                yield from self._lost(list(under_way.values()))
                return

    def _submit(self, executor: Executor, function: Callable[[T], R], under_way: dict[Future[R], T], room: int) -> None:
        def submit_first(tasks: deque[T]) -> None:
            under_way[executor.submit(_carry_out, function, tasks[0])] = tasks[0]
            tasks.popleft()  # it stays where it is if the executor turns out to be broken

        if self.suspects:
            if not under_way:
                submit_first(self.suspects)
            return
        while self.waiting and len(under_way) < room:
            submit_first(self.waiting)

    def _lost(self, tasks: Sequence[T]) -> Iterator[Outcome[T, R]]:
        for task in tasks:
            self.losses[task] += 1
            if self.losses[task] < MAX_LOSSES:
                _log.warning("a worker died; its task is tried again", task=str(task), losses=self.losses[task])
                self.suspects.append(task)
                continue
            yield Outcome(
                task,
                error=WorkerLostError(
                    f"Its worker died {MAX_LOSSES} times, at last with nothing else to do. Look for a memory limit "
                    "(`dmesg | grep -i oom`, the Dask worker's log); fewer workers (WRM_WORKERS) leave more to each."
                ),
            )


def _outcome_of(task: T, future: Future[R]) -> Outcome[T, R] | None:
    """The outcome of a task; None if its worker died instead."""
    error = _error_of(future)
    if error is None:
        return Outcome(task, future.result())
    if isinstance(error, BrokenExecutor | CancelledError) or type(error).__name__ == "KilledWorker":
        return None
    if isinstance(error, Exception):
        return Outcome(task, error=error)
    raise error


def _error_of(future: Future[R]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error


def _carry_out(function: Callable[[T], R], task: T) -> R:
    try:
        return function(task)
    except Exception as error:  # noqa: BLE001 - the caller judges
        raise TaskFailedError(f"{type(error).__name__}: {error}", "".join(format_exception(error))) from None


def _carried_out(function: Callable[[T], R], task: T) -> Outcome[T, R]:
    try:
        return Outcome(task, _carry_out(function, task))
    except TaskFailedError as error:
        return Outcome(task, error=error)


def _in_worker(function: Callable[[T], R], task: T) -> R:
    """In a worker process of this machine or of Dask."""
    _settle_in()
    return function(task)


def _in_dask_worker(function: Callable[[T], R], task: T) -> R:
    _settle_in_dask()
    return _in_worker(function, task)


@cache
def _settle_in_dask() -> None:
    """Take back what Dask sets for many small tasks; a task of ours is a second and 400 MB.

    It samples the stack of the task 100 times a second, and has malloc return freed memory to the system at once.
    """
    from distributed import get_worker

    worker: Any = get_worker()
    for name in ("profile", "profile-cycle"):
        if name in worker.periodic_callbacks:
            worker.loop.add_callback(worker.periodic_callbacks[name].stop)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 2**28)
        mallopt(_M_MMAP_THRESHOLD, 2**25)


@cache
def _settle_in() -> None:
    import pyarrow as pa

    pa.set_cpu_count(1)  # Arrow's own threads would only compete with other workers
    gc.freeze()  # as `wrm_pipeline.definitions` does


@contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, int]]:
    import distributed

    connect: Any = distributed.Client  # has no types

    try:
        client: Any = connect(address, timeout=DASK_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise PermanentError(
            f"no Dask scheduler answers ({error})",
            "dask",
            "connect",
            address,
            "Start it, or correct DASK_SCHEDULER_ADDRESS; unset, the work is done on this machine",
        ) from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise PermanentError(
                "the scheduler has no workers", "dask", "connect", address, "Start them: `dask worker ADDRESS`"
            )
        # One extra task per worker, so that none is idle between two.
        yield client.get_executor(pure=False), 2 * threads
