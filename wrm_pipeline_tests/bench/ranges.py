"""What many days and many objects cost: the sensor's look, a month rebuilt, thousands of objects read."""

import builtins
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from wrm_pipeline.domain.layout import FIRST_DATE, folder_date, partition_bounds
from wrm_pipeline.flows.watch import plan_new_data_runs
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.object_store import ObjectInfo
from wrm_pipeline.lake.s3_object_store import S3ObjectStore
from wrm_pipeline.lake.s3_stores import s3_object_store
from wrm_pipeline_tests.bench.counting_store import CountingStore
from wrm_pipeline_tests.bench.figures import Figure, Wanted
from wrm_pipeline_tests.bench.lake import LAYOUT
from wrm_pipeline_tests.bench.measures import Bench
from wrm_pipeline_tests.bench.processes import environment_of, in_child

_LOOKS = 200
_OBJECT_BYTES = 40_000


# --- a sensor's tick ---


class _Archive(LocalObjectStore):
    """A listing of `count` raw objects, 1,440 a day since FIRST_DATE; answers as S3 does, from the key asked for."""

    def __init__(self, count: int) -> None:
        super().__init__(Path("there-is-none"))
        self.count = count

    def key(self, number: int) -> str:
        day, minute = divmod(number, 1440)
        start, _ = partition_bounds(FIRST_DATE + timedelta(days=day))
        return LAYOUT.raw_key(start.astimezone(UTC) + timedelta(seconds=55 * minute))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        for number in range(self._first_beyond(start_after or prefix), self.count):
            if self.key(number).startswith(prefix):
                yield ObjectInfo(self.key(number), _OBJECT_BYTES, "e", datetime.now(UTC))

    def _first_beyond(self, key: str) -> int:
        """At once, however many there are: what a real store's index does is not ours to measure."""
        dt = folder_date(key.removesuffix("/") if key.endswith("/") else key.rpartition("/")[0])
        if dt is None:
            return 0
        parsed = LAYOUT.parse_raw_key(key)
        if parsed is None or parsed.file_timestamp is None:
            return (dt - FIRST_DATE).days * 1440
        since_midnight = parsed.file_timestamp - partition_bounds(dt)[0]
        return (dt - FIRST_DATE).days * 1440 + since_midnight // timedelta(seconds=55) + 1

    def list_folders(self, prefix: str) -> builtins.list[str]:
        days = range((self.count + 1439) // 1440)
        return [LAYOUT.raw_folder(FIRST_DATE + timedelta(days=n)) for n in days] if prefix == LAYOUT.raw_prefix else []


def sensor_tick(bench: Bench) -> Iterator[Figure]:
    """One look with one new object, in a bucket of a thousand and of a million."""
    bench.say("a sensor's look at 1,000 and at 1,000,000 objects")
    requests, seconds = {}, {}
    for count in (1000, 1_000_000):
        archive = _Archive(count)
        store = CountingStore(archive)
        today = FIRST_DATE + timedelta(days=count // 1440)
        cursor = plan_new_data_runs(store, LAYOUT, None, today=today, started=frozenset()).cursor
        # The days of the first look are asked for in the following ones.
        while waiting := plan_new_data_runs(store, LAYOUT, cursor, today=today, started=frozenset()):
            cursor = waiting.cursor
            if not waiting.runs:
                break
        times = []
        for _ in range(20 if bench.quick else _LOOKS):
            archive.count += 1
            store.requests.clear()
            start = time.thread_time()
            plan = plan_new_data_runs(store, LAYOUT, cursor, today=today + timedelta(days=1), started=frozenset())
            times.append(time.thread_time() - start)
            if len(plan.runs) != 1:
                raise AssertionError(f"one new object is one run, not {plan.runs}")
            cursor = plan.cursor
        requests[count], seconds[count] = store.requests["list"], median(times)
    few, many = sorted(requests)
    for count in (few, many):
        what = f"sensor tick, one new object of {count:,}: LIST requests"
        yield Figure(f"tick_requests_{count}", what, requests[count], "requests", Wanted(high=3))
    yield Figure("tick_time", f"sensor tick, one new object of {many:,}", seconds[many] * 1000, "ms")
    ratio = seconds[many] / seconds[few]
    yield Figure("tick_time_ratio", f"sensor tick: {many:,} objects ÷ {few:,} objects", ratio, "×", Wanted(high=1.3))


# --- a month rebuilt ---


def rebuild(bench: Bench) -> Iterator[Figure]:
    """Thirty days from raw to enhanced: on one core, and side by side."""
    days = 3 if bench.quick else 30
    lake = bench.lake("month", snapshots=1440, stations=260, bikes=152)
    in_child("repeat", lake, days=days)
    rounds: list[dict[str, dict[str, Any]]] = []

    def measure(name: str, settings: dict[str, str], **options: Any) -> None:
        bench.say(f"{days} days rebuilt, round {len(rounds)}: {name}")
        rounds[-1][name] = in_child("rebuild", lake, settings, days=days, **options)

    for _ in range(bench.rounds):
        rounds.append({})
        measure("one core", {"WRM_EXECUTOR": "sequential"}, one_core=True)
        measure("processes", {"WRM_EXECUTOR": "processes"})
        measure("threads", {"WRM_EXECUTOR": "threads"})
        if not bench.quick:
            from wrm_pipeline_tests.integration.dask_cluster import dask_cluster

            with dask_cluster(lake.data_dir, environment_of(lake)) as address:
                measure("dask", {"DASK_SCHEDULER_ADDRESS": address})
    if len({answer["digest"] for answers in rounds for answer in answers.values()}) != 1:
        raise AssertionError("the rebuilds did not give the same bytes")
    title = f"{days} days rebuilt ({rounds[0]['one core']['rows']:,} rows)"
    cores = len(os.sched_getaffinity(0))
    titles = {
        "one core": "one after the other, pinned to one core",
        "processes": f"{cores} processes",
        "threads": f"{cores} threads",
        "dask": "a Dask cluster of 2 single-threaded workers",
    }
    for name in rounds[0]:
        seconds = median(answers[name]["seconds"] for answers in rounds)
        yield Figure(f"rebuild_{name.replace(' ', '_')}", f"{title}: {titles[name]}", seconds, "s")

    def speed_up(*names: str) -> float:
        return median(
            answers["one core"]["seconds"] / min(answers[name]["seconds"] for name in names) for answers in rounds
        )

    best = speed_up("processes", "threads")
    yield Figure("rebuild_speed_up", "one core ÷ the best of processes and threads", best, "×", Wanted(low=1.6))
    if "dask" in rounds[0]:
        yield Figure("rebuild_dask_speed_up", "one core ÷ Dask", speed_up("dask"), "×", Wanted(low=1.6))


# --- thousands of objects ---


@dataclass(frozen=True)
class _Reading:
    """One way to read all objects of a bucket: seconds of the clock and of this process's processors."""

    wall_s: float
    processor_s: float


def bulk_reads(bench: Bench) -> Iterator[Figure]:
    """A day's raw objects from a real S3 server on this machine, by several clients."""
    from wrm_pipeline_tests.integration.conftest import seaweedfs_server

    count = 144 if bench.quick else 1440
    folder = bench.folder / "seaweedfs"
    folder.mkdir()
    with seaweedfs_server(folder) as server:
        bucket = server.create_bucket()

        def connect(threads: int = 16, *, in_bulk: bool = False) -> S3ObjectStore:
            store = s3_object_store(
                bucket=bucket,
                endpoint_url=server.endpoint_url,
                access_key_id=server.access_key_id,
                secret_access_key=server.secret_access_key,
                threads=threads,
            )
            if not in_bulk:
                store._bulk = None
            return store

        store = connect()
        keys = [f"raw/{number:05}.txt" for number in range(count)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, os.urandom(_OBJECT_BYTES)), keys))

        def by_store(threads: int, *, in_bulk: bool = False) -> int:
            return sum(1 for _ in connect(threads, in_bulk=in_bulk).get_many(keys))

        ways = {
            "get_many": lambda: by_store(16, in_bulk=True),
            "boto3_16": lambda: by_store(16),
            "boto3_1": lambda: by_store(1),
            "duckdb": lambda: _by_duckdb(server, bucket),
        }
        readings: dict[str, list[_Reading]] = {name: [] for name in ways}
        for number in range(bench.rounds):
            for name, read in ways.items():
                bench.say(f"{count} objects of 40 kB, round {number + 1}: {name}")
                clock, processor = time.perf_counter(), time.process_time()
                found = read()
                readings[name].append(_Reading(time.perf_counter() - clock, time.process_time() - processor))
                if found != count:
                    raise AssertionError(f"{name} read {found} of {count} objects")
    titles = {
        "get_many": "get_many, as the pipeline has it (checksums compared)",
        "boto3_16": "boto3, 16 threads (checksums compared)",
        "boto3_1": "boto3, 1 thread (checksums compared)",
        "duckdb": "DuckDB's httpfs, read_blob of a glob, 16 threads",
    }
    wall = {name: median(r.wall_s for r in found) for name, found in readings.items()}
    for name, title in titles.items():
        processor = median(r.processor_s for r in readings[name]) / count * 1000
        yield Figure(f"bulk_{name}", f"{count:,} × 40 kB from S3: {title}", count / wall[name], "objects/s")
        yield Figure(f"bulk_{name}_processor", "… its processor time an object", processor, "ms")
    share = wall["get_many"] / min(wall.values())
    yield Figure("bulk_share", "get_many ÷ the fastest way", share, "×", Wanted(high=1.5))


def _by_duckdb(server: Any, bucket: str) -> int:
    import duckdb
    import duckdb_extension_httpfs

    (extension,) = Path(duckdb_extension_httpfs.__file__).parent.rglob("*.duckdb_extension")
    with duckdb.connect(config={"threads": 16}) as connection:
        connection.execute(f"LOAD '{extension}'")
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{server.access_key_id}', SECRET '{server.secret_access_key}', REGION "
            f"'us-east-1', ENDPOINT '{server.endpoint_url.partition('//')[2]}', URL_STYLE 'path', USE_SSL false)"
        )
        query = f"SELECT octet_length(content) FROM read_blob('s3://{bucket}/raw/*.txt')"
        return sum(size == _OBJECT_BYTES for (size,) in connection.execute(query).fetchall())
