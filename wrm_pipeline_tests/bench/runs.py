"""What a run costs before and around its work, and how long a snapshot takes from the store to the views."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.bench.figures import Figure, Wanted
from wrm_pipeline_tests.bench.lake import DT, LAYOUT, BenchLake
from wrm_pipeline_tests.bench.measures import Bench
from wrm_pipeline_tests.bench.processes import REPOSITORY, environment_of, in_child, make_home, materialize

_PROCESSING = "wrm_stations_processed_data_all,wrm_stations_enhanced_data_all"
_CODE = "wrm_pipeline.definitions"
_TRIVIAL = "wrm_pipeline_tests.bench.trivial"
_GIVE_UP_S = 300


def start_up(bench: Bench) -> Iterator[Figure]:
    """What a process costs before and around the work."""
    lake = bench.lake("runs", snapshots=1440, stations=260, bikes=152)
    times, servers = [], []
    for number in range(1 if bench.quick else 5):
        bench.say(f"import and code server, round {number + 1}")
        times.append(in_child("import_definitions", lake)["seconds"])
        servers.append(_code_server_start(lake))
    yield Figure("import_definitions", "import of wrm_pipeline.definitions", median(times), "s")
    yield Figure("code_server_start", "start of a code server, until it answers", median(servers), "s")
    in_child("build_pipeline", lake)
    sizes: tuple[BenchLake, ...] = ()
    if not bench.quick:
        sizes = tuple(bench.lake(f"day of {count}", count, stations=260, bikes=152) for count in (10, 2880))
    for other in sizes:
        in_child("build_pipeline", other)
        materialize(_TRIVIAL, "nothing", other)  # creates Dagster's own tables
    if not bench.quick:
        materialize(_TRIVIAL, "nothing", lake)
    trivial, ingest, processing, of_small, of_large = [], [], [], [], []
    with serve(City(station_count=260, bike_count=152)) as feed:
        settings = {"WRM_STATIONS_DATA_URL": feed.url}
        for number in range(bench.rounds):
            bench.say(f"dagster runs, round {number + 1}")
            trivial.append(materialize(_TRIVIAL, "nothing", lake))
            ingest.append(materialize(_CODE, "wrm_stations_raw_data", lake, settings, partitioned=False))
            in_child("add_one", lake)
            processing.append(materialize(_CODE, _PROCESSING, lake))
            for other, found in zip(sizes, (of_small, of_large), strict=False):
                in_child("add_one", other)
                found.append(materialize(_CODE, _PROCESSING, other))
    yield Figure("trivial_run", "a Dagster run that does nothing", median(trivial), "s")
    yield Figure("ingest_run", "an ingest run", median(ingest), "s", Wanted(high=6))
    bare = median(nothing / run for nothing, run in zip(trivial, ingest, strict=True))
    yield Figure("ingest_run_bare", "run that does nothing ÷ ingest run", bare, "×", Wanted(low=0.5))
    yield Figure("processing_run", "a processing run, one snapshot more", median(processing), "s")
    ratio = median(run / nothing for run, nothing in zip(processing, trivial, strict=True))
    yield Figure("processing_run_share", "processing run ÷ run that does nothing", ratio, "×", Wanted(high=2))
    if bench.quick:
        return
    grown = median(large / small for large, small in zip(of_large, of_small, strict=True))
    what = "processing run, one snapshot more: day of 2,880 ÷ day of 10"
    yield Figure("processing_run_growth", what, grown, "×", Wanted(high=2))


def _code_server_start(lake: BenchLake) -> float:
    """Seconds from its start until a code server of this project answers."""
    from dagster._grpc.client import DagsterGrpcClient

    make_home(lake)
    socket = str(lake.data_dir / "code.sock")
    start = time.perf_counter()
    with _running(["api", "grpc", "--socket", socket, "--module-name", _CODE], lake) as process:
        client = DagsterGrpcClient(socket=socket)
        while True:
            with contextlib.suppress(Exception):
                client.ping("there?")
                return time.perf_counter() - start
            _check(process, start)
            time.sleep(0.02)


def queryable(bench: Bench) -> Iterator[Figure]:
    """A raw object beyond the sensor's cursor, by the daemon's queue, to the view that shows it."""
    lake = bench.lake("daemon", snapshots=1440, stations=260, bikes=152)
    workspace = make_home(lake) / "workspace.yaml"
    workspace.write_text("load_from:\n  - python_module: wrm_pipeline_tests.bench.sensor_only\n")
    seconds = []
    bench.say("starting the daemon, and its first look")
    with _running(["_daemon", "run", "-w", str(workspace)], lake) as process:
        _wait_for_rows(lake, 0, process)
        for number in range(bench.rounds):
            before = _rows_in_view(lake)
            in_child("add_one", lake)
            bench.say(f"a raw object is there, round {number + 1}")
            arrived = _wait_for_rows(lake, before, process)
            seconds.append(arrived - _last_tick_with_a_run(lake))
    what = "raw object to queryable, from the sensor's tick on, by the daemon's queue"
    yield Figure("raw_to_queryable", what, median(seconds), "s", Wanted(high=15))


@contextlib.contextmanager
def _running(arguments: list[str], lake: BenchLake) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of Dagster's that is stopped at the end; what it says goes to a file beside the lake."""
    module = ["-m", "dagster"] if arguments[0] != "_daemon" else ["-m", "dagster._daemon"]
    command = [sys.executable, *module, *(arguments[1:] if arguments[0] == "_daemon" else arguments)]
    with (lake.data_dir / "process.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment_of(lake), stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def _check(process: "subprocess.Popen[bytes]", start: float) -> None:
    if process.poll() is not None:
        raise AssertionError(f"{process.args} ended with {process.returncode}")
    if time.perf_counter() - start > _GIVE_UP_S:
        raise AssertionError(f"{process.args}: nothing within {_GIVE_UP_S} s")


def _wait_for_rows(lake: BenchLake, before: int, process: "subprocess.Popen[bytes]") -> float:
    """The time at which the view shows more rows than `before`."""
    start = time.perf_counter()
    key, etag = LAYOUT.partition_key("enhanced", DT), ""
    while True:
        info = lake.store.stat(key)
        if info is not None and info.etag != etag:
            etag = info.etag
            if _rows_in_view(lake) > before:
                return time.time()
            etag = etag if lake_has_views(lake) else ""
        _check(process, start)
        time.sleep(0.05)


def lake_has_views(lake: BenchLake) -> bool:
    """Whether the first run has come to the database."""
    return (lake.data_dir / "analytics.duckdb").exists()


def _rows_in_view(lake: BenchLake) -> int:
    import duckdb

    if not lake_has_views(lake):
        return 0
    with duckdb.connect(str(lake.data_dir / "analytics.duckdb"), read_only=True) as connection:
        query = "SELECT count(*) FROM wrm_analytics.wrm_stations_enhanced_data"
        return int(connection.execute(query).fetchall()[0][0])


def _last_tick_with_a_run(lake: BenchLake) -> float:
    """When the newest look that asked for a run began."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(lake.data_dir / "dagster_home")) as instance:
        (state,) = instance.all_instigator_state()
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=10)
        return max(tick.timestamp for tick in ticks if tick.run_ids)
