"""The forecast: learning from a month of days with a snapshot a minute, and one forecast of all stations.

Two simulated days, a working day and a Sunday, over and over with their times shifted: how long it takes does not
depend on how alike days are, and only a fifteenth of the snapshots has to be generated.
"""

import io
import shutil
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq

from wrm_pipeline.domain.forecast.holidays import holidays_of
from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.flows.forecast import Forecasts
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.simulator.city import City
from wrm_pipeline_tests.bench.lake import LAYOUT, BenchLake
from wrm_pipeline_tests.bench.year import build_day, write_day

_TODAY = date(2026, 8, 21)
_DAYS = 30
_ROUNDS = 5


def fill(lake: BenchLake) -> dict[str, Any]:
    """A month of days, and today until its end."""
    city = City(station_count=lake.stations, bike_count=lake.bikes)
    templates = {}
    for is_free_day, day in ((False, date(2026, 8, 20)), (True, date(2026, 8, 16))):
        first, following = partition_bounds(day)
        rows = pq.read_table(io.BytesIO(build_day(lake, city, day, (following - first) / lake.snapshots)))
        templates[is_free_day] = day, rows
    shutil.rmtree(lake.data_dir / "lake")
    total = 0
    for number in range(_DAYS + 1):
        day = _TODAY - timedelta(days=number)
        template, rows = templates[day.isoweekday() > 5]
        write_day(lake.data_dir / "lake", rows, template - day, day)
        total += rows.num_rows
    return {"rows": total}


def learn(lake: BenchLake) -> dict[str, Any]:
    """What the asset does each night."""
    forecasts = _forecasts(lake)
    start, start_cpu = time.perf_counter(), time.process_time()
    model = forecasts.learn_and_store(_TODAY)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    if model is None:
        raise AssertionError("nothing was learnt from a month of days")
    return {"seconds": seconds, "cpu_s": cpu_s, "days": (model.last - model.first).days + 1}


def apply(lake: BenchLake) -> dict[str, Any]:
    """A forecast at noon from the stored model, which is read beforehand: the fastest of some."""
    forecasts, noon = _forecasts(lake), datetime(_TODAY.year, _TODAY.month, _TODAY.day, 10, tzinfo=UTC)
    model = forecasts.newest_model(_TODAY)
    if model is None:
        raise AssertionError("there is no model; `learn` stores one")
    times, cpu_times, stations = [], [], 0
    for _ in range(_ROUNDS):
        start, start_cpu = time.perf_counter(), time.process_time()
        stations = len(forecasts.at(noon, model)["station_id"].unique())
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - start_cpu)
    return {"seconds": min(times), "cpu_s": min(cpu_times), "stations": stations}


def _forecasts(lake: BenchLake) -> Forecasts:
    return Forecasts(PublishedPartitions(LocalObjectStore(lake.data_dir / "lake"), LAYOUT), holidays_of("PL"))
