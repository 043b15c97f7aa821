from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.breaker import Breaker, Breakers, MemoryStorage, State
from wrm_pipeline.clients.errors import CircuitOpenError, PermanentError, TransientError
from wrm_pipeline.clients.retry import RequestCounter, RetryPolicy

ONCE = RetryPolicy(attempts=1, deadline_s=1, base_wait_s=0, max_wait_s=0)


class Clock:
    """Real time plus what a test lets pass."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


def fail() -> None:
    raise TransientError("down", "s3", "get")


def refuse() -> None:
    raise PermanentError("no", "s3", "get")


def ask(breaker: Breaker, fn=lambda: "ok", policy=ONCE, **options):
    options = {"on_event": RequestCounter(), "sleep": lambda _: None, **options}
    return retry.call(fn, target=breaker.target, operation="get", policy=policy, breaker=breaker, **options)


def trip(breaker: Breaker, times: int = 5) -> None:
    for _ in range(times):
        with pytest.raises(TransientError):
            ask(breaker, fail)


def test_five_failed_calls_open_the_circuit_for_the_next_process_too(tmp_path, clock):
    trip(Breakers(tmp_path, now=clock).of("s3"), 2)
    breakers = Breakers(tmp_path, now=clock)  # the next run
    trip(breakers.of("s3"), 2)
    assert not breakers.is_open("s3")
    trip(breakers.of("s3"), 1)
    assert breakers.is_open("s3")

    calls = []
    counter = RequestCounter()
    with pytest.raises(CircuitOpenError) as caught:
        ask(Breakers(tmp_path, now=clock).of("s3"), lambda: calls.append(1), on_event=counter)
    assert calls == []
    assert counter.snapshot().requests == {("s3", "get", "circuit_open"): 1}
    assert abs(caught.value.since - clock()) < timedelta(seconds=2)
    assert caught.value.next_probe_at - caught.value.since == timedelta(seconds=60)
    assert not Breakers(tmp_path).is_open("feed")


def test_a_call_counts_once_whatever_its_retries(tmp_path):
    breaker = Breakers(tmp_path).of("s3")
    for _ in range(4):
        with pytest.raises(TransientError):
            ask(breaker, fail, RetryPolicy(attempts=6, deadline_s=9, base_wait_s=0, max_wait_s=0))
    assert not breaker.is_open


def test_a_success_starts_the_count_again(tmp_path):
    breaker = Breakers(tmp_path).of("s3")
    for _ in range(5):
        trip(breaker, 4)
        assert ask(breaker) == "ok"
    assert not breaker.is_open


def test_a_refusal_never_opens_it_and_proves_the_target_alive(tmp_path):
    breaker = Breakers(tmp_path).of("s3")
    for _ in range(20):
        with pytest.raises(PermanentError):
            ask(breaker, refuse)
    assert not breaker.is_open
    trip(breaker, 4)
    with pytest.raises(PermanentError):
        ask(breaker, refuse)
    trip(breaker, 4)
    assert not breaker.is_open


def test_a_bug_counts_for_nothing(tmp_path):
    breaker = Breakers(tmp_path).of("s3")
    for _ in range(6):
        with pytest.raises(ZeroDivisionError):
            ask(breaker, lambda: 1 / 0)
    assert not breaker.is_open


def test_after_the_cooldown_one_probe_of_one_attempt_closes_it(tmp_path, clock):
    breaker = Breakers(tmp_path, now=clock).of("s3")
    trip(breaker)
    clock.advance(59)
    with pytest.raises(CircuitOpenError):
        ask(breaker)
    clock.advance(2)
    assert breaker.is_open  # until the probe says otherwise

    in_probe, answer = threading.Event(), threading.Event()

    def probe() -> str:
        in_probe.set()
        assert answer.wait(10)
        return "ok"

    with ThreadPoolExecutor() as executor:
        probing = executor.submit(ask, breaker, probe)
        assert in_probe.wait(10)
        for other in (breaker, Breakers(tmp_path, now=clock).of("s3")):
            with pytest.raises(CircuitOpenError):
                ask(other)
        answer.set()
        assert probing.result() == "ok"
    assert not breaker.is_open
    assert ask(Breakers(tmp_path, now=clock).of("s3")) == "ok"


def test_a_failed_probe_is_a_single_attempt_and_opens_it_again(tmp_path, clock):
    breaker = Breakers(tmp_path, now=clock).of("s3")
    trip(breaker)
    for _ in range(3):
        clock.advance(61)
        attempts = []

        def attempt(attempts: list[int] = attempts) -> None:
            attempts.append(1)
            fail()

        with pytest.raises(TransientError):
            ask(breaker, attempt, RetryPolicy(attempts=6, deadline_s=9, base_wait_s=0, max_wait_s=0))
        assert len(attempts) == 1
        with pytest.raises(CircuitOpenError):
            ask(breaker)
    clock.advance(61)
    assert ask(breaker) == "ok"
    trip(breaker, 4)  # closed for good: the count is back at zero
    assert not breaker.is_open


def test_a_probe_whose_process_dies_is_followed_by_another(tmp_path, clock):
    breaker = Breakers(tmp_path, now=clock).of("s3")
    trip(breaker)
    clock.advance(61)
    assert breaker.admit() is True  # and never heard of again
    with pytest.raises(CircuitOpenError):
        breaker.admit()
    clock.advance(61)
    assert Breakers(tmp_path, now=clock).of("s3").admit() is True


def test_calls_run_in_parallel(tmp_path):
    breaker = Breakers(tmp_path).of("s3")
    together = threading.Barrier(8, timeout=10)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: ask(breaker, together.wait), range(8)))


def test_late_results_of_calls_from_before_it_opened_change_nothing(tmp_path, clock):
    breaker = Breakers(tmp_path, now=clock).of("s3")
    assert breaker.admit() is False
    assert breaker.admit() is False
    trip(breaker)
    clock.advance(30)
    breaker.failed()
    breaker.succeeded()
    assert breaker.is_open
    clock.advance(31)
    assert breaker.admit() is True  # the late failure did not prolong it


def test_a_clock_that_was_set_back_does_not_keep_it_open(tmp_path, clock):
    breaker = Breakers(tmp_path, now=clock).of("s3")
    trip(breaker)
    clock.advance(-86_400)
    assert breaker.admit() is True


# --- State that cannot be kept --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"failures": 5}',
        b'{"failures": "x", "opened_at": null, "probing": false}',
        b'{"failures": 5, "opened_at": "yesterday", "probing": false}',
        b'{"failures": 5, "opened_at": 7, "probing": false}',
        b'{"state": "open", "fail_counter": 5, "success_counter": 0, "opened_at": null}',
    ],
)
def test_a_damaged_file_means_closed_and_is_replaced(tmp_path, content):
    (tmp_path / "s3.json").write_bytes(content)
    breaker = Breakers(tmp_path).of("s3")
    assert not breaker.is_open
    assert ask(breaker) == "ok"
    trip(breaker)
    assert Breakers(tmp_path).is_open("s3")
    assert json.loads((tmp_path / "s3.json").read_bytes())["failures"] == 5


def test_a_folder_that_cannot_be_written_still_gives_a_breaker_for_this_process(caplog):
    breaker = Breakers(Path("/sys/wrm-breakers")).of("s3")
    assert ask(breaker) == "ok"
    # By its name, since the exporter, whose tests may have run in this process, sets this logger's level.
    with caplog.at_level(logging.WARNING, "wrm_pipeline.clients.breaker"):
        trip(breaker)
    assert breaker.is_open
    with pytest.raises(CircuitOpenError):
        ask(breaker)
    assert sum("this process only" in r.message for r in caplog.records) == 1


def test_no_file_is_written_while_all_is_well(tmp_path):
    ask(Breakers(tmp_path / "state").of("s3"))
    assert not (tmp_path / "state").exists()


def test_nothing_but_the_state_is_left_in_the_folder(tmp_path):
    trip(Breakers(tmp_path).of("s3"))
    assert [p.name for p in tmp_path.iterdir()] == ["s3.json"]


class Broken(MemoryStorage):
    """A storage that raises whatever is asked."""

    def read(self) -> State:
        raise OSError("gone")

    def write(self, state: State) -> None:
        raise OSError("gone")


def test_a_storage_that_raises_never_fails_a_call():
    breaker = Breaker("s3", Broken())
    assert not breaker.is_open
    assert ask(breaker) == "ok"
    trip(breaker)
    assert breaker.is_open


FAILING_RUN = """
import pathlib, sys
from wrm_pipeline.clients.breaker import Breakers
Breakers(pathlib.Path(sys.argv[1])).of("s3").failed()
"""


def test_failures_of_several_processes_add_up(tmp_path):
    trip(Breakers(tmp_path).of("s3"), 3)
    for expected in (False, True):
        subprocess.run([sys.executable, "-c", FAILING_RUN, str(tmp_path)], check=True)
        assert Breakers(tmp_path).is_open("s3") is expected


# --- Redis ----------------------------------------------------------------------------------------------------------


class Failing:
    """A Redis client whose server is away."""

    def __init__(self) -> None:
        self.calls = 0

    def __getattr__(self, name: str):
        def command(*_args: object, **_kwargs: object) -> None:
            self.calls += 1
            raise ConnectionError(name)

        return command


def test_without_redis_the_files_keep_the_state(tmp_path):
    redis = Failing()
    breakers = Breakers(tmp_path, redis=redis)
    trip(breakers.of("s3"))
    assert breakers.is_open("s3")
    assert Breakers(tmp_path).is_open("s3")
    assert redis.calls <= 1  # one time-out in all
