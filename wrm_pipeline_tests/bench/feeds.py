"""What fetching three feeds of the city costs beside fetching one."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median

from wrm_pipeline.simulator.behaviour import Behaviour
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.bench.figures import Figure, Wanted
from wrm_pipeline_tests.bench.lake import BenchLake
from wrm_pipeline_tests.bench.measures import Bench
from wrm_pipeline_tests.bench.processes import in_child, make_home

_RUNS_A_ROUND = 8
# The first creates Dagster's own tables.
_WARM_UP_RUNS = 2
# A feed's reports are new in each run, though runs follow each other by a second.
_SPEED = 60


def feeds(bench: Bench) -> Iterator[Figure]:
    """Ingest runs of three feeds and of one, in turns."""
    start = datetime.now(UTC)
    used: dict[str, list[float]] = {"ucl": [], "ucl,operator,gbfs": []}
    with serve(City(station_count=260, bike_count=152)) as feed:
        feed.clock = lambda: start + (datetime.now(UTC) - start) * _SPEED - timedelta(hours=6)
        # Otherwise a feed says that it is up to date for a minute, and is not asked.
        feed.behave("gbfs", Behaviour(ttl_s=0, etags=True))
        for number in range(bench.rounds):
            for names in used:
                bench.say(f"ingest of {names}, round {number + 1}")
                lake = BenchLake(bench.folder / names.replace(",", "-"), 0, stations=260, bikes=152)
                lake.data_dir.mkdir(exist_ok=True)
                make_home(lake)
                settings = {
                    "WRM_FEEDS": names,
                    "WRM_STATIONS_DATA_URL": feed.url,
                    "WRM_OPERATOR_URL": feed.operator_url,
                    "WRM_GBFS_URL": feed.gbfs_url,
                }
                used[names] += in_child("ingest", lake, settings, runs=1 if bench.quick else _RUNS_A_ROUND)["seconds"]
    one, three = (median(seconds) for seconds in used.values())
    yield Figure("ingest_one_feed", "an ingest run of one feed, without its process: processor time", one * 1000, "ms")
    yield Figure("ingest_three_feeds", "the same of three feeds", three * 1000, "ms")
    yield Figure("ingest_three_over_one", "three feeds ÷ one", three / one, "×", Wanted(high=1.5))


def ingest_seconds(runs: int) -> list[float]:
    """Processor seconds of each of some ingest runs in this process."""
    import dagster as dg

    from wrm_pipeline.definitions import defs

    job = defs.resolve_job_def("wrm_stations_ingest_job")
    seconds = []
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
        for _ in range(_WARM_UP_RUNS + runs):
            time.sleep(1 - time.time() % 1)  # a raw object's name has the second
            start = time.process_time()
            job.execute_in_process(instance=instance)
            seconds.append(time.process_time() - start)
    return seconds[_WARM_UP_RUNS:]
