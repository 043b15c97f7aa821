"""The log of a run: the same events in the UI and in the file, and no secret in either."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline import logs
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, run_job


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    logs.configure(tmp_path / "logs", as_json=True)
    return tmp_path / "logs"


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("wrm_pipeline.x", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(text) for path in sorted(folder.iterdir()) for text in path.read_text().splitlines()]


@pytest.fixture
def instance(tmp_path: Path) -> dg.DagsterInstance:
    home = tmp_path / "home"
    home.mkdir()
    settings = (Path(__file__).parents[2] / "dagster.yaml").read_text()
    (home / "dagster.yaml").write_text(settings)
    return dg.DagsterInstance.from_config(str(home))


def test_a_run_tells_its_story_in_the_file_and_in_the_ui_alike(
    lake: Lake, folder: Path, instance: dg.DagsterInstance
) -> None:
    lake.put_raw(NOON)
    with instance:
        run = run_job("wrm_stations_processing_job", dt=DAY, instance=instance)
        in_ui = [entry.user_message for entry in instance.all_logs(run.run_id) if not entry.dagster_event]
    ours = [line for line in lines(folder) if "built" in str(line["message"])]
    assert [line["asset"] for line in ours] == ["wrm_stations_processed_data_all", "wrm_stations_enhanced_data_all"]
    for line in ours:
        assert (line["run_id"], line["partition"]) == (run.run_id, DAY.isoformat())
        assert isinstance(line["seconds"], float)
        assert line["message"] in in_ui


def test_a_failure_is_in_the_file_with_its_traceback(lake: Lake, folder: Path, instance: dg.DagsterInstance) -> None:
    with instance:
        lake.put_day(1)
        (lake.settings.lake_dir / f"{lake.settings.prefix}processed").write_bytes(b"in the way")
        run_job("wrm_stations_processing_job", dt=DAY, instance=instance, raise_on_error=False)
    failure = next(
        line
        for line in lines(folder)
        if "in the way" in str(line["message"]) or "Not a directory" in str(line["message"])
    )
    assert failure["level"] == "ERROR"
    assert "handle_output" in str(failure["message"]), "the traceback"


@pytest.mark.parametrize("as_json", [True, False])
def test_known_secrets_and_credentials_in_urls_are_masked_wherever_they_stand(as_json: bool) -> None:
    remember_secret("canary-7f3a")
    made = record(
        "get https://me:pw-9@host/x said canary-7f3a", wrm_values={"url": "redis://:pw-9@h/0", "k": "canary-7f3a"}
    )
    text = logs.format_record(made, as_json=as_json)
    assert "canary-7f3a" not in text
    assert "pw-9" not in text
    assert "https://***@host/x" in text


def test_an_exception_is_logged_without_local_variables(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret_id = "local-canary-1"
    try:
        int("login refused")
    except ValueError:
        logs.get_logger("wrm_pipeline.test").exception("login failed", attempt=1)
    assert secret_id not in caplog.text
    assert "login failed attempt=1" in caplog.text
    assert "ValueError: invalid literal" in caplog.text


def test_old_files_are_removed_when_a_new_day_begins(folder: Path) -> None:
    folder.mkdir()
    (folder / "wrm-2020-01-01.jsonl").write_text("{}\n")
    (folder / "other.txt").write_text("not ours")
    logs.RunLogHandler().handle(record("hello"))
    assert not (folder / "wrm-2020-01-01.jsonl").exists()
    assert (folder / "other.txt").exists()
    (line,) = [json.loads(text) for path in folder.glob("wrm-*") for text in path.read_text().splitlines()]
    assert line["message"] == "hello"


def test_a_log_that_cannot_be_written_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    logs.configure(tmp_path / "file" / "logs", as_json=True)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logs.RunLogHandler().handle(record("hello"))
    assert (tmp_path / "file").read_text() == "in the way"
