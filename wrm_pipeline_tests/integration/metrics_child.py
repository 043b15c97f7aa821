"""Runs of the example's asset, each for a day and in a process of its own; see `exporter_child`.

Arguments: the URL of the weather, then the numbers of the runs, one for each day. If a number is negative, its run says
so when all of its metrics are recorded, and waits to be killed.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pandas  # noqa: F401 - what is loaded before the forks, they need not load: 0.2 s of each
import upath  # noqa: F401

from examples.weather_asset.assets import rain_per_hour
from examples.weather_asset.stub import hours_of
from wrm_pipeline.definitions import build_resources
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.integration.exporter_child import QUIET, tell

JOB = "wrm_stations_ingest_job"
FIRST = date(2025, 8, 20)


def day_of(number: int) -> str:
    """The day of a run."""
    return str(FIRST + timedelta(days=abs(number)))


def millimetres_of(number: int) -> list[float]:
    """What a run finds."""
    return [float(mm) for _, mm in (line.split(",") for line in hours_of(day_of(number))) if mm != "n/a"]


class WaitsToBeKilled(dg.IOManager):
    """Takes the rows of a run that is to be killed, and does not come back."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if int(context.step_context.run_tags["number"]) < 0:
            tell(f"begun {os.getpid()}")
            time.sleep(600)

    def load_input(self, context: dg.InputContext) -> None: ...


def execute(job: dg.JobDefinition, url: str, number: int) -> None:
    config = {**QUIET, "ops": {"rain_per_hour": {"config": {"url": url}}}}
    with dg.DagsterInstance.get() as instance:
        job.execute_in_process(
            instance=instance, run_config=config, partition_key=day_of(number), tags={"number": str(number)}
        )
    tell(str(number))


def main() -> None:
    resources = {**build_resources(load_settings(), {}), "hive_partitioned_s3_io_manager": WaitsToBeKilled()}
    defs = dg.Definitions(assets=[rain_per_hour], jobs=[dg.define_asset_job(JOB)], resources=resources)
    job = defs.resolve_job_def(JOB)
    for number in map(int, sys.argv[2:]):
        child = os.fork()
        if child == 0:
            execute(job, sys.argv[1], number)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
