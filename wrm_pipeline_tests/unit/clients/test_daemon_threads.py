"""Threads that neither a `with` block nor the end of a process waits for, once these were interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from wrm_pipeline.clients.daemon_threads import DaemonThreads, result_of


def test_results_come_in_the_order_of_the_items():
    def slowest_first(number: int) -> int:
        time.sleep((3 - number) / 50)
        return number

    with DaemonThreads(4, "test") as threads:
        assert threads.map_all(slowest_first, range(4)) == [0, 1, 2, 3]
        assert threads.map_all(slowest_first, []) == []


def test_no_more_threads_than_asked_for():
    seen = set()
    both = threading.Barrier(2, timeout=10)

    def note(_: int) -> None:
        seen.add(threading.current_thread().name)
        both.wait()

    with DaemonThreads(2, "test") as threads:
        threads.map_all(note, range(10))
    assert seen == {"test-1", "test-2"}


def test_an_error_comes_out_and_what_has_not_begun_is_cancelled():
    go_on = threading.Event()
    with DaemonThreads(1, "test") as threads:
        under_way = threads.submit(go_on.wait, 30)
        waiting = threads.submit(int, "1")
        failing = DaemonThreads(1, "test").submit(int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            result_of(failing)
    assert not under_way.done(), "the block has not waited for it"
    with pytest.raises(CancelledError):
        waiting.result(10)
    go_on.set()
    assert under_way.result(10)


def test_a_call_may_raise_timeout_error():
    def refuse() -> None:
        raise TimeoutError("of its own")

    with DaemonThreads(1, "test") as threads, pytest.raises(TimeoutError, match="of its own"):
        result_of(threads.submit(refuse))


SCRIPT = """
import signal, sys, time
from wrm_pipeline.clients.daemon_threads import DaemonThreads

def handler(*_):
    raise SystemExit(3)

def stay(seconds):
    print("begun", flush=True)
    time.sleep(seconds)
    print("done", flush=True)

signal.signal(signal.SIGTERM, handler)
threads = DaemonThreads(1, "test")
if sys.argv[1] == "interrupted":
    with threads:
        threads.map_all(stay, [600])
threads.submit(stay, 0.5)
sys.exit(3)
"""


def test_a_process_that_was_interrupted_ends_at_once():
    with subprocess.Popen([sys.executable, "-c", SCRIPT, "interrupted"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130


def test_a_process_that_was_not_waits_and_keeps_its_exit_status():
    done = subprocess.run([sys.executable, "-c", SCRIPT, "not"], stdout=subprocess.PIPE, timeout=30, check=False)
    assert (done.stdout, done.returncode) == (b"begun\ndone\n", 3)
