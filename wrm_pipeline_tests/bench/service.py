"""What the service costs in steady state beside a bare Dagster, and how many cities a core carries."""

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.bench.arrivals import Arrivals, ticks_with_a_run, watching
from wrm_pipeline_tests.bench.figures import Figure, Wanted
from wrm_pipeline_tests.bench.lake import BenchLake
from wrm_pipeline_tests.bench.measures import Bench
from wrm_pipeline_tests.bench.process_tree import KINDS, Memory, descendants, memory_of, processor_seconds
from wrm_pipeline_tests.bench.processes import REPOSITORY, environment_of, make_home

_OURS = "wrm_pipeline.definitions"
_IDLE = "wrm_pipeline_tests.bench.idle"
_FLOOR = "wrm_pipeline_tests.bench.floor"
# Each job has run once by then, also those of every five minutes: a first run stores its definition and its assets.
_WARM_UP_S = {_OURS: 330, _IDLE: 120, _FLOOR: 120}
_STOP_S = 60
# What stays one process, however many cities there are.
_SHARED = ("daemon", "web server")


@dataclass(frozen=True, slots=True)
class Measured:
    """A service in steady state: processor seconds a minute by kind of process, memory, history in MB a minute."""

    cpu: Mapping[str, float]
    memory: Memory
    history: float

    @property
    def total(self) -> float:
        """Processor seconds a minute of all processes."""
        return sum(self.cpu.values())

    def shared(self) -> float:
        """Of the processes that all cities have in common."""
        return sum(self.cpu[kind] for kind in _SHARED)


def service(bench: Bench) -> Iterator[Figure]:
    """`make dev` with the simulated feed, then a bare Dagster that runs two trivial jobs a minute."""
    arrivals = Arrivals()
    ours = bench.kept["service"] = _measure(bench, "service", _OURS, bench.minutes, arrivals)
    floor = _measure(bench, "floor", _FLOOR, bench.minutes)
    yield from _costs("service", "service", ours, judged=True)
    yield from _costs("floor", "bare Dagster with two trivial jobs a minute", floor, judged=False)
    for name, what, ratio in (
        ("cpu", "processor time", ours.total / floor.total),
        ("memory", "peak of memory", ours.memory.peak / floor.memory.peak),
        ("history", "growth of the history", ours.history / floor.history),
    ):
        yield Figure(f"service_{name}_over_floor", f"{what}: service ÷ bare Dagster", ratio, "×")
    yield from _delays("feed_to_raw", "the feed is asked → raw object", arrivals.feed_to_raw)
    yield from _delays("raw_to_published", "raw object → published", arrivals.raw_to_published)
    yield from _delays("raw_to_queryable", "raw object → queryable", arrivals.raw_to_queryable)
    what = "the sensor's tick → queryable"
    yield from _delays("tick_to_queryable", what, arrivals.tick_to_queryable, Wanted(high=1.5))


def cities(bench: Bench) -> Iterator[Figure]:
    """How many simulated cities one core carries at a snapshot a minute each.

    It is worked out from one city and from the same service without schedules and sensors. A city more with a code
    location of its own costs everything but what daemon and web server cost idle. In a location that several shared,
    which settings do not allow today, it would cost only what one city adds to the idle service.
    """
    one = bench.kept.get("service") or _measure(bench, "city", _OURS, bench.minutes / 2)
    idle = _measure(bench, "idle", _IDLE, bench.minutes / 2)
    apart, together = one.total - idle.shared(), one.total - idle.total
    yield Figure("idle_cpu", "the service without schedules and sensors: processor time", idle.total, "s/min")
    yield Figure("city_cpu", "a city more, with a code location of its own: processor time", apart, "s/min")
    yield Figure(
        "cities_apart", "cities that one core carries, a location each", (60 - idle.shared()) / apart, "cities"
    )
    what = "cities that one core would carry if they shared a location"
    yield Figure("cities_together", what, (60 - idle.total) / together, "cities")


def _costs(name: str, what: str, found: Measured, *, judged: bool) -> Iterator[Figure]:
    def wanted(high: float) -> Wanted | None:
        return Wanted(high=high) if judged else None

    yield Figure(f"{name}_cpu", f"{what}: processor time", found.total, "s/min", wanted(4))
    for kind in KINDS:
        yield Figure(f"{name}_cpu_{kind.replace(' ', '_')}", f"… of its {kind}", found.cpu[kind], "s/min")
    yield Figure(f"{name}_memory", f"{what}: memory (PSS), median", found.memory.median, "MB")
    yield Figure(f"{name}_memory_peak", f"{what}: memory (PSS), peak", found.memory.peak, "MB", wanted(1000))
    yield Figure(f"{name}_history", f"{what}: growth of Dagster's history", found.history, "MB/min", wanted(0.15))


def _delays(name: str, what: str, found: list[float], wanted: Wanted | None = None) -> Iterator[Figure]:
    """Median and 95th percentile; nothing if a try was too short for two."""
    if len(found) > 1:
        yield Figure(f"service_{name}", f"{what}, median of {len(found)}", median(found), "s", wanted)
        worst = quantiles(found, n=20, method="inclusive")[-1]
        yield Figure(f"service_{name}_95", f"{what}, 95th percentile", worst, "s")


def _measure(bench: Bench, name: str, module: str, minutes: float, arrivals: Arrivals | None = None) -> Measured:
    lake = BenchLake(bench.folder / name, 0, stations=260, bikes=152)
    lake.data_dir.mkdir(parents=True)
    home = lake.data_dir / "dagster_home"
    if module == _FLOOR:  # as Dagster comes
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    else:
        make_home(lake)
    with serve(City(station_count=lake.stations, bike_count=lake.bikes)) as feed:
        seen = watching(lake, feed, arrivals) if arrivals else nullcontext()
        with _dev(lake, module, {"WRM_STATIONS_DATA_URL": feed.url}) as process:
            bench.say(f"{name}: {_WARM_UP_S[module]} s to settle, then {minutes:g} minutes")
            _wait(process, _WARM_UP_S[module])
            before, size, start = processor_seconds(process.pid), _history_bytes(home), time.monotonic()
            with memory_of(process.pid) as memory, seen:
                _wait(process, minutes * 60)
            after, grown = processor_seconds(process.pid), _history_bytes(home) - size
            passed = (time.monotonic() - start) / 60
    if arrivals:
        arrivals.ticks = ticks_with_a_run(home)
    return Measured({kind: (after[kind] - before[kind]) / passed for kind in KINDS}, memory, grown / 1e6 / passed)


@contextmanager
def _dev(lake: BenchLake, module: str, settings: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """What `make dev` starts, or plain `dagster dev`; stopped at the end with everything that it has started."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(REPOSITORY / "deploy/run-local"), sys.executable, port, module]
    if module == _FLOOR:
        command = [sys.executable, "-m", "dagster", "dev", "--module-name", module]
        command += ["--working-directory", str(REPOSITORY), "--host", "127.0.0.1", "--port", port]
    environment = environment_of(lake, {"PYTHONWARNINGS": "ignore", **settings})
    with (lake.data_dir / "process.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=lake.data_dir / "dagster_home", env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            started = descendants(process.pid)
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                for pid in started:
                    subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise AssertionError(f"{process.args!r} ended with {process.returncode}")


def _history_bytes(home: Path) -> int:
    """Bytes of Dagster's history, with what waits in SQLite's second files."""
    for name in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
        with closing(sqlite3.connect(home / name, timeout=30)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    files = (path for name in ("history", "schedules", "storage") for path in (home / name).rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file() and not path.name.endswith(("-wal", "-shm")))
