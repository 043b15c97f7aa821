"""The release tool among hostile arguments, stray files, damaged records, and on a disk that is full."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wrm_pipeline_tests.unit.test_release_tool import came_in, installed, load_tool, names
from wrm_pipeline_tests.unit.test_release_tool import tool as tool  # noqa: PLC0414 - a fixture


def tree(folder: Path) -> dict[str, str]:
    """Everything below a folder, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path.relative_to(folder))] = "folder"
    return found


def command(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The tool as root would call it; nothing it starts is started."""
    monkeypatch.setattr(sys, "argv", ["wrm-release", *arguments])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tool.signal, "signal", lambda *_: None)
    monkeypatch.setattr(tool, "run", lambda *_command, **_: "")
    try:
        return int(tool.main())
    except SystemExit as error:  # argparse
        return int(error.code or 0)


def running(tool: ModuleType) -> None:
    """Two good releases, the second one in use."""
    for version in ("1", "2"):
        installed(tool, version)
    tool.point(tool.CURRENT, str(tool.RELEASES / "2"))
    tool.point(tool.SLOTS / "blue/release", str(tool.RELEASES / "2"))
    tool.point(tool.ACTIVE, str(tool.SLOTS / "blue"))


# -- Arguments

PARTS = st.sampled_from(
    [".", "..", "", "1", "2", "3", "new", "releases", "incoming", "opt", "current", "~", "*", "$HOME"]
)
PATHS = st.lists(PARTS, min_size=1, max_size=6).map("/".join)
WORDS = st.one_of(PATHS, PATHS.map(lambda path: f"/{path}"), st.text(max_size=20))


@settings(max_examples=150, deadline=None)
@given(verb=st.sampled_from(["install", "activate", "rollback"]), word=WORDS)
@example("install", ".")
@example("install", "..")
@example("install", "new/..")
@example("install", "new/../..")
@example("install", "new/")
@example("install", "new\n")
@example("install", "./new")
@example("install", "../releases/1")
@example("install", "")
@example("install", "-rf")
@example("install", "new\0")
@example("install", "1" * 101)
@example("rollback", "../current")
@example("activate", "1/../2")
def test_only_names_are_taken_and_nothing_but_that_release_is_touched(verb: str, word: str) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        folder = Path(name)
        tool = load_tool(folder)
        running(tool)
        came_in(tool, "new")
        (folder / "etc").mkdir()
        (folder / "etc/passwd").write_text("root")
        # As if somebody stood in the folder that came in, or above it.
        monkeypatch.chdir(tool.INCOMING / "new")
        monkeypatch.setattr(tool, "activate", lambda version, **_: tool.checked_name(version))
        monkeypatch.setattr(tool, "_fill", lambda target, *_: (target / "venv").mkdir())
        before = tree(folder)
        status = command(tool, monkeypatch, verb, word)
        after = tree(folder)
        good = tool.NAME.fullmatch(word) is not None
        if not good:
            assert status != 0
        allowed = f"opt/releases/{word}" if good else "/"
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        # What came in for a release that is not wanted goes with the pruning after a switch.
        pruned = {path for path in changed if verb != "install" and good and path.startswith("opt/incoming/new")}
        assert all(path == allowed or path.startswith(f"{allowed}/") for path in changed - pruned), changed
        assert {"opt/releases/1", "opt/releases/2"} <= after.keys()


@pytest.mark.parametrize(
    "what", ["incoming is a link", "wheel", "runtime.lock", "dagster.yaml", "SHA256SUMS", "release"]
)
def test_links_lead_nowhere(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    running(tool)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = came_in(tool, "new")
    if what == "incoming is a link":
        folder.rename(outside / "new")
        folder.symlink_to(outside / "new")
    elif what == "release":
        (tool.RELEASES / "new").symlink_to(outside)
    else:
        path = next(folder.glob("*.whl")) if what == "wheel" else folder / what
        path.rename(outside / path.name)
        path.symlink_to(outside / path.name)
    before = tree(tmp_path)
    assert command(tool, monkeypatch, "install", "new") == 1
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["runtime.lock", "dagster.yaml", "wrm-new.whl"])
def test_what_did_not_arrive_as_built_is_refused(tool: ModuleType, name: str) -> None:
    folder = came_in(tool, "new")
    (folder / name).write_bytes(b"cut of")
    with pytest.raises(tool.ReleaseError, match=f"{name}.*SHA256SUMS"):
        tool.install("new")
    assert names(tool.RELEASES) == set()


def test_an_installation_that_fails_leaves_nothing_and_the_next_one_works(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    came_in(tool, "new")

    def fails(target: Path, *_: Any) -> None:
        (target / "venv").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tool, "_fill", fails)
    with pytest.raises(tool.ReleaseError, match="No space left"):
        tool.install("new")
    assert names(tool.RELEASES) == set()
    monkeypatch.setattr(tool, "_fill", lambda *_: None)
    assert tool.install("new") == "new is installed"
    assert tool.complete_releases() == ["new"]


def test_a_running_release_is_not_removed_though_its_record_is_lost(tool: ModuleType) -> None:
    running(tool)
    came_in(tool, "2")
    (tool.RELEASES / "2/release.json").unlink()
    with pytest.raises(tool.ReleaseError, match="in use"):
        tool.install("2")
    assert (tool.RELEASES / "2/venv/bin").is_dir()


# -- Stray files and damaged records


def _stray_everywhere(tool: ModuleType, outside: Path) -> None:
    outside.mkdir()
    (outside / "precious").write_text("x")
    for place in (tool.RELEASES, tool.INCOMING, tool.SLOTS):
        (place / "notes.txt").write_text("do not forget")
        (place / "away").symlink_to(outside)
        (place / "nowhere").symlink_to("/nonexistent/x")
        (place / "lost+found").mkdir()
        (place / ".hidden").mkdir()
        (place / "-rf").mkdir()
        os.mkfifo(place / "pipe")
    (tool.RELEASES / "away2").mkdir()
    (tool.RELEASES / "away2/release.json").symlink_to("/nonexistent")
    (tool.RELEASES / "1/venv/bin/outside").symlink_to(outside)
    (tool.SLOTS / "green/release").mkdir()


def test_stray_files_stay_and_hinder_nobody(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running(tool)
    for version in ("3", "4"):
        installed(tool, version)
    installed(tool, "bad", outcome="refused")
    (tool.RELEASES / "bad/venv/bin/outside").symlink_to(tmp_path / "outside")
    _stray_everywhere(tool, tmp_path / "outside")
    assert command(tool, monkeypatch, "list") == 0
    assert "* 2" in capsys.readouterr().out
    tool.prune()
    assert (tmp_path / "outside/precious").exists()
    strays = {"notes.txt", "away", "nowhere", "lost+found", ".hidden", "-rf", "pipe"}
    assert names(tool.RELEASES) == {"2", "3", "4", *strays}
    assert names(tool.INCOMING) == strays
    assert tool.earlier_release() == "4"


HUGE = b'{"version": "9", "outcome": "active", "reason": "' + b"x" * 2**17 + b'"}'
DAMAGE: dict[str, bytes] = {
    "cut off in mid-line": b'{"at": "2026-11-28T04:00:00+00:00", "vers',
    "binary": bytes(range(256)) * 40,
    "zeros after a power cut": bytes(5000),
    "a huge line": HUGE,
    "deep nesting": b"[" * 60000,
    "not an object": b'null\n7\n"x"\n[]\n{}',
    "wrong types": b'{"version": 7, "outcome": "active"}\n{"version": "1", "outcome": null}',
    "names that are paths": b'{"version": "../..", "outcome": "active"}\n{"version": "/etc", "outcome": "active"}',
    "a number of 5000 digits": b'{"version": "1", "outcome": "active", "at": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("alone", [False, True], ids=["among good lines", "alone"])
def test_a_damaged_history_costs_its_own_lines_only(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str, alone: bool
) -> None:
    running(tool)
    good = b"" if alone else tool.HISTORY.read_bytes()
    tool.HISTORY.write_bytes(DAMAGE[damage] + (b"\n" + good if good else b""))
    assert command(tool, monkeypatch, "list") == 0
    assert "cannot be read" in capsys.readouterr().out
    assert tool.earlier_release() == "1"
    tool.prune()
    assert names(tool.RELEASES) == {"1", "2"}
    # After a line that was cut off, the next one is a line of its own.
    tool.HISTORY.write_bytes(good + DAMAGE[damage])
    tool.note("2", "active")
    entries, _ = tool.history()
    assert entries[-1]["version"] == "2"


@pytest.mark.parametrize("what", ["missing", "folder", "pipe", "dangling link", "no folder"])
def test_a_history_that_is_not_a_file(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    running(tool)
    tool.HISTORY.unlink()
    if what == "folder":
        tool.HISTORY.mkdir()
    elif what == "pipe":
        os.mkfifo(tool.HISTORY)
    elif what == "dangling link":
        tool.HISTORY.symlink_to("/nonexistent/x")
    elif what == "no folder":
        tool.HISTORY.parent.rmdir()
        tool.HISTORY.parent.write_text("a file")
    assert command(tool, monkeypatch, "list") == 0
    assert tool.earlier_release() == "1"
    tool.note("2", "active")  # says so if it cannot
    tool.prune()
    assert names(tool.RELEASES) == {"1", "2"}


def test_only_the_end_of_a_very_long_history_counts(tool: ModuleType) -> None:
    running(tool)
    line = json.dumps({"at": "x", "version": "1", "outcome": "refused"}).encode() + b"\n"
    tool.HISTORY.write_bytes(line * 60000 + tool.HISTORY.read_bytes())
    entries, damaged = tool.history()
    assert (entries[-1]["version"], damaged) == ("2", 0)
    assert len(entries) < 30000


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", bytes(100), None])
def test_without_its_own_settings_it_works_with_what_the_playbook_gives_by_default(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    running(tool)
    tool.CONFIG.unlink()
    if content is not None:
        tool.CONFIG.write_bytes(content)
    assert tool.config() == tool.DEFAULTS
    assert command(tool, monkeypatch, "list") == 0
    tool.prune()


def test_a_release_with_a_damaged_record_is_nobodys_donor(tool: ModuleType) -> None:
    installed(tool, "1")
    for content in (b"", b"{", b"[]", bytes(50)):
        (tool.RELEASES / "1/release.json").write_bytes(content)
        assert tool._facts("1") == {}
    came_in(tool, "1")
    with pytest.raises(tool.ReleaseError, match="another version"):
        tool.install("1")


@pytest.mark.parametrize("target", ["/etc", "/opt/wrm/slots/../../..", "blue", ""])
def test_a_damaged_link_is_named_and_nothing_is_stopped(tool: ModuleType, target: str) -> None:
    running(tool)
    tool.ACTIVE.unlink()
    tool.ACTIVE.symlink_to(target) if target else tool.ACTIVE.write_text("")
    with pytest.raises(tool.ReleaseError, match="ln -sfn"):
        tool.activate("1", gated=False)
    tool.CURRENT.unlink()
    tool.CURRENT.symlink_to(target) if target else tool.CURRENT.write_text("")
    assert tool.current_version() is None
    tool.prune()
    assert names(tool.RELEASES) == {"1", "2"}


# -- Going back


def switching(tool: ModuleType, **stubs: Callable[..., object]) -> list[str]:
    """What runs on a host is replaced; returns the commands that would have been started."""
    commands: list[str] = []

    def run(*words: str, check: bool = True) -> str:
        commands.append(" ".join(words))
        return ""

    nothing = {"gate", "migrate", "start_slot", "stop_slot", "wait_for_quiet", "verify"}
    for name, stub in {**dict.fromkeys(nothing, lambda *_, **__: None), "run": run, **stubs}.items():
        setattr(tool, name, stub)
    return commands


def fails(error: BaseException) -> Callable[..., object]:
    def stub(*_: Any, **__: Any) -> None:
        raise error

    return stub


NO_SPACE = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [NO_SPACE, KeyError("data"), KeyboardInterrupt(), RuntimeError("x")], ids=repr)
@pytest.mark.parametrize("where", ["gate", "migrate", "start_slot", "wait_for_quiet", "verify"])
def test_whatever_happens_the_old_release_goes_on(tool: ModuleType, where: str, error: BaseException) -> None:
    running(tool)
    installed(tool, "3", outcome="")
    switching(tool, **{where: fails(error)})
    with pytest.raises(tool.ReleaseError, match=r"2 (goes on|runs again)"):
        tool.activate("3")
    assert tool.current_version() == "2"
    assert tool.active_slot() == "blue"
    assert tool.history()[0][-1]["outcome"] in {"refused", "rolled back"}


def test_going_back_does_not_depend_on_a_note(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    running(tool)
    installed(tool, "3", outcome="")
    commands = switching(tool, verify=fails(tool.ReleaseError("no snapshot")))
    monkeypatch.setattr(tool.os, "write", fails(NO_SPACE))
    with pytest.raises(tool.ReleaseError, match=r"2 runs again\. The reason: no snapshot"):
        tool.activate("3")
    assert tool.current_version() == "2"
    assert commands.count("systemctl restart dagster-daemon.service") == 2


def test_going_back_goes_on_though_a_step_of_it_fails(tool: ModuleType) -> None:
    running(tool)
    installed(tool, "3", outcome="")
    commands: list[str] = []
    enables = []

    def run(*words: str, check: bool = True) -> str:
        commands.append(" ".join(words))
        if words[1] == "enable" and check:
            enables.append(1)
            if len(enables) > 1:
                raise tool.ReleaseError("Failed to enable unit: No space left on device")
        return ""

    switching(tool, run=run, verify=fails(tool.ReleaseError("no snapshot")))
    with pytest.raises(tool.ReleaseError, match="2 runs again"):
        tool.activate("3")
    assert tool.current_version() == "2"
    after = commands[commands.index("systemctl restart dagster-daemon.service") + 1 :]
    assert "systemctl restart dagster-daemon.service" in after
    assert any("restart dagster-webserver.service wrm-exporter.service" in line for line in after)


def test_two_at_once(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    running(tool)
    before = tree(tool.ROOT)
    with tool.only_one():
        assert command(tool, monkeypatch, "rollback") == 1
        assert command(tool, monkeypatch, "install", "2") == 1
    assert "at work" in capsys.readouterr().err
    assert tree(tool.ROOT) == before
    with tool.only_one():
        pass


# -- A full disk


def _on_a_full_disk(folder: str, problems: str) -> None:
    from wrm_pipeline_tests.faults.mount_namespace import enter_namespace, fill, mount_tmpfs

    disk = Path(folder)
    try:
        enter_namespace()
    except OSError as error:
        Path(problems).write_text(str(error))
        sys.exit(77)
    try:
        mount_tmpfs(disk, 256)
        tool = load_tool(disk)
        running(tool)
        installed(tool, "3", outcome="")

        def verify(_since: float) -> None:
            fill(disk)
            fails(tool.ReleaseError("it ingests nothing"))()

        switching(tool, verify=verify)
        with pytest.raises(tool.ReleaseError, match=r"2 runs again\. The reason: it ingests nothing"):
            tool.activate("3")
        assert (tool.current_version(), tool.active_slot()) == ("2", "blue")
        # The disk is full from the beginning: nothing is switched to, or it is and works; a rollback by hand works.
        with contextlib.suppress(tool.ReleaseError):
            tool.activate("3")
        switching(tool)
        tool.rollback("1")
        assert tool.current_version() == "1"
        with tool.only_one():
            came = tool.INCOMING / "4"
            with contextlib.suppress(OSError):
                came.mkdir()
                (came / "runtime.lock").write_bytes(bytes(100_000))
            with pytest.raises(tool.ReleaseError):
                tool.install("4")
            tool.listing()
            tool.prune()
        assert tool.current_version() == "1"
    except BaseException:  # noqa: BLE001 - it goes to the parent
        Path(problems).write_text(traceback.format_exc())
        sys.exit(1)


def test_going_back_on_a_full_disk(tmp_path: Path) -> None:
    problems = tmp_path / "problems"
    process = multiprocessing.get_context("spawn").Process(
        target=_on_a_full_disk, args=(str(tmp_path / "disk"), str(problems))
    )
    process.start()
    process.join(120)
    said = problems.read_text() if problems.exists() else ""
    if process.exitcode == 77:
        pytest.skip(f"no mount namespace here: {said}")
    assert process.exitcode == 0, said


# -- Hashes

LOCK = """# by uv
libone[extra]==1.0 ; python_version < '4' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via x
Lib_Two==2.0 --hash=sha256:cc
only-on-windows==3.0 ; sys_platform == 'win32' --hash=sha256:dd
"""


def environment(tool: ModuleType, version: str = "1", lock: str = LOCK) -> Path:
    """An installed release with three packages; returns its site-packages."""
    folder = installed(tool, version, lock=hashlib.sha256(lock.encode()).hexdigest())
    (folder / "runtime.lock").write_text(lock)
    site: Path = folder / "venv/lib/python3.11/site-packages"
    for package, number in (("libone", "1.0"), ("lib_two", "2.0"), ("wrm_pipeline", "0.1")):
        info = site / f"{package}-{number}.dist-info"
        info.mkdir(parents=True)
        (site / package).mkdir()
        body = f"name = {package!r}\n".encode()
        (site / package / "__init__.py").write_bytes(body)
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        record = f"{package}/__init__.py,sha256={digest},1\n{info.name}/RECORD,,\n../../../bin/{package},sha256=x,1\n"
        (info / "RECORD").write_text(record)
    return site


def test_an_environment_as_the_lock_names_it_passes(tool: ModuleType) -> None:
    site = environment(tool)
    (site / "libone/__pycache__").mkdir()
    (site / "libone/__pycache__/__init__.cpython-311.pyc").write_bytes(b"x")
    assert tool.check_hashes("1") == "6 files of 3 packages"


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed file": (lambda site: (site / "libone/__init__.py").write_text("evil"), "libone/__init__.py is not as"),
    "a missing file": (lambda site: (site / "lib_two/__init__.py").unlink(), "lib_two/__init__.py is not as"),
    "a foreign module": (lambda site: (site / "evil.py").write_text("x"), "evil.py does not belong"),
    "a foreign .pth": (lambda site: (site / "evil.pth").write_text("import os"), "evil.pth does not belong"),
    "a foreign link": (lambda site: (site / "evil").symlink_to("/tmp"), "evil does not belong"),
    "a foreign package": (
        lambda site: (site / "libone-1.0.dist-info").rename(site / "other-1.0.dist-info"),
        "other.* does not belong",
    ),
    "another version": (
        lambda site: (site / "libone-1.0.dist-info").rename(site / "libone-1.1.dist-info"),
        "libone 1.1.* does not belong",
    ),
    "another lock": (lambda site: (site.parents[3] / "runtime.lock").write_text("x==1"), "not the lock"),
    "no lock": (lambda site: (site.parents[3] / "runtime.lock").unlink(), "runtime.lock is missing"),
    "no record": (lambda site: (site.parents[3] / "release.json").write_text("{"), "not the lock"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_the_gate_refuses_an_environment_that_is_not_its_locks(tool: ModuleType, how: str) -> None:
    spoil, word = SPOILED[how]
    spoil(environment(tool))
    with pytest.raises(tool.ReleaseError, match=word):
        tool.check_hashes("1")
    assert not tool._is_sound("1")  # nor does another release take its libraries


def test_a_lock_without_hashes_is_refused(tool: ModuleType) -> None:
    environment(tool, lock="libone==1.0\nlib_two==2.0 --hash=sha256:cc\n")
    with pytest.raises(tool.ReleaseError, match="no hash for libone"):
        tool.check_hashes("1")


def test_the_repositorys_own_lock_is_read(tool: ModuleType) -> None:
    lock = (Path(__file__).parents[2] / "deploy/runtime.lock").read_text()
    found, unhashed = tool.locked_versions(lock)
    assert {"dagster", "pyarrow", "duckdb"} <= found.keys()
    assert unhashed == []
    assert sum(map(len, found.values())) == sum("==" in line.split(" ")[0] for line in lock.splitlines())
