"""How long snapshots take from the feed to the views of a running service."""

import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.simulator.server import SimulatedFeed
from wrm_pipeline_tests.bench.lake import LAYOUT, BenchLake

_EVERY_S = 0.05
_SENSOR = "wrm_stations_raw_data_sensor"
_KEYS = "SELECT DISTINCT s3_source_key FROM wrm_analytics.wrm_stations_enhanced_data"


@dataclass(slots=True)
class Arrivals:
    """What was seen, by the names of raw objects; times in Unix seconds."""

    asked: list[float] = field(default_factory=list)
    raw: dict[str, float] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    queryable: dict[str, float] = field(default_factory=dict)
    ticks: list[float] = field(default_factory=list)

    @property
    def feed_to_raw(self) -> list[float]:
        return [at - self.asked[place - 1] for at in self.raw.values() if (place := bisect_right(self.asked, at))]

    @property
    def raw_to_published(self) -> list[float]:
        return [at - self.raw[name] for name, at in self.published.items() if name in self.raw]

    @property
    def raw_to_queryable(self) -> list[float]:
        return [at - self.raw[name] for name, at in self.queryable.items() if name in self.raw]

    @property
    def tick_to_queryable(self) -> list[float]:
        """From the last tick before it that asked for a run; once for each publication."""
        times = sorted(set(self.queryable.values()))
        return [at - self.ticks[place - 1] for at in times if (place := bisect_right(self.ticks, at))]


@contextmanager
def watching(lake: BenchLake, feed: SimulatedFeed, arrivals: Arrivals) -> Iterator[None]:
    """Note what arrives until the end of the block; what was there before does not count."""
    clock, stop = feed.clock, threading.Event()

    def noted() -> datetime:
        arrivals.asked.append(time.time())
        return clock()

    def look() -> None:
        old_raw, seen, etag = set(_raw(lake)), _in_view(lake), _stat(lake)
        while not stop.wait(_EVERY_S):
            for name, at in _raw(lake).items():
                if name not in old_raw:
                    arrivals.raw.setdefault(name, at)
            now = _stat(lake)
            if now == etag:
                continue
            found = _in_view(lake) - seen
            if found:
                at, seen, etag = time.time(), seen | found, now
                arrivals.queryable |= dict.fromkeys(found, at)
                arrivals.published |= dict.fromkeys(found, now)

    thread = threading.Thread(target=look, daemon=True)
    feed.clock = noted
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def ticks_with_a_run(home: Path) -> list[float]:
    """When the sensor of raw data began the ticks that asked for a run, oldest first."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home)) as instance:
        (state,) = (state for state in instance.all_instigator_state() if state.instigator_name == _SENSOR)
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1000)
        return sorted(tick.timestamp for tick in ticks if tick.run_ids)


def _raw(lake: BenchLake) -> dict[str, float]:
    folder = lake.data_dir / "lake" / LAYOUT.raw_folder(_today())
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # a file on its way to its name
            if path.suffix == ".txt":
                found[path.name] = path.stat().st_mtime
    return found


def _stat(lake: BenchLake) -> float:
    path = lake.data_dir / "lake" / LAYOUT.partition_key("enhanced", _today())
    return path.stat().st_mtime if path.exists() else 0.0


def _in_view(lake: BenchLake) -> set[str]:
    import duckdb

    path = lake.data_dir / "analytics.duckdb"
    if not path.exists():
        return set()
    with duckdb.connect(str(path), read_only=True) as connection:
        return {str(key).rpartition("/")[2] for (key,) in connection.execute(_KEYS).fetchall()}


def _today() -> date:
    return local_date(datetime.now(UTC))
