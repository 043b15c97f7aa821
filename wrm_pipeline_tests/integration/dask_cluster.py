"""A Dask cluster of real processes on this machine, started as an operator starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client

from wrm_pipeline.assets.stations.fan_out import PRELOADED
from wrm_pipeline_tests.integration.conftest import free_ports, wait_until

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def dask_cluster(folder: Path, environment: Mapping[str, str], workers: int = 2) -> Iterator[str]:
    """A scheduler and single-threaded workers with this environment; gives the scheduler's address."""
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    preload = [argument for module in PRELOADED for argument in ("--preload", module)]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-jupyter"]
    worker = [*dask, "worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
    worker += ["--local-directory", str(folder / "dask")]
    bare = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    with ExitStack() as stack, (folder / "dask.log").open("w") as log:

        def start(command: list[str], **more: str) -> None:
            process = subprocess.Popen(
                command,
                env={**bare, "PYTHONPATH": str(REPOSITORY), **more},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)  # the nanny takes its worker with it

        start([*scheduler, *preload])
        for _ in range(workers):
            start([*worker, *preload], **environment)
        with Client(address, timeout=120, set_as_default=False) as client:
            wait_until(lambda: len(client.nthreads()) == workers, timeout_s=120, what="the Dask workers must come")
        yield address
