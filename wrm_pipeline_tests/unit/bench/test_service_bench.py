"""What the bench of the service counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from wrm_pipeline_tests.bench.arrivals import Arrivals
from wrm_pipeline_tests.bench.process_tree import RUNS, descendants, kind_of, memory_of, processor_seconds

# A process that waits for a child which has used a fifth of a second, and then lives on without work.
_PARENT = """
import os, subprocess, sys
burn = "import time\\nwhile time.process_time() < 0.2: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
pid = os.fork()
if not pid:
    exec(burn)
    os._exit(0)
os.waitpid(pid, 0)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _PARENT, "dagster._daemon"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "done\n"
    yield process
    process.stdin.close()
    process.wait(20)


def test_processes_that_have_ended_are_counted_as_runs(parent: subprocess.Popen[str]) -> None:
    found = processor_seconds(parent.pid)
    assert kind_of(parent.pid) == "daemon"
    assert descendants(parent.pid) == [parent.pid]
    assert 0.35 < found[RUNS] < 5
    assert found["daemon"] < found[RUNS]
    assert found["web server"] == 0


def test_memory_is_sampled_with_that_of_children(parent: subprocess.Popen[str]) -> None:
    with memory_of(parent.pid, every_s=0.001) as alone, memory_of(os.getpid(), every_s=0.001) as both:
        give_up = time.monotonic() + 20
        while not (alone.samples and both.samples) and time.monotonic() < give_up:
            time.sleep(0.001)
    assert 1 < alone.median <= alone.peak < both.peak


def test_delays_are_those_of_what_arrived_while_watched() -> None:
    seen = Arrivals(
        asked=[100.0, 160.0],
        raw={"a": 100.5, "b": 160.25},
        published={"older": 90.0, "a": 131.0, "b": 191.0},
        queryable={"older": 90.0, "a": 131.5, "b": 192.0},
        ticks=[130.0, 190.5],
    )
    assert seen.feed_to_raw == [0.5, 0.25]
    assert seen.raw_to_published == [30.5, 30.75]
    assert seen.raw_to_queryable == [31.0, 31.75]
    assert seen.tick_to_queryable == [1.5, 1.5]
