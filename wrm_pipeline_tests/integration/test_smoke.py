"""`wrm smoke`, the gate of a release, as a process of its own: it finds what is broken, and touches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.lake import Lake, snapshot


def smoke(feed_url: str, *, code: str = "") -> subprocess.CompletedProcess[str]:
    program = f"import sys\n{code}\nfrom wrm_pipeline.cli.main import main\nsys.exit(main(['smoke']))"
    environment = {**os.environ, "WRM_STATIONS_DATA_URL": feed_url}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=180
    )


@pytest.mark.integration
def test_it_builds_the_newest_day_elsewhere_and_writes_nothing_here(lake: Lake, environment: Path) -> None:
    now = datetime.now(UTC)
    for minutes in (3, 2, 1):
        lake.put_raw(now - timedelta(minutes=minutes), snapshot(now - timedelta(minutes=minutes), 5))
    before = sorted(environment.rglob("*"))
    with serve(City(1), clock=lambda: now) as feed:
        done = smoke(feed.url)
    assert done.returncode == 0, done.stderr
    assert "rows from" in done.stdout
    assert [path for path in sorted(environment.rglob("*")) if "logs" not in path.parts] == before


@pytest.mark.integration
def test_a_release_whose_jobs_fail_does_not_pass(environment: Path) -> None:
    broken = (
        "import wrm_pipeline.flows.process as p\n"
        "def fail(*a, **k): raise RuntimeError('this release is broken')\n"
        "import wrm_pipeline.assets.stations.processed_all as m\n"
        "[setattr(m, n, fail) for n in dir(m) if getattr(getattr(m, n), '__module__', '') == p.__name__]"
    )
    with serve(City(1), clock=lambda: datetime.now(UTC)) as feed:
        done = smoke(feed.url, code=broken)
    assert done.returncode == 1
    assert "wrm_stations_processing_job failed" in done.stderr
    assert "this release is broken" in done.stderr + done.stdout
