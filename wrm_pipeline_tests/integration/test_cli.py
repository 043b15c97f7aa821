"""What a person types: Dagster's own commands, in processes of their own, with the settings of this repository."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from wrm_pipeline_tests.fixtures.lake import Lake, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line
from wrm_pipeline_tests.integration.conftest import wait_until

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
DAYS = [date(2025, 8, day) for day in (20, 21, 22)]


@pytest.fixture
def home(environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Dagster's home with the settings that `make dev` copies there, and a feed that nobody serves."""
    folder = Path(os.environ["DAGSTER_HOME"])
    shutil.copy(PROJECT / "dagster.yaml", folder)
    monkeypatch.setenv("WRM_STATIONS_DATA_URL", "http://127.0.0.1:9/")
    with dg.DagsterInstance.get() as instance:  # creates the tables before several processes do at once
        instance.get_runs_count()
        instance.all_instigator_state()
    return folder


def dagster(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "dagster"), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def parquet(lake: Lake) -> list[str]:
    return [key.rpartition("gen_info/")[2] for key in lake.keys("") if key.endswith(".parquet")]


def test_materialize_a_day_from_the_command_line(lake, home, tmp_path):
    lake.put_day(3)
    later = datetime(2025, 8, 21, 13, tzinfo=UTC)
    lake.put_raw(later, snapshot(later, 5, line(lat="north")))
    arguments = ["asset", "materialize", "-m", "wrm_pipeline.definitions", "--partition", "2025-08-21", "--select"]

    dagster(*arguments, "wrm_stations_processed_data_all,wrm_stations_enhanced_data_all", cwd=tmp_path)

    assert parquet(lake) == [
        "enhanced/all/dt=2025-08-21/all_enhanced_20250821_000000.parquet",
        "processed/all/dt=2025-08-21/all_processed_20250821_000000.parquet",
    ]
    assert len(lake.rows("enhanced")) == 39
    assert len(lake.letters()) == 1
    assert list(tmp_path.iterdir()) == []

    rest = (
        "create_duckdb_enhanced_views,query_station_summary,bike_density_spatial_analysis,bike_density_map,data_catalog,"
        "city_report,published_database"
    )
    dagster(*arguments, rest, cwd=tmp_path)

    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        tables = connection.execute("SELECT table_name FROM information_schema.tables ORDER BY 1").fetchall()
        latest = connection.execute("SELECT count(*) FROM wrm_analytics.wrm_stations_latest").fetchone()
    assert {("query_station_summary",), ("bike_density_spatial_analysis",), ("wrm_stations_latest",)} <= set(tables)
    assert latest == (10,)
    assert (lake.settings.lake_dir / lake.layout.report_key("bike_density_map.html")).exists()
    assert (lake.settings.reports_dir / "site" / "index.html").exists()
    assert lake.store.get(lake.layout.database_key) == lake.settings.database_path.read_bytes()


def test_a_day_without_raw_data_is_nothing_to_do_and_says_so(lake, home, tmp_path):
    done = dagster(
        "asset",
        "materialize",
        "-m",
        "wrm_pipeline.definitions",
        "--select",
        "wrm_stations_processed_data_all",
        "--partition",
        "2025-08-21",
        cwd=tmp_path,
    )
    said = "Nothing to do: There is no raw snapshot in bike-data/gen_info/raw/dt=2025-08-21/"
    assert said in done.stdout + done.stderr
    assert not parquet(lake)


@contextmanager
def daemon(cwd: Path) -> Iterator[Path]:
    """Dagster's daemon, as `make dev` has it; gives its log."""
    log = cwd / "daemon.log"
    command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-w", str(PROJECT / "workspace.yaml")]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=out, start_new_session=True)
    try:
        yield log
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            # Its code server and runs are in its process group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.timeout(900)  # 20 s where nothing else runs; the daemon's sensors ask for the same days at the same time
def test_a_backfill_over_days_leaves_one_object_in_each_folder(lake, home, tmp_path):
    for day in DAYS:
        lake.put_day(2, dt=day)
    with daemon(tmp_path) as log:
        done = dagster(
            "job",
            "backfill",
            "-w",
            str(PROJECT / "workspace.yaml"),
            "-j",
            "wrm_stations_processing_job",
            "--from",
            DAYS[0].isoformat(),
            "--to",
            DAYS[-1].isoformat(),
            "--noprompt",
            cwd=tmp_path,
        )
        (backfill,) = re.findall(r"Launched backfill job `(\w+)`", done.stdout)

        def over() -> bool:
            states = backfill_runs(home, backfill)
            return len(states) == len(DAYS) and set(states.values()) <= {"SUCCESS", "FAILURE", "CANCELED"}

        wait_until(over, timeout_s=600, what=f"the backfill must end (see {log})")
        assert backfill_runs(home, backfill) == {day.isoformat(): "SUCCESS" for day in DAYS}, log.read_text()[-5_000:]

    assert parquet(lake) == [
        f"{layer}/all/dt={day}/all_{layer}_{day:%Y%m%d}_000000.parquet"
        for layer in ("enhanced", "processed")
        for day in DAYS
    ]
    assert [len(lake.rows("enhanced", day)) for day in DAYS] == [22, 22, 22]
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        counts = connection.execute(
            "SELECT dt, count(*) FROM wrm_analytics.wrm_stations_enhanced_data GROUP BY dt ORDER BY dt"
        ).fetchall()
    assert counts == [(day, 22) for day in DAYS]


def backfill_runs(home: Path, backfill: str) -> dict[str, str]:
    """State of a backfill's runs by partition, as Dagster has recorded it."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill}))
        return {run.tags["dagster/partition"]: run.status.value for run in runs}


def test_definitions_validate_as_the_check_does(home, tmp_path):
    done = dagster("definitions", "validate", "-m", "wrm_pipeline.definitions", cwd=tmp_path)
    assert "Validation successful" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
