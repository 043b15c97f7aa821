"""One measurement in a process of its own: `python -m wrm_pipeline_tests.bench.child TASK ARGUMENTS`.

What is not to be measured (imports, a round on a small lake, a snapshot put in place) comes before the clock
starts. The answer is one line of JSON.
"""

import contextlib
import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from wrm_pipeline_tests.bench.lake import DT, LAYOUT, BenchLake

Answer = dict[str, Any]

# ru_maxrss is in kB, on macOS in bytes.
_PEAK_UNITS_PER_MB = 1e6 if sys.platform == "darwin" else 1e6 / 1024


def fill(lake: BenchLake) -> Answer:
    lake.fill()
    return {}


def add_one(lake: BenchLake) -> Answer:
    lake.add_one()
    return {}


def build_pandas(lake: BenchLake) -> Answer:
    from wrm_pipeline_tests.bench.ways import pandas_way

    return _other_way(pandas_way, lake)


def build_duckdb(lake: BenchLake) -> Answer:
    from wrm_pipeline_tests.bench.ways import duckdb_way

    return _other_way(duckdb_way, lake)


def build_typed_duckdb(lake: BenchLake) -> Answer:
    from wrm_pipeline_tests.bench.ways import typed_duckdb_way

    return _other_way(typed_duckdb_way, lake)


def _other_way(way: Callable[[BenchLake], int], lake: BenchLake) -> Answer:
    way(_small(lake))
    seconds, rows = _timed(lambda: way(lake))
    return {"seconds": seconds, "rows": rows}


def build_pipeline(lake: BenchLake) -> Answer:
    """A day's first build."""
    from wrm_pipeline_tests.bench.ways import pipeline_way

    pipeline_way(_small(lake))
    lake.unpublish()
    seconds, (rows, requests) = _timed(lambda: pipeline_way(lake))
    return {"seconds": seconds, "rows": rows, "requests": requests}


def build_one_more(lake: BenchLake) -> Answer:
    """One snapshot more on a published day, as the sensor's run of each minute adds it."""
    from wrm_pipeline_tests.bench.ways import pipeline_way

    small = _small(lake)
    pipeline_way(small)
    small.add_one()
    pipeline_way(small, by_sensor=True)
    lake.add_one()
    seconds, (rows, requests) = _timed(lambda: pipeline_way(lake, by_sensor=True))
    return {"seconds": seconds, "rows": rows, "requests": requests}


def density(lake: BenchLake) -> Answer:
    """The density grid over a published day, its Parquet read included."""
    import pyarrow as pa

    from wrm_pipeline.domain.density import bike_density
    from wrm_pipeline.domain.parquet_parts import ParquetParts
    from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
    from wrm_pipeline_tests.bench.ways import pipeline_way

    pipeline_way(lake)

    def grid() -> bool:
        parts = ParquetParts.open(lake.store.get(LAYOUT.partition_key("enhanced", DT)))
        return bike_density(pa.concat_tables(parts.read_groups()), DEFAULT_SERVICE_AREA).adds_up

    grid()
    rounds = [_timed(grid) for _ in range(5)]
    if not all(adds_up for _, adds_up in rounds):
        raise AssertionError("the density grid does not hold every bike")
    return {"seconds": statistics.median(seconds for seconds, _ in rounds)}


def spellings(lake: BenchLake, *, limit: float) -> Answer:
    """How much longer than the usual spelling the others take: those of the data contract, and several at once."""
    from wrm_pipeline_tests.bench.spellings import COMBINED_SPELLINGS, SINGLE_SPELLINGS, ratios

    single = ratios(lake.snapshots, SINGLE_SPELLINGS, limit=limit)
    return {"single": single, "combined": ratios(lake.snapshots, COMBINED_SPELLINGS, limit=limit)}


def repeat(lake: BenchLake, *, days: int) -> Answer:
    lake.repeat(days)
    return {}


def rebuild(lake: BenchLake, *, days: int, one_core: bool = False) -> Answer:
    """All days from raw to enhanced, as a run of the range does, where the settings say."""
    import hashlib
    from datetime import UTC, datetime, timedelta

    from wrm_pipeline.assets.stations.enhanced_all import enhance_published_day
    from wrm_pipeline.assets.stations.fan_out import PRELOADED, BuildOptions, DayTask, publish_day
    from wrm_pipeline.assets.stations.processed_all import process_day
    from wrm_pipeline.resources.lake import LakeResource
    from wrm_pipeline.resources.workers import WorkersResource
    from wrm_pipeline.settings import load_settings
    from wrm_pipeline_tests.bench.ways import pipeline_way

    if one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pipeline_way(_small(lake))
    lake.unpublish()
    settings = load_settings()
    workers, resource = WorkersResource.of(settings).client(*PRELOADED), LakeResource.of(settings)
    options = BuildOptions(datetime(2025, 10, 1, tzinfo=UTC), full_rebuild=True)

    def build() -> None:
        for layer, function in (("processed", process_day), ("enhanced", enhance_published_day)):
            tasks = [
                DayTask(
                    DT + timedelta(days=n), layer, function, options, resource.place, resource.layout, resource.area
                )
                for n in range(days)
            ]
            if failed := [outcome.error for outcome in workers.run(publish_day, tasks) if outcome.error]:
                raise failed[0]

    seconds, _ = _timed(build)
    digest, rows = hashlib.sha256(), 0
    for layer in ("processed", "enhanced"):
        for info in lake.store.list(LAYOUT.layer_prefix(layer)):
            data = lake.store.get(info.key)
            digest.update(info.key.encode() + data)
            rows += _rows_of(data) if layer == "enhanced" else 0
    return {"seconds": seconds, "digest": digest.hexdigest(), "rows": rows}


def _rows_of(data: bytes) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return int(pq.read_metadata(pa.BufferReader(data)).num_rows)


def import_definitions(_: BenchLake) -> Answer:
    seconds, _module = _timed(lambda: importlib.import_module("wrm_pipeline.definitions"))
    return {"seconds": seconds}


def ingest(_: BenchLake, *, runs: int) -> Answer:
    from wrm_pipeline_tests.bench.feeds import ingest_seconds

    return {"seconds": ingest_seconds(runs)}


def fill_year(lake: BenchLake) -> Answer:
    from wrm_pipeline_tests.bench import year

    return year.fill(lake)


def measure_year(lake: BenchLake) -> Answer:
    from wrm_pipeline_tests.bench import year

    return year.measure(lake)


def fill_month(lake: BenchLake) -> Answer:
    from wrm_pipeline_tests.bench import forecast

    return forecast.fill(lake)


def learn_forecast(lake: BenchLake) -> Answer:
    from wrm_pipeline_tests.bench import forecast

    return forecast.learn(lake)


def apply_forecast(lake: BenchLake) -> Answer:
    from wrm_pipeline_tests.bench import forecast

    return forecast.apply(lake)


def _small(lake: BenchLake) -> BenchLake:
    """A lake to warm up on, of this process alone and of another city, so that no cache knows the real one."""
    small = replace(lake, data_dir=lake.data_dir / f"warm-up-{os.getpid()}", snapshots=3, stations=5, bikes=3)
    small.fill()
    return small


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


_TASKS: dict[str, Callable[..., Answer]] = {
    task.__name__: task
    for task in (
        fill,
        add_one,
        build_pandas,
        build_duckdb,
        build_typed_duckdb,
        build_pipeline,
        build_one_more,
        density,
        spellings,
        repeat,
        rebuild,
        import_definitions,
        ingest,
        fill_year,
        measure_year,
        fill_month,
        learn_forecast,
        apply_forecast,
    )
}

if __name__ == "__main__":
    name, text, options = sys.argv[1:]
    arguments = json.loads(text)
    with contextlib.redirect_stdout(sys.stderr):
        answer = _TASKS[name](BenchLake(**arguments | {"data_dir": Path(arguments["data_dir"])}), **json.loads(options))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _PEAK_UNITS_PER_MB
    sys.stdout.write(json.dumps(answer | {"peak_mb": peak}))
