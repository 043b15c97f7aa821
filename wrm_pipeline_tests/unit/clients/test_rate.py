"""Requests of several processes are held to one rate."""

from __future__ import annotations

import logging
import multiprocessing
import time
from pathlib import Path

import pytest

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.rate import SharedRate
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.lake.s3_object_store import S3ObjectStore

CONTEXT = multiprocessing.get_context("spawn")


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def ask(path: Path, count: int, done) -> None:
    rate = SharedRate(path, 200)
    for _ in range(count):
        rate.wait()
    done.put(time.monotonic())


def test_requests_are_spaced_after_a_burst(tmp_path):
    clock = Time()
    rate = SharedRate(tmp_path / "new" / "rate", 100, clock=lambda: clock.now, sleep=clock.sleep)
    for _ in range(500):
        rate.wait()
    assert clock.now - 1000 == pytest.approx(5 - 0.1, abs=0.05)
    clock.now += 3600
    start = clock.now
    for _ in range(10):
        rate.wait()
    assert clock.now == start


def test_processes_share_the_rate(tmp_path):
    path, done = tmp_path / "rate", CONTEXT.Queue()
    SharedRate(path, 200).wait()
    start = time.monotonic()
    processes = [CONTEXT.Process(target=ask, args=(path, 200, done)) for _ in range(2)]
    for process in processes:
        process.start()
    last = max(done.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert last - start >= 400 / 200 - 0.2


@pytest.mark.parametrize("content", [b"", b"abc", b"\x00" * 8, b"\xff" * 8, b"\x00\x00\x00\x00\x84\xd7\x97\x41"])
def test_what_another_boot_or_a_crash_left_in_the_file_holds_nothing_up(tmp_path, content):
    (tmp_path / "rate").write_bytes(content)
    clock = Time()
    SharedRate(tmp_path / "rate", 100, clock=lambda: clock.now, sleep=clock.sleep).wait()
    assert clock.now == 1000


def test_without_a_file_there_is_no_bound_and_it_is_said_once(tmp_path, caplog):
    (tmp_path / "file").touch()
    rate = SharedRate(tmp_path / "file" / "rate", 1)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            rate.wait()
    assert len([record for record in caplog.records if "not held to a rate" in record.message]) == 1


def test_each_attempt_of_a_request_waits_for_its_turn():
    turns = []

    class Turns(SharedRate):
        def wait(self) -> None:
            turns.append(1)

    def refused():
        raise ConnectionError("refused")

    store = S3ObjectStore(
        "b",
        refused,
        policy=RetryPolicy(attempts=3, deadline_s=60, base_wait_s=0.1, max_wait_s=1),
        rate=Turns(Path("unused"), 1),
        sleep=lambda _: None,
    )
    with pytest.raises(ExternalError):
        store.get("key")
    assert len(turns) == 3
