"""The bar of long work: on a terminal, and nowhere else."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wrm_pipeline.cli.output import shown_safely
from wrm_pipeline.cli.progress import progress
from wrm_pipeline_tests.fixtures.lake import Lake

WRM = Path(sys.executable).parent / "wrm"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch, term: str = "xterm") -> Terminal:
    """A terminal as stderr, from now on (pytest puts its own there between a fixture and its test)."""
    stream = Terminal()
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_it_counts_the_steps_and_leaves_lines_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    lines: list[str] = []
    with shown_safely(), progress("rebuild", lines.append) as bar:
        for day in ("2025-08-20", "2025-08-21"):
            bar.begin(day, 2)
            bar.say(f"{day} done")
    shown = terminal.getvalue()
    assert lines == ["2025-08-20 done", "2025-08-21 done"]
    assert [re.search(r"\d/\d", part)[0] for part in shown.split("rebuild")[1:]] == ["0/1", "0/2", "1/2", "2/2"]  # type: ignore[index]
    assert shown.count("\r\x1b[K") == 2, "the bar is taken away before each line"
    assert shown.endswith("\x1b[?25h\n"), "the cursor is shown again"


def test_the_name_of_a_step_does_not_act_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with shown_safely(), progress("move", print) as bar:
        bar.begin("\x1b[2Jowned\r", 1)
    assert "\\u001b[2J" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


def test_it_ends_with_work_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)

    def work() -> None:
        with progress("compact", print) as bar:
            bar.begin("2025-08-20", 3)
            raise ValueError("the store is away")

    with pytest.raises(ValueError, match="the store is away"):
        work()
    assert "3/3" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[?25h\n")


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_has_none(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch, term)
    with progress("rebuild", print) as bar:
        bar.begin("2025-08-20", 1)
    assert terminal.getvalue() == ""


def run_on(stderr: int) -> str:
    done = subprocess.run(
        [str(WRM), "rebuild", "--layer", "processed"],
        env={**os.environ, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def test_a_command_shows_it_on_a_terminal_and_not_in_a_pipe(lake: Lake, tmp_path: Path) -> None:
    Path(os.environ["DAGSTER_HOME"], "dagster.yaml").touch()  # else Dagster says that there is none
    lake.put_day(1)
    with (tmp_path / "stderr").open("w+") as file:
        in_a_pipe = run_on(file.fileno())
        file.seek(0)
        assert file.read() == ""
    ours, theirs = pty.openpty()
    try:
        on_a_terminal = run_on(theirs)
        shown = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "rebuild  [####" in shown
    assert "1/1" in shown
    for out in (in_a_pipe, on_a_terminal):
        assert "1 snapshots, 11 rows" in out
        assert out.replace("\n", "").isprintable(), "nothing of a bar is in stdout"
