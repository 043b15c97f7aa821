"""Jobs that do to their process whatever a run may do; each leaves a file that says what it found."""

import json
import os
import time
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import psutil

from wrm_pipeline.resources.warm_runs import use_warm_runs

use_warm_runs()
changed: list[str] = []


def found_by(folder: str, run_id: str) -> dict[str, Any] | None:
    path = Path(folder, f"{run_id}.json")
    return json.loads(path.read_text()) if path.exists() else None


def _write(context: dg.OpExecutionContext) -> None:
    (data,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "command_of_parent": psutil.Process(os.getppid()).cmdline(),
        "changed": changed,
        "directory": str(Path.cwd()),
        "variable": os.environ.get("WRM_LEFT_BEHIND"),
        "random": np.random.random(),
        "data_mb": int(data.split()[1]) // 1024,
    }
    path = Path(os.environ["DAGSTER_HOME"], f"{context.run_id}.json")
    path.with_suffix(".new").write_text(json.dumps(found))
    path.with_suffix(".new").rename(path)


@dg.op
def write(context: dg.OpExecutionContext) -> None:
    print("seen on stdout")  # noqa: T201 - for the compute log
    _write(context)


@dg.op
def fail() -> None:
    raise ValueError("on purpose")


@dg.op
def abort() -> None:
    os.abort()


@dg.op
def wait(context: dg.OpExecutionContext) -> None:
    _write(context)
    time.sleep(60)


@dg.op
def misbehave(context: dg.OpExecutionContext) -> None:
    """Change what is loaded, take 1 GB, and fork."""
    changed.append("by a run before")
    leak.append(bytearray(2**30))
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    os.chdir("/")
    os.environ["WRM_LEFT_BEHIND"] = "1"
    _write(context)


leak: list[bytearray] = []


@dg.job(executor_def=dg.in_process_executor)
def write_job() -> None:
    write()


@dg.job(executor_def=dg.in_process_executor)
def fail_job() -> None:
    fail()


@dg.job(executor_def=dg.in_process_executor)
def abort_job() -> None:
    abort()


@dg.job(executor_def=dg.in_process_executor)
def wait_job() -> None:
    wait()


@dg.job(executor_def=dg.in_process_executor)
def misbehave_job() -> None:
    misbehave()


@dg.job(executor_def=dg.multiprocess_executor)
def processes_job() -> None:
    write()


defs = dg.Definitions(jobs=[write_job, fail_job, abort_job, wait_job, misbehave_job, processes_job])
