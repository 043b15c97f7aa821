"""What forked runs do without: reading Dagster's migrations, and processes that mirror their output."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from dagster._core.execution import compute_logs
from dagster._core.storage import local_compute_log_manager, sql
from dagster._core.storage.runs.sqlite import sqlite_run_storage

from wrm_pipeline.resources.forked_runs import mirrored, read_migrations_once
from wrm_pipeline_tests.integration.conftest import wait_until


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptDirectory, "from_config", ScriptDirectory.from_config)
    read_migrations_once()


def test_migrations_are_read_once_and_are_those_that_are_installed(
    read_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sql.get_alembic_config(sqlite_run_storage.__file__)
    unread = ScriptDirectory(str(Path(sql.__file__).parent / "alembic"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.as_revision_number("head") == unread.as_revision_number("head")
    monkeypatch.setattr(ScriptDirectory, "_load_revisions", lambda _: pytest.fail("read again"))
    assert ScriptDirectory.from_config(config).as_revision_number("head")


def test_what_is_written_to_the_file_arrives_where_the_stream_led(tmp_path: Path) -> None:
    log, terminal = tmp_path / "log", tmp_path / "terminal"
    log.touch()
    with terminal.open("w") as stream, mirrored(str(log), stream):
        with log.open("a") as file:
            file.write("at once\n")
        wait_until(lambda: terminal.read_text() == "at once\n", timeout_s=10, what="it must be seen at once")
        with log.open("a") as file:
            file.write("the last words")
    assert terminal.read_text() == "at once\nthe last words"


def test_a_terminal_that_is_gone_disturbs_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        os.close(read)
        with mirrored(str(log), stream):
            log.write_text("not seen")


def test_dagster_mirrors_output_where_it_is_expected_to() -> None:
    assert local_compute_log_manager.mirror_stream_to_file is compute_logs.mirror_stream_to_file
    assert "tail_to_stream" in compute_logs.mirror_stream_to_file.__wrapped__.__code__.co_names  # type: ignore[attr-defined]
