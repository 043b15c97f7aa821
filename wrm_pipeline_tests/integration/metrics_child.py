"""Runs whose asset declares metrics, each in a process of its own; see `exporter_child`.

Run n counts n and observes n; if n < 0, it says so and waits to be killed, having counted |n| as well.
"""

import os
import sys
import time

import dagster as dg

from wrm_pipeline.resources.metrics import MetricsResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.integration.exporter_child import in_a_process, tell

JOB = "wrm_stations_ingest_job"


@dg.asset
def rain(context: dg.AssetExecutionContext, metrics: MetricsResource) -> None:
    n = int(context.run.tags["number"])
    kind = "killed" if n < 0 else "ended"
    drops = metrics.counter("rain_drops", "Drops", ["kind"])
    for _ in range(abs(n)):
        drops.labels(kind=kind).inc()
    metrics.histogram("rain_size", "Size", buckets=[10, 20, 30]).observe(abs(n))
    if n < 0:
        tell(f"begun {os.getpid()}")
        time.sleep(600)


def main() -> None:
    resources = {"metrics": MetricsResource.of(load_settings())}
    job = dg.Definitions(assets=[rain], jobs=[dg.define_asset_job(JOB)], resources=resources).resolve_job_def(JOB)
    for number in map(int, sys.argv[1:]):
        os.waitpid(in_a_process(job, [number]), 0)


if __name__ == "__main__":
    main()
