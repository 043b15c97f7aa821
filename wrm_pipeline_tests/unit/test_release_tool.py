"""The host's release tool (deploy/ansible/roles/dagster/files/wrm-release.py), as far as it can be had without a host.

What it does with systemd is tried by `make deploy-test`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "deploy/ansible/roles/dagster/files/wrm-release.py"


def load_tool(folder: Path) -> ModuleType:
    """The tool, with folders of its own, below this one, in place of the host's."""
    spec = importlib.util.spec_from_file_location("wrm_release", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = folder / "opt"
    for name in ("releases", "slots/blue", "slots/green", "incoming"):
        (root / name).mkdir(parents=True)
    config = folder / "release.json"
    config.write_text(json.dumps({"keep": 3, "dagster_home": str(folder)}))
    paths = {
        "ROOT": root,
        "RELEASES": root / "releases",
        "INCOMING": root / "incoming",
        "SLOTS": root / "slots",
        "CURRENT": root / "current",
        "ACTIVE": root / "active",
        "HISTORY": folder / "history/history.jsonl",
        "CONFIG": config,
        "_runs": lambda _slot: False,
    }
    for name, value in paths.items():
        setattr(module, name, value)
    return module


@pytest.fixture
def tool(tmp_path: Path) -> ModuleType:
    """The tool, with folders of its own in place of the host's."""
    return load_tool(tmp_path)


def installed(tool: ModuleType, version: str, *, outcome: str = "active", lock: str = "l") -> Path:
    folder: Path = tool.RELEASES / version
    (folder / "venv/bin").mkdir(parents=True)
    (folder / "release.json").write_text(json.dumps({"lock": lock, "wheel": version}))
    if outcome:
        tool.note(version, outcome)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_newest_good_releases_are_kept_and_refused_ones_are_not(tool: ModuleType) -> None:
    for version in ("1", "2", "3", "4"):
        installed(tool, version)
    installed(tool, "5", outcome="refused")
    installed(tool, "6", outcome="rolled back")
    tool.point(tool.CURRENT, str(tool.RELEASES / "4"))
    tool.prune()
    assert names(tool.RELEASES) == {"2", "3", "4"}


def test_what_runs_is_kept_however_old_it_is(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1", "2", "3", "4", "5"):
        installed(tool, version)
    tool.point(tool.CURRENT, str(tool.RELEASES / "1"))
    tool.point(tool.SLOTS / "blue/release", str(tool.RELEASES / "2"))
    monkeypatch.setattr(tool, "_runs", lambda slot: slot == "blue")
    tool.prune()
    assert names(tool.RELEASES) == {"1", "2", "3", "4", "5"}


@pytest.mark.parametrize(
    ("order", "current", "wanted"),
    [(["1", "2", "3"], "3", "2"), (["1", "2", "2", "2"], "2", "1"), (["1", "2", "1"], "1", "2")],
)
def test_rollback_takes_the_good_release_before(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, order: list[str], current: str, wanted: str
) -> None:
    for version in set(order):
        installed(tool, version, outcome="")
    for version in order:
        tool.note(version, "active")
    tool.note("9", "rolled back", "it does not ingest")
    tool.point(tool.CURRENT, str(tool.RELEASES / current))
    chosen: list[str] = []
    monkeypatch.setattr(tool, "activate", lambda version, *, gated: chosen.append(version) or gated)
    tool.rollback(None)
    assert chosen == [wanted]


def test_without_an_earlier_release_rollback_says_so(tool: ModuleType) -> None:
    installed(tool, "1")
    tool.point(tool.CURRENT, str(tool.RELEASES / "1"))
    with pytest.raises(tool.ReleaseError, match="no earlier release"):
        tool.rollback(None)


def test_the_list_shows_what_runs_and_why_a_release_was_refused(tool: ModuleType) -> None:
    installed(tool, "1")
    tool.point(tool.CURRENT, str(tool.RELEASES / "1"))
    tool.note("2", "refused", "wrm-gate refused it:\n    Traceback\n    ImportError: no module x")
    listing = tool.listing()
    assert "* 1\n" in listing
    assert "2 refused\n      ImportError: no module x" in listing


def test_libraries_are_shared_and_programs_are_the_releases_own(tool: ModuleType) -> None:
    donor = tool.RELEASES / "1/venv"
    (donor / "bin").mkdir(parents=True)
    (donor / "lib").mkdir()
    (donor / "lib/big.so").write_bytes(b"\0" * 100)
    (donor / "bin/python").symlink_to(sys.executable)
    script = donor / "bin/hello"
    script.write_text(f"#!{donor}/bin/python\nimport sys\nprint(sys.argv[0])\n")
    script.chmod(0o755)
    venv = tool.RELEASES / "2/venv"
    venv.parent.mkdir()
    (donor / "pyvenv.cfg").write_text(f"home = /usr/bin\ncommand = python3 -m venv {donor}\n")
    tool._copy_environment(donor, venv)
    assert (donor / "lib/big.so").samefile(venv / "lib/big.so")
    assert (venv / "bin/hello").read_text().startswith(f"#!{venv}/bin/python\n")
    assert script.read_text().startswith(f"#!{donor}/bin/python\n")
    assert str(venv) in (venv / "pyvenv.cfg").read_text()
    assert subprocess.run([venv / "bin/hello"], capture_output=True, text=True, check=True).stdout


def came_in(tool: ModuleType, version: str, **files: bytes) -> Path:
    """A release as deploy/build-release ships it."""
    folder: Path = tool.INCOMING / version
    folder.mkdir()
    content = {"runtime.lock": b"x==1 --hash=sha256:0", "dagster.yaml": b"{}", f"wrm-{version}.whl": b"wheel", **files}
    sums = ""
    for name, body in content.items():
        (folder / name).write_bytes(body)
        sums += f"{hashlib.sha256(body).hexdigest()}  {name}\n"
    (folder / "SHA256SUMS").write_text(sums)
    return folder


def test_an_installed_version_is_not_replaced_by_another_build(tool: ModuleType) -> None:
    came_in(tool, "1")
    installed(tool, "1")
    with pytest.raises(tool.ReleaseError, match="give this one another version"):
        tool.install("1")


def test_verification_says_what_is_wrong_when_time_is_up(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.CONFIG.write_text(json.dumps({"verify_seconds": 0}))

    def fails(_since: float) -> str:
        return "no snapshot was taken"

    def cannot(_since: float) -> str:
        raise ConnectionRefusedError(111, "Connection refused")

    checks: tuple[tuple[Callable[[float], str], str], ...] = ((fails, "no snapshot was taken"), (cannot, "refused"))
    for check, word in checks:
        monkeypatch.setattr(tool, "CHECKS", (check,))
        with pytest.raises(tool.ReleaseError, match=word):
            tool.verify(0.0)


@pytest.mark.parametrize(
    ("runs", "seconds_ago", "word"),
    [
        ([], 130, "none was started"),
        ([{"status": "FAILURE", "runId": "12345678-9"}], 130, "12345678 FAILURE"),
        ([{"status": "STARTED", "runId": "12345678-9"}], 250, "12345678 STARTED"),
        ([{"status": "STARTED", "runId": "12345678-9"}, {"status": "SUCCESS", "runId": "2"}], 130, ""),
    ],
)
def test_a_snapshot_must_have_been_asked_for_and_taken_by_the_new_release(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, runs: list[dict[str, str]], seconds_ago: float, word: str
) -> None:
    tool.CONFIG.write_text(json.dumps({"verify_seconds": 120}))
    monkeypatch.setattr(tool, "CHECKS", (tool.snapshot_is_new,))
    since = time.time() - seconds_ago
    asked: list[float] = []

    def graphql(_query: str, *, since: float) -> dict[str, object]:
        asked.append(since)
        return {"runsOrError": {"results": runs}}

    monkeypatch.setattr(tool, "graphql", graphql)
    if word:
        with pytest.raises(tool.ReleaseError, match=word):
            tool.verify(since)
    else:
        tool.verify(since)
    assert asked == [since]


def test_a_run_that_is_under_way_gets_as_much_time_again(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.CONFIG.write_text(json.dumps({"verify_seconds": 120}))
    answers = iter(["STARTED", "SUCCESS"])
    monkeypatch.setattr(tool, "CHECKS", (tool.snapshot_is_new,))
    monkeypatch.setattr(
        tool,
        "graphql",
        lambda _query, **_: {"runsOrError": {"results": [{"status": next(answers), "runId": "12345678-9"}]}},
    )
    tool.verify(time.time() - 130)
    assert next(answers, None) is None


HOST = [
    {"name": "units", "status": "ok", "got": "nothing is wrong", "todo": "", "unsafe": False},
    {"name": "backup", "status": "failed", "got": "the newest backup is 30 hours old", "todo": "r", "unsafe": False},
    {"name": "journal", "status": "warning", "got": "the journal takes 1.9G", "todo": "vacuum", "unsafe": False},
]
FULL = {"name": "disk", "status": "failed", "got": "95 MiB of / are free", "todo": "Make room", "unsafe": True}


@pytest.mark.parametrize(
    ("prints", "ignore", "refused"),
    [
        (json.dumps(HOST), False, False),
        (json.dumps([*HOST, FULL]), False, True),
        (json.dumps([*HOST, FULL]), True, False),
        ("No such option: --production", False, False),
        ("7", False, False),
    ],
)
def test_what_is_wrong_with_the_host_is_said_and_only_danger_refuses_a_release(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], prints: str, ignore: bool, refused: bool
) -> None:
    program = installed(tool, "1") / "venv/bin/wrm"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\nexit 1\n")
    program.chmod(0o755)
    if refused:
        with pytest.raises(tool.ReleaseError, match="95 MiB of / are free"):
            tool.examine_host("1", ignore=ignore)
    else:
        tool.examine_host("1", ignore=ignore)
    said = capsys.readouterr().out
    if prints.startswith("["):
        assert "failed: backup: the newest backup is 30 hours old" in said
        assert "warning: journal" in said
        assert "nothing is wrong" not in said
    else:
        assert "the host was not looked at" in said
