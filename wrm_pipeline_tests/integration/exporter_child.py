"""A process whose runs are forked as those of a code server are; the tests kill some of them.

Arguments: numbers of runs; groups of them, apart by `/`, are executed at the same time. Run n fails if n % 7 == 0; if
n < 0, it waits to be killed in its second step. The group with these comes last.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import dagster as dg

from wrm_pipeline_tests.fixtures.forked import ForkedTask, parents_of, repository_of

RAW = "wrm_stations_raw_data"
PROCESSED = "wrm_stations_processed_data_all"
JOB = "wrm_stations_ingest_job"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def tell(line: str) -> None:
    """In one write: several processes share the pipe that the test reads, and an unbuffered print makes two."""
    os.write(1, f"{line}\n".encode())


def number_of(context: dg.AssetExecutionContext) -> int:
    return int(context.run.tags["number"])


@dg.asset(name=RAW)
def raw(context):
    n = number_of(context)
    if n > 0 and n % 7 == 0:
        raise dg.Failure("on demand")
    rows = {"out": abs(n), "dead_lettered": n % 3, "duplicate": n % 2}
    requests = {"feed get ok": 1, "feed get retried": n % 2}
    return dg.MaterializeResult(metadata={"handled_rows": rows, "external_requests": requests})


@dg.asset(name=PROCESSED, deps=[raw])
def processed(context):
    if number_of(context) < 0:
        tell(f"begun {os.getpid()}")
        time.sleep(600)
    return dg.MaterializeResult(metadata={"handled_rows": {"out": 2}})


defs = dg.Definitions(assets=[raw, processed], jobs=[dg.define_asset_job(JOB)])
job = defs.resolve_job_def(JOB)


class ForkedRun(ForkedTask):
    """The process of a run."""

    parents = parents_of(__name__)
    repository = repository_of(__name__)


def execute(number: int) -> None:
    with dg.DagsterInstance.get() as instance:
        tags = {"number": str(number)}
        job.execute_in_process(instance=instance, tags=tags, raise_on_error=False, run_config=QUIET)
        tell(str(number))


def one_after_the_other(numbers: list[int]) -> None:
    for number in numbers:
        run = ForkedRun(target=execute, args=(number,))
        run.start()
        run.join()
        assert run.exitcode == (0 if number > 0 else -signal.SIGKILL), (number, run.exitcode)


def main() -> None:
    groups = [[int(text) for text in group.split()] for group in " ".join(sys.argv[1:]).split("/")]
    with ThreadPoolExecutor(len(groups)) as pool:
        beside = [pool.submit(one_after_the_other, numbers) for numbers in groups if numbers[0] > 0]
        for numbers in groups:
            if numbers[0] < 0:
                one_after_the_other(numbers)
        for work in beside:
            work.result()


if __name__ == "__main__":
    # Its processes load the module under its name.
    from wrm_pipeline_tests.integration.exporter_child import main as main_of_the_module

    main_of_the_module()
