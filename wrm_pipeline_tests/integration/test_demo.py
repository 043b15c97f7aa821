"""`make demo`, its first minutes: from a simulated feed to the map and the report, with nothing installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
MINUTES = 12


@pytest.mark.integration
def test_the_first_minutes_of_the_demo(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "wrm_pipeline.cli.demo", "--minutes", str(MINUTES)],
        cwd=PROJECT,
        env={**os.environ, "WRM_DATA_DIR": str(folder), "DAGSTER_HOME": str(folder / "dagster_home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(rf"^snapshots published +{MINUTES}$", done.stdout, re.MULTILINE), done.stdout
    for name in ("map", "report"):
        page = re.search(rf"^{name} +(.+)$", done.stdout, re.MULTILINE)
        assert page is not None
        assert Path(page[1]).stat().st_size > 1_000
