"""Tasks in this process, in threads, in processes; and workers that die."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from wrm_pipeline.clients import daemon_threads
from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.clients.workers import MAX_LOSSES, WorkerLostError, Workers

PROCESSES = Workers("processes", 2, preload=(__name__,))
KINDS = [Workers("sequential"), Workers("threads", 2), PROCESSES]


def square_or_refuse(number: int) -> tuple[int, int, str]:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number, os.getpid(), threading.current_thread().name


def die_until(task: tuple[str, int]) -> str:
    """Kill this process as often as the task says; a file per death counts them."""
    name, deaths = task
    folder = Path(name)
    if sum(1 for _ in folder.iterdir()) < deaths:
        (folder / f"{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return folder.name


@pytest.mark.parametrize("workers", KINDS, ids=lambda w: w.kind)
def test_a_task_that_raises_is_an_outcome_and_stops_no_other(workers):
    outcomes = {outcome.task: outcome for outcome in workers.run(square_or_refuse, [1, -2, 3])}
    assert {task: outcome.result[0] for task, outcome in outcomes.items() if outcome.result} == {1: 1, 3: 9}
    assert str(outcomes[-2].error) == "ValueError: -2 is negative"
    assert "in square_or_refuse" in outcomes[-2].error.traceback


def test_each_kind_works_where_it_says():
    here, threads, processes = ([o.result for o in workers.run(square_or_refuse, range(4))] for workers in KINDS)
    assert {result[1] for result in here + threads} == {os.getpid()}
    assert {result[2] for result in here} == {threading.current_thread().name}
    assert all(result[2].startswith("worker") for result in threads)
    assert os.getpid() not in {result[1] for result in processes}


def test_no_tasks_start_no_worker():
    assert list(PROCESSES.run(square_or_refuse, [])) == []


def test_the_task_of_a_worker_that_died_is_done_by_another_one(tmp_path, caplog):
    tasks = [(str(tmp_path / name), deaths) for name, deaths in [("a", 0), ("b", 1), ("c", 0), ("d", 0)]]
    for folder, _ in tasks:
        Path(folder).mkdir()
    outcomes = list(PROCESSES.run(die_until, tasks))
    assert sorted(outcome.result or "" for outcome in outcomes) == ["a", "b", "c", "d"]
    assert len(list((tmp_path / "b").iterdir())) == 1


def test_a_task_that_kills_each_worker_is_given_up_and_costs_no_other(tmp_path):
    tasks = [(str(tmp_path / name), deaths) for name, deaths in [("a", 0), ("killer", 99), ("c", 0), ("d", 0)]]
    for folder, _ in tasks:
        Path(folder).mkdir()
    outcomes = {Path(outcome.task[0]).name: outcome for outcome in PROCESSES.run(die_until, tasks)}
    assert {name for name, outcome in outcomes.items() if outcome.result} == {"a", "c", "d"}
    assert isinstance(outcomes["killer"].error, WorkerLostError)
    assert len(list((tmp_path / "killer").iterdir())) == MAX_LOSSES


def test_a_dask_scheduler_that_is_not_there_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr("wrm_pipeline.clients.workers.DASK_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(PermanentError, match="DASK_SCHEDULER_ADDRESS") as caught:
        list(Workers("dask", dask_address=address).run(square_or_refuse, [1]))
    assert address in str(caught.value)


RELEASED = threading.Event()


class Cancelled(BaseException):
    """As Dagster's DagsterExecutionInterruptedError is one."""


@pytest.mark.parametrize("workers", KINDS[1:], ids=lambda w: w.kind)
def test_a_cancel_does_not_wait_for_what_is_under_way(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(daemon_threads, "_interrupts", [])

    def cancel(*_: object) -> None:
        # Once: a thread that begins late sends its signal while the test looks, or after it.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        raise Cancelled

    signal.signal(signal.SIGUSR1, cancel)
    RELEASED.clear()
    try:
        tasks = [(str(tmp_path / name), os.getpid()) for name in "abc"]
        started = time.monotonic()
        with pytest.raises(Cancelled):
            list(workers.run(stay_and_cancel, tasks))
        assert time.monotonic() - started < 20
        pids = {int(path.name.partition("-")[2]) for path in tmp_path.iterdir()} - {os.getpid()}
        _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=20)
        assert alive == []
    finally:
        RELEASED.set()


def stay_and_cancel(task: tuple[str, int]) -> None:
    """Say which process this is, send a signal to the caller's, and go on."""
    name, caller = task
    Path(f"{name}-{os.getpid()}").touch()
    os.kill(caller, signal.SIGUSR1)
    RELEASED.wait(60)
