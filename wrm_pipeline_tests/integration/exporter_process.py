"""The exporter as a real process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from wrm_pipeline_tests.integration.conftest import wait_until

Samples = dict[tuple[Any, ...], float]


def samples(text: str) -> Samples:
    """Every sample by name and label values (in the order of the labels' names)."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@dataclass
class Exporter:
    """One that is running, was stopped, or runs again, always on the same port."""

    port: int
    log: Path
    interval_s: float = 0.5
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/metrics"

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wrm_pipeline.exporter", f"--port={self.port}", f"--interval={self.interval_s}"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, timeout_s=90, what="the exporter must answer")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"The exporter ended:\n{self.log.read_text()[-3000:]}"
        try:
            self.scrape()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; gives the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def text(self) -> str:
        with urllib.request.urlopen(self.url, timeout=10) as answer:
            return answer.read().decode()

    def scrape(self) -> Samples:
        return samples(self.text())

    def wait_for(self, condition: Callable[[Samples], bool], *, timeout_s: float, what: str) -> Samples:
        found: Samples = {}

        def met() -> bool:
            nonlocal found
            found = self.scrape()
            return condition(found)

        wait_until(met, timeout_s=timeout_s, what=what)
        return found


@contextmanager
def running(port: int, log: Path, interval_s: float = 0.5) -> Iterator[Exporter]:
    exporter = Exporter(port, log, interval_s)
    exporter.start()
    try:
        yield exporter
    finally:
        exporter.kill()


_OURS = ("dagster_", "wrm_")


def is_counter(name: str) -> bool:
    return name.endswith(("_total", "_count", "_bucket", "_sum"))


@dataclass
class Witness(threading.Thread):
    """Scrapes all the time, and notes each counter that ever fell, how long answers took, and the largest."""

    exporter: Exporter
    fell: list[tuple[Any, ...]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    largest: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        last: Samples = {}
        while not self.done.wait(0.5):
            started = time.monotonic()
            try:
                text = self.exporter.text()
            except OSError:
                continue  # it is being restarted
            self.seconds.append(time.monotonic() - started)
            self.largest = max(self.largest, len(text))
            now = {
                key: value for key, value in samples(text).items() if key[0].startswith(_OURS) and is_counter(key[0])
            }
            self.fell += [(key, last[key], now.get(key)) for key in last if now.get(key, -1) < last[key]]
            last = now
