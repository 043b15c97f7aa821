#!/usr/bin/python3
"""Releases of wrm_pipeline on this host: install one beside the others, switch to it, go back.

It runs here, not on whoever deploys, so that a lost connection leaves nothing half done.

/opt/wrm/releases/VERSION   venv, dagster.yaml, release.json (written last: the release is complete)
/opt/wrm/current            the release that daemon, web UI and exporter run
/opt/wrm/slots/blue, green  two places for a code server: `release` and the `workspace.yaml` that leads to it
/opt/wrm/active             the slot that daemon and web UI use

A release starts in the free slot while the other goes on. Then the daemon is restarted in the middle of a minute, so
that it is back for the next tick of the ingest schedule. The old code server stays until the new release has shown that
it works, so going back takes seconds; it ends when its last run has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path("/opt/wrm")
RELEASES, SLOTS = ROOT / "releases", ROOT / "slots"
CURRENT, ACTIVE = ROOT / "current", ROOT / "active"
HISTORY = Path("/var/lib/wrm-release/history.jsonl")
CONFIG = Path("/etc/wrm/release.json")
OTHER = {"blue": "green", "green": "blue"}
LOCATION = "wrm_pipeline"

# Seconds of the minute in which the daemon may be restarted. The tick at :00 has been launched by :12; a restart that
# begins by :35 is over before the next one, as it takes about 10 s.
QUIET_SECONDS = range(12, 36)


class ReleaseError(Exception):
    """The release cannot be used; the message is the reason."""


class UnderwayError(ReleaseError):
    """It may still become good: what is waited for has begun."""


# -- What there is


def config() -> dict[str, Any]:
    return json.loads(CONFIG.read_text())


def current_version() -> str | None:
    return CURRENT.readlink().name if CURRENT.is_symlink() else None


def active_slot() -> str | None:
    return ACTIVE.readlink().name if ACTIVE.is_symlink() else None


def complete_releases() -> list[str]:
    """Versions, the newest first."""
    found = sorted(RELEASES.glob("*/release.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in found]


def history() -> list[dict[str, Any]]:
    return [json.loads(line) for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []


def note(version: str, outcome: str, reason: str = "") -> None:
    HISTORY.parent.mkdir(mode=0o755, exist_ok=True)
    entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "version": version, "outcome": outcome}
    with HISTORY.open("a") as file:
        file.write(json.dumps({**entry, **({"reason": reason} if reason else {})}) + "\n")


def say(text: str) -> None:
    """Tell whoever listens; if nobody does any more, the work goes on."""
    with contextlib.suppress(OSError):
        print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ReleaseError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout.strip()


def point(link: Path, target: str) -> None:
    """Make or change a symbolic link in one step."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    with (ROOT / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReleaseError("another wrm-release is at work; wait for it") from None
        yield


# -- Install


def install(artifact: Path) -> str:
    """Make the release's own virtual environment; returns what was done."""
    version, target = artifact.name, RELEASES / artifact.name
    lock = (artifact / "runtime.lock").read_bytes()
    wheels = list(artifact.glob("*.whl"))
    if len(wheels) != 1:
        raise ReleaseError(f"{artifact} must hold one wheel, and holds {len(wheels)}")
    facts = {"lock": hashlib.sha256(lock).hexdigest(), "wheel": hashlib.sha256(wheels[0].read_bytes()).hexdigest()}
    if (target / "release.json").exists():
        if json.loads((target / "release.json").read_text()) != facts:
            raise ReleaseError(
                f"{version} is installed already, from another wheel or lock; give this one another version"
            )
        return f"{version} is there"
    if target.exists():  # an attempt that was interrupted
        shutil.rmtree(target)
    target.mkdir(mode=0o755)
    venv = target / "venv"
    donor = next((name for name in complete_releases() if _facts(name)["lock"] == facts["lock"]), None)
    if donor:
        _copy_environment(RELEASES / donor / "venv", venv)
    else:
        run("/usr/bin/python3", "-m", "venv", str(venv))
        _pip(venv, "--require-hashes", "-r", str(artifact / "runtime.lock"))
    _pip(venv, "--no-deps", "--no-index", "--force-reinstall", str(wheels[0]))
    shutil.copy(artifact / "dagster.yaml", target / "dagster.yaml")
    (target / "release.json").write_text(json.dumps(facts))
    return f"{version} is installed" + (f", with the libraries of {donor}" if donor else "")


def _facts(version: str) -> dict[str, str]:
    return json.loads((RELEASES / version / "release.json").read_text())


def _pip(venv: Path, *arguments: str) -> None:
    pip = (str(venv / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
    run("nice", *pip, "install", *arguments)


def _copy_environment(donor: Path, venv: Path) -> None:
    """The same libraries, as hard links: seconds and no space. Whatever is replaced later is replaced by a new file."""
    run("cp", "-al", str(donor), str(venv))
    for path in [*(venv / "bin").iterdir(), venv / "pyvenv.cfg"]:
        if path.is_symlink() or not path.is_file():
            continue
        text = path.read_bytes()
        if str(donor).encode() in text:
            temporary = path.with_name(f".{path.name}.new")
            temporary.write_bytes(text.replace(str(donor).encode(), str(venv).encode()))
            temporary.chmod(path.stat().st_mode & 0o777)
            temporary.replace(path)


# -- Gate


def gate(version: str, *, ignore_doctor: bool) -> None:
    """Everything that can be found out before anything depends on the release."""
    environment = Path("/run/wrm-gate.env")
    environment.write_text(f"WRM_GATE_DOCTOR={'no' if ignore_doctor else 'yes'}\n")
    say("gate: dagster definitions validate, wrm doctor, wrm smoke")
    _oneshot(f"wrm-gate@{version}.service")


def migrate(version: str) -> None:
    """Bring Dagster's database to what the release wants; a dump is made before."""
    settings = config()
    folder = Path(settings["dumps"])
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    dump = folder / f"before-{version}.dump"
    say(f"dump of the database: {dump}")
    with dump.open("wb") as file:
        dump.chmod(0o600)
        command = ("runuser", "-u", "postgres", "--", "pg_dump", "--format=custom", "--compress=1")
        done = subprocess.run(
            (*command, f"--port={settings['postgres_port']}", settings["postgres_db"]),
            stdout=file,
            stderr=subprocess.PIPE,
            cwd="/",
            text=True,
            check=False,
        )
    if done.returncode:
        raise ReleaseError(f"pg_dump: {done.stderr.strip()[-500:]}")
    for old in sorted(folder.glob("before-*.dump"), key=lambda path: path.stat().st_mtime)[: -settings["keep"]]:
        old.unlink()
    say("dagster instance migrate")
    _oneshot(f"wrm-migrate@{version}.service")


def _oneshot(unit: str) -> None:
    run("systemctl", "reset-failed", unit, check=False)
    begin = time.time()
    done = subprocess.run(("systemctl", "start", unit), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = _journal(unit, begin)
        run("systemctl", "reset-failed", unit, check=False)  # it is told here; the host itself is well
        raise ReleaseError(f"{unit.partition('@')[0]} refused it:\n{reason}")


def _journal(unit: str, since: float, lines: int = 25) -> str:
    time.sleep(1)  # the last lines of a process that has ended may be on their way
    # What its processes said; what systemd says about it is no reason.
    text = run("journalctl", f"_SYSTEMD_UNIT={unit}", f"--since=@{int(since)}", "-o", "cat", "--no-pager", check=False)
    kept = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"    {line[:300]}" for line in kept[-lines:])


# -- Switch


def code_unit(slot: str) -> str:
    return f"dagster-code@{slot}.service"


def start_slot(slot: str, version: str) -> None:
    """Start the release's code server in the free slot."""
    begin = time.time()
    told = False
    stop_slot(slot)  # it may run, if the machine was restarted in the middle of a switch
    while run("systemctl", "show", "-P", "ActiveState", code_unit(slot)) in {"active", "deactivating", "activating"}:
        if not told:
            say(f"the code server before the last one still waits for its runs; so does this ({code_unit(slot)})")
            told = True
        if time.time() - begin > 1000:
            raise ReleaseError(f"{code_unit(slot)} does not end; look at its runs")
        time.sleep(2)
    place = SLOTS / slot
    point(place / "release", f"{RELEASES}/{version}")
    server = {"socket": f"/run/wrm-code-{slot}/grpc.sock", "location_name": LOCATION}
    (place / "workspace.yaml").write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
    run("systemctl", "reset-failed", code_unit(slot), check=False)
    say(f"code server of {version} in {slot}")
    begin = time.time()
    try:
        run("systemctl", "start", code_unit(slot))
    except ReleaseError:
        stop_slot(slot)
        raise ReleaseError(f"its code server does not start:\n{_journal(code_unit(slot), begin)}") from None


def stop_slot(slot: str) -> None:
    """Let a code server end when its runs have ended; does not wait."""
    run("systemctl", "disable", "--quiet", code_unit(slot), check=False)
    run("systemctl", "stop", "--no-block", code_unit(slot), check=False)


def wait_for_quiet() -> None:
    """Until the ingest tick of this minute is over and the next one is far enough."""
    while int(time.time()) % 60 not in QUIET_SECONDS:
        time.sleep(0.5)


def lead_to(slot: str, version: str) -> float:
    """Daemon, web UI and exporter to the release in `slot`; returns when the daemon was told."""
    run(
        "systemctl",
        "enable",
        "--quiet",
        code_unit(slot),
        "wrm.target",
        "dagster-daemon",
        "dagster-webserver",
        "wrm-exporter",
    )
    point(CURRENT, f"{RELEASES}/{version}")
    point(ACTIVE, f"{SLOTS}/{slot}")
    point(Path(config()["dagster_home"]) / "dagster.yaml", f"{CURRENT}/dagster.yaml")
    begin = time.time()
    say("daemon")
    run("systemctl", "restart", "dagster-daemon")
    say("web UI and exporter")
    run("systemctl", "restart", "dagster-webserver", "wrm-exporter")
    run("systemctl", "start", "wrm.target")
    return begin


# -- Verify


def ask(url: str, body: dict[str, Any] | None = None) -> bytes:
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, json.dumps(body).encode() if body else None, timeout=10) as answer:
        return answer.read()


def graphql(query: str, **variables: Any) -> Any:
    answer = json.loads(ask(f"{config()['webserver']}/graphql", {"query": query, "variables": variables}))
    if answer.get("errors"):
        raise ReleaseError(str(answer["errors"])[:500])
    return answer["data"]


def ui_answers(_since: float) -> str:
    query = """{ workspaceOrError { ... on Workspace { locationEntries {
        locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
    entries = graphql(query)["workspaceOrError"]["locationEntries"]
    found = [entry["locationOrLoadError"] for entry in entries]
    if [entry and entry["__typename"] for entry in found] == ["RepositoryLocation"]:
        return ""
    return f"the web UI answers, but has not loaded the code: {found}"


def heartbeats_are_fresh(since: float) -> str:
    statuses = graphql(
        "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime } } } }"
    )["instance"]["daemonHealth"]["allDaemonStatuses"]
    old = [s["daemonType"] for s in statuses if s["required"] and (s["lastHeartbeatTime"] or 0) < since]
    return f"no heartbeat of {', '.join(old)}" if old else ""


def snapshot_is_new(since: float) -> str:
    """An ingest run that the new schedule asked for has ended well; one that was queued before shows nothing."""
    query = """query ($since: Float!) { runsOrError(limit: 10, filter: {
        pipelineName: "wrm_stations_ingest_job", createdAfter: $since}) {
        ... on Runs { results { status runId } } ... on PythonError { message } } }"""
    results = graphql(query, since=since)["runsOrError"].get("results", [])
    states = {result["status"] for result in results}
    if "SUCCESS" in states:
        return ""
    seen = ", ".join(f"{result['runId'][:8]} {result['status']}" for result in results) or "none was started"
    text = f"no snapshot was taken: of the ingest runs since the switch, {seen}"
    if states and not states & {"FAILURE", "CANCELED"}:
        raise UnderwayError(text)
    return text


def exporter_answers(_since: float) -> str:
    return "" if b"exporter_up" in ask(f"{config()['exporter']}/metrics") else "the exporter serves no metrics"


CHECKS: tuple[Callable[[float], str], ...] = (ui_answers, exporter_answers, heartbeats_are_fresh, snapshot_is_new)


def verify(since: float) -> None:
    """Until all is well; raises with what is not when time is up. What is under way gets as much time again."""
    seconds = config()["verify_seconds"]
    left = list(CHECKS)
    while left:
        allowed = seconds
        try:
            wrong = left[0](since)
        except UnderwayError as error:
            wrong, allowed = str(error), 2 * seconds
        except (OSError, ValueError, KeyError, ReleaseError) as error:
            wrong = f"{left[0].__name__.replace('_', ' ')}: {error}"
        if not wrong:
            say(f"verified: {left.pop(0).__name__.replace('_', ' ')} ({time.time() - since:.0f} s after the switch)")
        elif time.time() > since + allowed:
            raise ReleaseError(f"it runs, but {wrong}")
        else:
            time.sleep(1)


# -- What is done as a whole


def activate(version: str, *, gated: bool = True, ignore_doctor: bool = False) -> None:
    """Switch to an installed release, or stay with what is, and raise the reason."""
    if version not in complete_releases():
        raise ReleaseError(f"{version} is not installed; there are: {', '.join(complete_releases()) or 'none'}")
    before, old_slot = current_version(), active_slot()
    slot = OTHER[old_slot] if old_slot else "blue"
    switched = False
    try:
        if gated:
            gate(version, ignore_doctor=ignore_doctor)
            migrate(version)
        start_slot(slot, version)
        if before:
            wait_for_quiet()
        switched = True
        since = lead_to(slot, version)
        verify(since)
    except ReleaseError as error:
        reason = str(error)
        note(version, "refused" if not switched else "rolled back", reason)
        if not (before and old_slot):
            abandon_first(slot)
            raise ReleaseError(reason) from None
        if not switched:
            stop_slot(slot)
            raise ReleaseError(f"{version} was not switched to, {before} goes on. The reason: {reason}") from None
        say(f"back to {before}: {reason}")
        try:
            lead_to(old_slot, before)
        except ReleaseError as trouble:
            raise ReleaseError(
                f"{version} does not work ({reason}), and going back to {before} failed: {trouble}"
            ) from None
        stop_slot(slot)
        raise ReleaseError(f"{version} was rolled back, {before} runs again. The reason: {reason}") from None
    note(version, "active")
    if old_slot:
        stop_slot(old_slot)
    say(f"{version} is active")


def abandon_first(slot: str) -> None:
    """Stop what was the first release on this host, so that the next attempt begins anew."""
    run("systemctl", "stop", "dagster-daemon", "dagster-webserver", "wrm-exporter", check=False)
    stop_slot(slot)
    CURRENT.unlink(missing_ok=True)
    ACTIVE.unlink(missing_ok=True)


def rollback(version: str | None) -> None:
    if version is None:
        earlier = [entry["version"] for entry in history() if entry["outcome"] == "active"]
        there = complete_releases()
        version = next((name for name in reversed(earlier) if name != current_version() and name in there), None)
    if version is None:
        raise ReleaseError("there is no earlier release to go back to")
    activate(version, gated=False)


def is_stale() -> bool:
    """Whether settings, credentials or units are newer than what runs with them."""
    slot = active_slot()
    if slot is None:
        return False
    started = run("systemctl", "show", "-P", "ActiveEnterTimestamp", "--timestamp=unix", code_unit(slot)).lstrip("@")
    if not started.isdigit():
        return True
    units = Path("/etc/systemd/system")
    looked_at = [
        Path("/etc/wrm/wrm.env"),
        Path("/etc/wrm/credentials"),
        *Path("/etc/wrm/credentials").iterdir(),
        *units.glob("dagster-*.service"),
        units / "wrm-exporter.service",
    ]
    return any(path.stat().st_mtime > int(started) + 1 for path in looked_at if path.exists())


def prune() -> None:
    """Remove releases: those that were never good, and the oldest beyond those to be kept. What runs stays."""
    if current_version() is None:
        return
    good = dict.fromkeys(entry["version"] for entry in reversed(history()) if entry["outcome"] == "active")
    wanted = {current_version(), *list(good)[: config()["keep"]]}
    wanted |= {link.readlink().name for link in SLOTS.glob("*/release") if _runs(link)}
    for folder in [*RELEASES.iterdir(), *(ROOT / "incoming").iterdir()]:
        if folder.name not in wanted:
            shutil.rmtree(folder)
            if folder.parent == RELEASES:
                say(f"removed {folder.name}")


def _runs(link: Path) -> bool:
    return run("systemctl", "show", "-P", "ActiveState", code_unit(link.parent.name)) not in {"inactive", "failed"}


def listing() -> str:
    lines = [f"{'*' if name == current_version() else ' '} {name}" for name in complete_releases()]
    done = []
    for entry in history()[-10:]:
        done.append(f"  {entry['at']} {entry['version']} {entry['outcome']}")
        done += [f"      {line.strip()}" for line in entry.get("reason", "").splitlines()[-1:]]
    return "\n".join([*lines, "", "Last switches:", *done])


def main() -> int:
    parser = argparse.ArgumentParser(prog="wrm-release", description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("current", help="the version that runs")
    verbs.add_parser("list", help="what is installed, and the last switches")
    adding = verbs.add_parser("install", help="install a release from its folder, beside the others")
    adding.add_argument("folder", type=Path)
    switching = verbs.add_parser("activate", help="gate, switch, verify; back by itself if that fails")
    switching.add_argument("version")
    switching.add_argument("--ignore-doctor", action="store_true", help="though `wrm doctor` finds something broken")
    back = verbs.add_parser("rollback", help="switch to the release before, or to VERSION; without gate or migration")
    back.add_argument("version", nargs="?")
    verbs.add_parser("refresh", help="restart with changed settings, if they are newer than what runs")
    verbs.add_parser("restart", help="restart everything, as for a release: no snapshot is missed, no run is lost")
    options = parser.parse_args()
    if options.verb == "current":
        print(current_version() or "")
        return 0
    if options.verb == "list":
        print(listing())
        return 0
    if os.geteuid() != 0:
        return _fail("only root may do that")
    # Whoever started this may go away; a switch that has begun is finished.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with only_one():
            change(options)
    except ReleaseError as error:
        return _fail(str(error))
    return 0


def change(options: argparse.Namespace) -> None:
    if options.verb == "install":
        print(install(options.folder))
    elif options.verb in {"activate", "rollback"}:
        try:
            if options.verb == "activate":
                activate(options.version, ignore_doctor=options.ignore_doctor)
            else:
                rollback(options.version)
        finally:
            prune()
    else:
        version = current_version()
        if version is None:
            raise ReleaseError("nothing runs yet; activate a release")
        if options.verb == "restart" or is_stale():
            activate(version, gated=False)
            print("restarted")
        else:
            print("fresh")


def _fail(text: str) -> int:
    print(f"wrm-release: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
