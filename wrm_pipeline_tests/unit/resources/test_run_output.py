"""What a run prints, on its way to where its process writes."""

from __future__ import annotations

import os
from pathlib import Path

from dagster._core.execution import compute_logs
from dagster._core.storage import local_compute_log_manager

from wrm_pipeline.resources.run_output import mirrored
from wrm_pipeline_tests.integration.conftest import wait_until


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
