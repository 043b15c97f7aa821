"""What all commands of `wrm` have in common: help, examples, one flag for writing, JSON, completion, a fast start."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from wrm_pipeline import settings as settings_module
from wrm_pipeline.cli.command import Command, Entrance, Group
from wrm_pipeline.cli.main import main, wrm
from wrm_pipeline.flows.encrypted_file import new_key
from wrm_pipeline_tests.fixtures.fake_vault import FakeVault
from wrm_pipeline_tests.fixtures.lake import NOON, Lake, build_day, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line

BIN = Path(sys.executable).parent


def walk(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Each command and group, by the words that are typed for it."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from walk(below, *path, name)


COMMANDS = dict(walk(wrm, "wrm"))
LEAVES = {name for name, command in COMMANDS.items() if not isinstance(command, click.Group)} | {"wrm backup"}


def options_of(name: str, *, hidden: bool = False) -> set[str]:
    found = (param for param in COMMANDS[name].params if getattr(param, "hidden", False) is hidden)
    return {option for param in found if isinstance(param, click.Option) for option in param.opts}


def parsed(words: list[str]) -> click.Context:
    """What a command would be called with; nothing is done."""
    ctx = click.Context(wrm, info_name="wrm", obj=Entrance(), **wrm.context_settings)
    command: click.Command = wrm
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words[0]]
        ctx, words = command.make_context(words[0], words[1:], parent=ctx, allow_extra_args=True), words[1:]
    return ctx


# --- help ---


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_that_are_understood(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name]
    assert isinstance(command, Command | Group)
    assert command.examples
    assert main([*name.split()[1:], "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    for example, what in command.examples:
        assert f"{example} " in shown
        assert what in shown
        words = shlex.split(example)
        assert " ".join(words).startswith(name)
        assert parsed(words[1:]).command in COMMANDS.values()


def test_the_list_of_commands_cuts_no_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert "..." not in listed


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["dlq", "list", "--help"], ["backup", "list", "-h"]])
def test_help_needs_no_usable_environment(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRM_ENV", "prod")
    assert main(words) == 0
    assert "Usage: wrm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Usage: wrm"),
        (["dlq"], "Usage: wrm dlq"),
        (["nothing"], "No such command 'nothing'"),
        (["dlq", "list", "--nothing"], "No such option"),
        (["dlq", "list", "--date", "yesterday"], "'yesterday' is not a date like 2025-08-21"),
        (["dlq", "list", "--status", "lost"], "'lost' is not one of 'pending_reprocessing'"),
        (["dlq", "correct", "x", "--line", "1"], "Missing option '--data'"),
        (["dlq", "replay", "--max-retries", "0"], "0 is not in the range x>=1"),
    ],
)
def test_what_is_not_understood_is_status_2(
    words: list[str], said: str, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert lake.keys("") == []


HEAVY = {"dagster", "pandas", "numpy", "pyarrow", "pydantic", "structlog", "duckdb", "boto3", "cryptography", "redis"}


def imported(program: str, heavy: set[str]) -> set[str]:
    code = f"import sys\nfrom wrm_pipeline.cli.main import main\n{program}\nprint(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_the_list_of_commands_imports_nothing_heavy() -> None:
    assert imported("main(['--help'])", HEAVY) == set()


def test_no_commands_help_imports_dagster_or_pandas() -> None:
    paths = [name.split()[1:] for name in COMMANDS]
    assert imported(f"for path in {paths!r}: main([*path, '--help'])", {"dagster", "pandas", "duckdb"}) == set()


# --- the environment ---


@pytest.mark.parametrize("words", [["dlq", "list"], ["config"], ["rebuild"], ["backup", "list"], ["prune"]])
def test_the_environment_is_read_once(words: list[str], lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put_day(1)
    reads, load = [], settings_module.load_settings

    def counted(*arguments: Any) -> settings_module.Settings:
        reads.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(settings_module, "load_settings", counted)
    assert main(words) == 0
    assert len(reads) == 1


# --- one flag for writing ---

# Whether each writes when it is given neither flag, and its spellings of before.
WRITING: dict[str, tuple[bool, list[str]]] = {
    "wrm rebuild": (True, []),
    "wrm dlq replay": (True, []),
    "wrm dlq correct ID --line 1 --data x": (True, []),
    "wrm dlq discard ID --reason x": (True, ["--write"]),
    "wrm compact": (False, ["--write"]),
    "wrm secrets import FILE": (False, ["--write"]),
    "wrm repair-clock": (False, ["--write"]),
    "wrm raw move-future": (False, ["--write"]),
    "wrm restore": (False, []),
    "wrm prune": (False, []),
    "wrm stations merge 15001 15002 --reason x": (False, []),
    "wrm stations split 15001 --at 2025-08-21 --reason x": (False, []),
}
# Those that timers run, and those that change nothing of the pipeline's.
OTHERS = {"wrm backup", "wrm reports", "wrm backup list", "wrm backup verify", "wrm doctor", "wrm config", "wrm trace"}
OTHERS |= {"wrm smoke", "wrm dlq list", "wrm dlq show", "wrm secrets scan", "wrm alerts test", "wrm gbfs"}
OTHERS |= {"wrm forecast", "wrm stations list", "wrm stations decisions"}


def name_of(example: str) -> str:
    return max((name for name in COMMANDS if example.startswith(name)), key=len)


def test_each_command_that_writes_has_the_flag() -> None:
    assert {name_of(example) for example in WRITING} == LEAVES - OTHERS
    assert {name for name in LEAVES if "--apply" in options_of(name)} == LEAVES - OTHERS


@pytest.mark.parametrize("example", WRITING)
def test_one_pair_of_flags_and_the_old_spellings(example: str) -> None:
    (writes, old), name, words = WRITING[example], name_of(example), example.split()[1:]
    assert sorted(options_of(name, hidden=True)) == old
    assert parsed(words).params["apply"] in ((True, None) if writes else (False,))
    assert parsed([*words, "--apply"]).params["apply"] is True
    if writes:
        assert parsed([*words, "--dry-run"]).params["apply"] is False
    for spelling in old:
        assert parsed([*words, spelling]).params["apply"] is True
        assert spelling not in parsed(words).get_help()


@pytest.fixture
def entry(lake: Lake) -> str:
    """The id of a dead letter of one row, line 8 of its file, in a published day."""
    combined = f"{int(NOON.timestamp())}|7200|-1"
    lake.put_raw(NOON, snapshot(NOON, 5, line(id="15998", combined=combined, bikes="x")))
    build_day()
    return Path(lake.letters()[0]).stem


@pytest.mark.parametrize(
    "command",
    [
        "rebuild --full --dry-run",
        "dlq replay --dry-run",
        "dlq correct ENTRY --line 8 --data x --dry-run",
        "dlq discard ENTRY --reason x --dry-run",
        "dlq discard --error bad_count --reason x",
        "dlq discard --error bad_count --reason x --dry-run",
        "compact --older-than-days 2",
        "prune",
    ],
)
def test_a_trial_writes_nothing_and_says_so(
    command: str, entry: str, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lake.etags()
    assert main(command.replace("ENTRY", entry).split()) == 0
    said = capsys.readouterr().out
    assert "Nothing was" in said
    assert "--apply" in said
    assert lake.etags() == before


# --- JSON ---

JSON = {
    "wrm doctor": [""],
    "wrm config": [""],
    "wrm alerts test": [""],
    "wrm trace": ["15001 2025-08-21T12:00Z"],
    "wrm dlq list": ["", "--status parked"],
    "wrm dlq show": ["ENTRY"],
    "wrm dlq discard": ["ENTRY --reason x --dry-run", "ENTRY --reason x", "--error bad_count --reason x --apply"],
    "wrm dlq replay": ["--dry-run", ""],
    "wrm rebuild": ["--dry-run", "--full --layer processed --layer enhanced", "--layer analytics"],
    "wrm backup list": [""],
    "wrm backup verify": [""],
    "wrm restore": ["", "--apply --overwrite --only sqlite"],
    "wrm prune": ["", "--apply"],
    "wrm compact": ["--older-than-days 2", "--older-than-days 2 --apply", "--date 2025-08-21 --restore --apply"],
    "wrm raw move-future": ["", "--apply"],
    "wrm repair-clock": ["", "--apply"],
    "wrm secrets import": ["FILE", "FILE --apply"],
    "wrm secrets scan": ["FILE"],
    "wrm stations list": ["15001"],
    "wrm stations decisions": [""],
}
CALLS = [(name, arguments) for name, calls in JSON.items() for arguments in calls]


def test_every_command_with_a_table_has_json() -> None:
    with_json = {name for name in LEAVES if "--json" in options_of(name)}
    assert with_json == set(JSON)
    one_line = {"wrm backup", "wrm smoke", "wrm reports", "wrm gbfs", "wrm forecast", "wrm dlq correct"}
    one_line |= {"wrm stations merge", "wrm stations split"}
    assert LEAVES - with_json == one_line


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[" ".join(call) for call in CALLS])
def test_json_is_all_that_stdout_has(
    name: str,
    arguments: str,
    entry: str,
    lake: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WRM_STATIONS_DATA_URL", "http://127.0.0.1:9/")
    if name in ("wrm backup list", "wrm backup verify", "wrm restore"):
        monkeypatch.setenv("WRM_BACKUP_KEY", new_key())
        assert main(["backup"]) == 0
    if name == "wrm raw move-future":
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
        lake.put_raw(later, snapshot(NOON + timedelta(minutes=1), 5))
    file = tmp_path / ".env"
    file.write_text("BUCKET_NAME=bikes\n")
    words = arguments.replace("ENTRY", entry).replace("FILE", str(file)).split()
    capsys.readouterr()
    with FakeVault("the-secret-id") as vault:
        if name == "wrm secrets import":
            for variable, value in vault.environment().items():
                monkeypatch.setenv(variable, value)
        status = main([*name.split()[1:], *words, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert status == (1 if name in ("wrm doctor", "wrm alerts test") else 0), "no feed answers, no channel is there"
    may_be_empty = ("wrm secrets scan", "wrm alerts test", "wrm stations list", "wrm stations decisions")
    assert content or "parked" in arguments or name in may_be_empty
    if isinstance(content, dict) and "applied" in content and name != "wrm repair-clock":
        writes = next((writes for example, (writes, _) in WRITING.items() if name_of(example) == name), False)
        assert content["applied"] is ("--apply" in words or (writes and "--dry-run" not in words))


# --- completion ---


def completed(typed: str) -> list[str]:
    """What bash offers for the last word, by the script that `wrm` gives it."""
    script = f"""
    eval "$(_WRM_COMPLETE=bash_source wrm)"
    COMP_WORDS=({typed}); [[ "{typed}" == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
    _wrm_completion wrm
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "WRM_ENV": "not usable"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("wrm re", ["rebuild", "repair-clock", "reports", "restore"]),
        ("wrm dlq ", ["correct", "discard", "list", "replay", "show"]),
        ("wrm backup v", ["verify"]),
        ("wrm rebuild --a", ["--allow-shrink", "--apply"]),
        ("wrm rebuild --d", ["--dry-run"]),
        ("wrm rebuild --layer e", ["enhanced"]),
        ("wrm dlq list --status p", ["pending_reprocessing", "parked"]),
    ],
)
def test_bash_completes_commands_options_and_values(typed: str, offered: list[str]) -> None:
    assert sorted(completed(typed)) == sorted(offered)
