"""A process that executes runs, one after the other, as run workers do; the tests kill some of them.

Arguments: numbers of runs; groups of them, apart by `/`, are executed at the same time. Run n fails if n % 7 == 0; if
n < 0, it has a process of its own, which waits to be killed in its second step. The group with these comes last.
"""

from __future__ import annotations

import os
import sys
import time

import dagster as dg

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


def execute(job: dg.JobDefinition, numbers: list[int]) -> None:
    with dg.DagsterInstance.get() as instance:
        for number in numbers:
            tags = {"number": str(number)}
            job.execute_in_process(instance=instance, tags=tags, raise_on_error=False, run_config=QUIET)
            tell(str(number))


def in_a_process(job: dg.JobDefinition, numbers: list[int]) -> int:
    """Forked: a process of its own without the seconds that loading Dagster takes."""
    child = os.fork()
    if child == 0:
        execute(job, numbers)
        os._exit(0)
    return child


def main() -> None:
    job = dg.Definitions(assets=[raw, processed], jobs=[dg.define_asset_job(JOB)]).resolve_job_def(JOB)
    workers = []
    for group in " ".join(sys.argv[1:]).split("/"):
        numbers = [int(text) for text in group.split()]
        if numbers[0] > 0:
            workers.append(in_a_process(job, numbers))
            continue
        for number in numbers:
            os.waitpid(in_a_process(job, [number]), 0)
    statuses = [os.waitpid(worker, 0)[1] for worker in workers]
    sys.exit(any(statuses))


if __name__ == "__main__":
    main()
