"""Starting what is measured, in processes of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wrm_pipeline_tests.bench.lake import DT, BenchLake

REPOSITORY = Path(__file__).parents[2]

# Names that would send a run to a real bucket, feed or server.
_SETTINGS = ("WRM_", "BUCKET_", "S3_", "HETZNER_", "MINIO_", "VAULT_", "REDIS_", "POSTGRES_", "DASK_", "DAGSTER_")


class ChildFailedError(RuntimeError):
    """A process that was to be measured failed; the message holds what it said."""


def in_child(task: str, lake: BenchLake, settings: Mapping[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """What one of the tasks of `child.py` answers; `settings` are variables, `options` the task's own."""
    arguments = [task, json.dumps(asdict(lake), default=str), json.dumps(options)]
    said = _output_of(["-m", "wrm_pipeline_tests.bench.child", *arguments], lake, settings)
    answer: dict[str, Any] = json.loads(said)
    return answer


def materialize(
    module: str, assets: str, lake: BenchLake, settings: Mapping[str, str] | None = None, *, partitioned: bool = True
) -> float:
    """Seconds that `dagster asset materialize` takes for one partition, start of the process included."""
    make_home(lake)
    command = ["-m", "dagster", "asset", "materialize", "-m", module, "--select", assets]
    start = time.perf_counter()
    _output_of([*command, *(["--partition", str(DT)] if partitioned else [])], lake, settings)
    return time.perf_counter() - start


def make_home(lake: BenchLake) -> Path:
    """The lake's DAGSTER_HOME, with the project's own dagster.yaml."""
    home = lake.data_dir / "dagster_home"
    if not home.exists():
        home.mkdir()
        (home / "dagster.yaml").write_bytes((REPOSITORY / "dagster.yaml").read_bytes())
    return home


def environment_of(lake: BenchLake, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would lead to a real bucket, feed or server."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return bare | {
        "WRM_DATA_DIR": str(lake.data_dir),
        "DAGSTER_HOME": str(lake.data_dir / "dagster_home"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "WRM_DOTENV": os.devnull,
        **(settings or {}),
    }


def _output_of(arguments: list[str], lake: BenchLake, settings: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment_of(lake, settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildFailedError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout
