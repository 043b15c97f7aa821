"""Pruning of Dagster's history in SQLite."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline.cli import doctor
from wrm_pipeline.cli.main import main
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.flows.watch import LAST_RETRY_AFTER
from wrm_pipeline.jobs import run_history as module
from wrm_pipeline.jobs.run_history import MINIMUM_DAYS, UnknownStorageError, prune
from wrm_pipeline.sensors.alerts import LONGEST_LOOK_BACK_S
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import run_job
from wrm_pipeline_tests.history_contract import History, HistoryContract, HistorySizeContract, ago, run_both

OWN_FILES = ""
SHARED_FILE = """
event_log_storage: {module: wrm_pipeline.resources.shared_events, class: SharedSqliteEventLogStorage}
"""


@pytest.fixture(scope="module", params=[OWN_FILES, SHARED_FILE], ids=["files of runs", "one file"])
def both_runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    """A Dagster home with two runs, and their ids."""
    home = tmp_path_factory.mktemp("history")
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{request.param}")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return home, run_both(instance)


@pytest.fixture
def history(environment: Path, both_runs: tuple[Path, tuple[str, str]]) -> Iterator[History]:
    """The same in this test's home."""
    home, ids = both_runs
    shutil.copytree(home, environment.parent / "dagster_home", dirs_exist_ok=True)
    with dg.DagsterInstance.get() as instance:
        yield History(instance, ids)


class TestSize(HistorySizeContract):
    pass


class TestSqlite(HistoryContract):
    def test_disk_use_stays_flat(self, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_VACUUM_BYTES", 100_000)
        found = self.check_flat(history, days=7, a_day=60, kept_days=2)
        for name in found[0]:
            # Each day leaves its partition's status: 4 rows of events.
            growth = found[-1][name] - found[3][name]
            assert growth <= max(0.05 * found[3][name], 3 * 6), (name, [day[name] for day in found])

    def test_files_of_runs_go_with_them_and_strangers_stay(self, history: History) -> None:
        (old,) = history.add([ago(days=30)], day="2025-07-01")
        (young,) = history.add([ago(days=1)], day="2025-07-01")
        assert history.folder is not None
        own = {path.name for path in history.folder.iterdir()} & {f"{old}.db", f"{young}.db"}
        forgotten = history.folder / "00000000-0000-0000-0000-000000000000.db"
        forgotten.write_bytes(b"of a run that somebody deleted")
        stranger = history.folder / "notes.db"
        stranger.write_bytes(b"x")
        for path in (forgotten, stranger):
            os.utime(path, (ago(days=30).timestamp(),) * 2)
        done = history.prune(days=14)
        names = {path.name for path in history.folder.iterdir()}
        assert {"index.db", "notes.db"} <= names
        assert names & {f"{old}.db", f"{young}.db", forgotten.name} == own - {f"{old}.db"}
        assert not history.output(old).exists()
        assert history.output(young).exists()
        assert done.files == (3 if own else 2)
        assert done.file_bytes > 50_000


def test_the_command_counts_first_and_removes_with_apply(
    history: History, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    history.add([ago(days=30), ago(days=20)], day="2025-07-01")
    assert main(["prune", "--days", "10"]) == 0
    said = capsys.readouterr().out
    assert "2 runs," in said
    assert "Nothing was changed" in said
    assert len(history.run_ids()) == 4
    assert main(["prune", "--apply", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 2
    assert len(history.run_ids()) == 2
    assert main(["prune", "--days", "1", "--apply"]) == 1
    assert "At least 2 days" in capsys.readouterr().err
    monkeypatch.delenv("DAGSTER_HOME")
    assert main(["prune"]) == 1
    assert "DAGSTER_HOME is not set" in capsys.readouterr().err


def test_the_command_and_the_doctor_know_the_limit(
    history: History, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRM_HISTORY_DAYS", "100")
    history.add([ago(days=30), ago(days=20)], day="2025-07-01")
    finding = doctor._history(load_settings())
    assert (finding.status, finding.got.partition(" take ")[0]) == ("ok", "4 runs")
    assert "100 days will take" in finding.got
    monkeypatch.setenv("WRM_HISTORY_MAX_BYTES", "1000")
    finding = doctor._history(load_settings())
    assert finding.status == "warning"
    assert "WRM_HISTORY_MAX_BYTES" in finding.todo
    assert main(["prune", "--apply", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 2


def test_the_job_prunes_all_but_itself(history: History) -> None:
    (old,) = history.add([ago(days=30)], day="2025-07-01")
    done = run_job("wrm_prune_history_job", instance=history.instance)
    assert done.output_for_node("prune_dagster_history")["runs"] == 1
    assert old not in history.run_ids()
    assert done.run_id in history.run_ids()


def test_what_looks_back_is_younger_than_the_youngest_history_that_goes() -> None:
    shortest = timedelta(days=MINIMUM_DAYS)
    assert timedelta(seconds=LONGEST_LOOK_BACK_S) < shortest
    assert shortest > LAST_RETRY_AFTER


def test_another_storage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(type(instance), "event_log_storage", None)
        with pytest.raises(UnknownStorageError, match="cannot prune"):
            prune(instance, before=datetime.now(UTC), apply=True)


def test_the_clock_prunes_in_local_mode_and_systemd_does_on_a_server() -> None:
    for env, there in (("local", True), ("production", False)):
        schedules = build_defs(load_settings({"env": env})).schedules or ()
        assert ("wrm_prune_history_schedule" in {schedule.name for schedule in schedules}) is there
