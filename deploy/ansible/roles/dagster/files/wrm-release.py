#!/usr/bin/python3
"""Releases of wrm_pipeline on this host: install one next to the others, switch to it, roll back.

It runs here, not on the deploying machine, so that a lost connection leaves nothing half done.

/opt/wrm/releases/VERSION   venv, dagster.yaml, release.json (written last: the release is complete)
/opt/wrm/current            the release that daemon, web UI and exporter run
/opt/wrm/slots/blue, green  two places for a code server: `release` and the `workspace.yaml` that leads to it
/opt/wrm/active             the slot that daemon and web UI use

Arguments are names of releases, as made by deploy/build-release, and never paths. Only folders with such a name
directly below releases or incoming are removed, and only if they neither run nor are needed for a rollback.

A release starts in the free slot while the other continues. Then the daemon is restarted in the middle of a minute, so
that it is back for the next tick of the ingest schedule. The old code server stays until the new release is verified,
so a rollback takes seconds; it ends when its last run has ended.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path("/opt/wrm")
RELEASES, INCOMING, SLOTS = ROOT / "releases", ROOT / "incoming", ROOT / "slots"
CURRENT, ACTIVE = ROOT / "current", ROOT / "active"
HISTORY = Path("/var/lib/wrm-release/history.jsonl")
CONFIG = Path("/etc/wrm/release.json")
OTHER = {"blue": "green", "green": "blue"}
# The module that puts the web server on its socket.
LAUNCHER = Path("/usr/local/lib/wrm/webserver.py")
LOCATION = "wrm_pipeline"
# As in deploy/build-release. Such a name cannot be a path, an option or one of the hidden files that are created here.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The units that depend on the release in use.
FOLLOWERS = ("dagster-daemon.service", "dagster-webserver.service", "wrm-exporter.service")
SOCKETS = ("dagster-webserver.socket", "dagster-look.socket")
# Systemd starts it on the first request.
LOOK = "dagster-look.service"
# Written to CONFIG by the playbook; a rollback must work without it.
DEFAULTS: dict[str, Any] = {
    "keep": 3,
    "verify_seconds": 120,
    "webserver": "/run/wrm-web/ui.sock",
    "exporter": "http://127.0.0.1:8000",
    "postgres_port": 5432,
    "postgres_db": "wrm",
    "dagster_home": "/var/lib/wrm/dagster",
    "dumps": "/var/backups/wrm",
}
# Bytes of the history that are read, and of one line of it.
HISTORY_BYTES, LINE_BYTES = 2**20, 2**16

# Seconds of the minute in which the daemon may be restarted. The tick at :00 has been launched by :12; a restart that
# begins by :35 is over before the next one, as it takes about 10 s.
QUIET_SECONDS = range(12, 36)


class ReleaseError(Exception):
    """The release cannot be used; the message is the reason."""


class UnderwayError(ReleaseError):
    """It may still succeed: the awaited step has begun."""


# -- What there is


def config() -> dict[str, Any]:
    try:
        given = dict(json.loads(CONFIG.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        say(f"{CONFIG} cannot be read ({error}), so defaults are used; the playbook's tag `dagster` writes it again")
        given = {}
    return {**DEFAULTS, **given}


def checked_name(text: str) -> str:
    """The text, if it is the name of a release.

    Raises:
        ReleaseError: it is not, say a path.
    """
    if not NAME.fullmatch(text):
        raise ReleaseError(
            f"{text!r} is not the name of a release: give the name alone, not a path; letters, digits, . _ - only, the "
            "first a letter or digit, at most 100"
        )
    return text


def _is_folder(path: Path) -> bool:
    """A folder itself, not a link to one."""
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(path.lstat().st_mode)
    return False


def _is_file(path: Path) -> bool:
    """A regular file itself, not a link to one."""
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def _leads_to(link: Path, folder: Path) -> str | None:
    """The name directly below `folder` to which the link leads, or None."""
    try:
        target = link.readlink()
    except OSError:
        return None
    return target.name if target.parent == folder and NAME.fullmatch(target.name) else None


def current_version() -> str | None:
    return _leads_to(CURRENT, RELEASES)


def active_slot() -> str | None:
    """The slot in use; None on a host without a release.

    Raises:
        ReleaseError: the link is damaged, and guessing might stop the code server that runs.
    """
    if not os.path.lexists(ACTIVE):
        return None
    slot = _leads_to(ACTIVE, SLOTS)
    if slot not in OTHER:
        raise ReleaseError(
            f"{ACTIVE} leads to neither {SLOTS}/blue nor {SLOTS}/green. See which of dagster-code@blue and @green is "
            f"active, and: ln -sfn {SLOTS}/blue {ACTIVE} (or green)"
        )
    return slot


def complete_releases() -> list[str]:
    """Versions, newest first. Anything else there is ignored."""
    found = []
    with contextlib.suppress(OSError):
        for folder in RELEASES.iterdir():
            if NAME.fullmatch(folder.name) and _is_folder(folder) and _is_file(folder / "release.json"):
                with contextlib.suppress(OSError):
                    found.append(((folder / "release.json").lstat().st_mtime, folder.name))
    return [name for _, name in sorted(found, reverse=True)]


def history() -> tuple[list[dict[str, str]], int]:
    """The entries of the history, oldest first, and the number of unreadable lines. Of a very long file only the end is
    read."""
    if not _is_file(HISTORY):
        return [], 0
    try:
        with HISTORY.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - HISTORY_BYTES))
            lines = file.read(HISTORY_BYTES).split(b"\n")
    except OSError as error:
        say(f"{HISTORY} cannot be read: {error}")
        return [], 0
    if size > HISTORY_BYTES:
        lines = lines[1:]  # cut off at its beginning
    entries = [_entry(line) for line in lines if line.strip()]
    good = [entry for entry in entries if entry]
    return good, len(entries) - len(good)


def _entry(line: bytes) -> dict[str, str] | None:
    if len(line) > LINE_BYTES:
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("version", "outcome")):
        return None
    if not NAME.fullmatch(entry["version"]):
        return None
    return {key: str(entry.get(key, "")) for key in ("at", "version", "outcome", "reason")}


def note(version: str, outcome: str, reason: str = "") -> None:
    """Write an entry to the history. A failure is reported, but stops nothing: a rollback is more important."""
    entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "version": version, "outcome": outcome}
    line = json.dumps({**entry, **({"reason": reason[-4000:]} if reason else {})}).encode() + b"\n"
    try:
        HISTORY.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(HISTORY, flags, 0o644), "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            # A truncated line (the disk was full) must not damage this one.
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                line = b"\n" + line
            while line:
                line = line[os.write(file.fileno(), line) :]
    except OSError as error:
        say(f"{version} {outcome}, which could not be noted in {HISTORY}: {error}")


def say(text: str) -> None:
    """Print for the caller; if it is gone, the work continues."""
    with contextlib.suppress(OSError):
        print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ReleaseError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout.strip()


def point(link: Path, target: str) -> None:
    """Make or change a symbolic link in one step."""
    if link.is_symlink() and str(link.readlink()) == target:
        return  # nothing is written, so a full disk does not matter
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def keep_way_back() -> None:
    """Copies of the current links, for `way_back`."""
    for link in (CURRENT, ACTIVE):
        if link.is_symlink():
            point(link.with_name(f".{link.name}.back"), str(link.readlink()))


def way_back() -> None:
    """Restore the links: each by a rename, which needs no space on the disk."""
    for link in (CURRENT, ACTIVE):
        kept = link.with_name(f".{link.name}.back")
        if kept.is_symlink():
            kept.replace(link)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    # The folder itself is locked: there is no file that could be missing, a link, or too much for a full disk.
    lock = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ReleaseError("another wrm-release is at work; wait for it") from None
    else:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def beside_the_others() -> Iterator[None]:
    """Ten seconds of reading and hashing must not delay the runs of the next minute."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(before, 10))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # only root gets its priority back
            os.setpriority(os.PRIO_PROCESS, 0, before)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and `kill` do nothing meanwhile."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_use() -> set[str]:
    """Releases that must not be removed: the current one, the one to roll back to, and those in a running slot."""
    kept = {current_version(), _leads_to(CURRENT.with_name(f".{CURRENT.name}.back"), RELEASES), earlier_release()}
    kept |= {_leads_to(SLOTS / slot / "release", RELEASES) for slot in OTHER if _runs(slot)}
    return {name for name in kept if name}


def remove(folder: Path) -> None:
    """Remove an unused release, or its incoming files.

    Raises:
        ReleaseError: it is in use, or anything but a folder directly below releases or incoming.
        OSError: it cannot be removed.
    """
    checked_name(folder.name)
    if folder.parent not in {RELEASES, INCOMING} or not _is_folder(folder) or not _is_folder(folder.parent):
        raise ReleaseError(f"{folder} is not a folder directly below {RELEASES} or {INCOMING}; it stays")
    if folder.parent == RELEASES:
        if folder.name in in_use():
            raise ReleaseError(f"{folder.name} is in use; it stays")
        # From now on it is not complete, wherever this may end.
        with contextlib.suppress(IsADirectoryError):
            (folder / "release.json").unlink(missing_ok=True)
    shutil.rmtree(folder)


# -- Install


def install(version: str) -> str:
    """Create the release's virtual environment from the incoming files; returns what was done."""
    artifact, target = INCOMING / checked_name(version), RELEASES / version
    facts, wheel = came_in(artifact)
    if os.path.lexists(target) and not _is_folder(target):
        raise ReleaseError(f"{target} is not a folder; see what it is, and move it away")
    if os.path.lexists(target / "release.json"):
        known = _facts(version)
        if any(known.get(name) != facts[name] for name in facts):
            raise ReleaseError(
                f"{version} is installed already, from another wheel or lock; give this one another version"
            )
        return f"{version} is there"
    if os.path.lexists(target):  # an attempt that was interrupted
        remove(target)
    target.mkdir(mode=0o755)
    try:
        donor = _fill(target, artifact, wheel, facts["lock"])
        temporary = target / ".release.json.new"
        temporary.write_text(json.dumps(facts))
        temporary.replace(target / "release.json")
    except (OSError, ReleaseError) as error:
        with contextlib.suppress(OSError, ReleaseError):
            remove(target)
        raise ReleaseError(f"{version} could not be installed: {error}") from None
    return f"{version} is installed" + (f", with the libraries of {donor}" if donor else "")


def came_in(artifact: Path) -> tuple[dict[str, str], Path]:
    """Digests of the release's lock and wheel, and the wheel, if everything is as deploy/build-release made it.

    Raises:
        ReleaseError: something is missing, foreign, a link, or not as it was when it was built.
    """
    if not _is_folder(artifact) or artifact.resolve().parent != INCOMING.resolve():
        raise ReleaseError(f"{artifact} is not there, or is not a folder of its own")
    wheels = sorted(artifact.glob("*.whl"))
    if len(wheels) != 1:
        raise ReleaseError(f"{artifact} must hold one wheel, and holds {len(wheels)}")
    files = {name: artifact / name for name in ("runtime.lock", "dagster.yaml", wheels[0].name)}
    try:
        if wrong := [path.name for path in (*files.values(), artifact / "SHA256SUMS") if not _is_file(path)]:
            raise ReleaseError(
                f"{artifact} lacks {', '.join(wrong)} as a plain file; build it with deploy/build-release"
            )
        sums = {}
        for line in (artifact / "SHA256SUMS").read_text(encoding="ascii", errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            sums[name] = digest
        digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    except OSError as error:
        raise ReleaseError(f"{artifact} cannot be read: {error}") from None
    if wrong := [name for name, digest in digests.items() if sums.get(name) != digest]:
        raise ReleaseError(f"{', '.join(wrong)} of {artifact.name} did not arrive as built (SHA256SUMS); ship it again")
    return {"lock": digests["runtime.lock"], "wheel": digests[wheels[0].name]}, wheels[0]


def _fill(target: Path, artifact: Path, wheel: Path, lock: str) -> str | None:
    """Everything of a release but its release.json; returns whose libraries it shares."""
    venv = target / "venv"
    donor = next((name for name in complete_releases() if _facts(name).get("lock") == lock and _is_sound(name)), None)
    if donor:
        _copy_environment(RELEASES / donor / "venv", venv)
    else:
        run("/usr/bin/python3", "-m", "venv", str(venv))
        _pip(venv, "--require-hashes", "-r", str(artifact / "runtime.lock"))
    _pip(venv, "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    for name in ("dagster.yaml", "runtime.lock"):
        shutil.copyfile(artifact / name, target / name)
    return donor


def _facts(version: str) -> dict[str, Any]:
    """The content of release.json; empty if it is damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads((RELEASES / version / "release.json").read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def _pip(venv: Path, *arguments: str) -> None:
    pip = (str(venv / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
    run("nice", *pip, "install", *arguments)


def _copy_environment(donor: Path, venv: Path) -> None:
    """The same libraries, as hard links: seconds and no space. Later changes replace files rather than modify them."""
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


# -- Hashes


def check_hashes(version: str) -> str:
    """Check that the environment contains exactly the packages of its lock, each file as recorded by its wheel.

    Libraries are hard links shared by releases: a change in one affects all, and is found here.

    Returns:
        How much was checked.

    Raises:
        ReleaseError: names what differs.
    """
    folder = RELEASES / version
    lock = folder / "runtime.lock"
    if not _is_file(lock) or hashlib.sha256(lock.read_bytes()).hexdigest() != _facts(version).get("lock"):
        raise ReleaseError(f"{lock} is missing, or is not the lock that {version} was installed from; install it again")
    locked, unhashed = locked_versions(lock.read_text())
    if unhashed:
        raise ReleaseError(
            f"the lock of {version} has no hash for {', '.join(unhashed[:5])}; renew it with `make lock`"
        )
    places = sorted(folder.glob("venv/lib/python3*/site-packages"))
    if len(places) != 1:
        raise ReleaseError(f"{folder}/venv is not a virtual environment; install {version} again")
    recorded, installed = recorded_files(places[0])
    foreign = [f"{name} {number}" for name, number in installed.items() if number not in locked.get(name, {number})]
    foreign += [name for name in installed if name not in {*locked, "pip", "setuptools", "wrm-pipeline"}]
    there = {path for path in places[0].rglob("*") if not path.is_dir() or path.is_symlink()}
    foreign += [str(path.relative_to(places[0])) for path in there - recorded.keys() if path.suffix != ".pyc"]
    wrong = [str(path.relative_to(places[0])) for path, digest in recorded.items() if not _matches(path, digest)]
    for what, names in (("does not belong to it", foreign), ("is not as its wheel recorded it", sorted(wrong))):
        if names:
            raise ReleaseError(
                f"in the environment of {version}, {', '.join(names[:5])} {what} ({len(names)} in all). Ship it under "
                "another version: libraries that are not as they should be are then fetched again"
            )
    return f"{len(recorded)} files of {len(installed)} packages"


def locked_versions(text: str) -> tuple[dict[str, set[str]], list[str]]:
    """Versions by package name (for each kind of host), and the requirements that have no hash or no version."""
    found: dict[str, set[str]] = {}
    unhashed = []
    for block in text.replace("\\\n", " ").splitlines():
        requirement = block.partition("#")[0].strip()
        if not requirement or requirement.startswith("-"):
            continue
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", requirement)
        if not match or "--hash=sha256:" not in requirement:
            unhashed.append(requirement.split(" ")[0])
        else:
            found.setdefault(_normal(match[1]), set()).add(match[2])
    return found, unhashed


def _is_sound(version: str) -> bool:
    try:
        with beside_the_others():
            check_hashes(version)
    except (ReleaseError, OSError, ValueError) as error:
        say(f"the libraries of {version} are not used again: {error}")
        return False
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def recorded_files(site_packages: Path) -> tuple[dict[Path, str], dict[str, str]]:
    """Files that the installed packages recorded, each with its digest or "", and version by package name."""
    recorded, installed = {}, {}
    for info in site_packages.glob("*.dist-info"):
        name, _, number = info.name.removesuffix(".dist-info").rpartition("-")
        installed[_normal(name)] = number
        with (info / "RECORD").open(encoding="utf-8", newline="") as file:
            for path, digest, *_ in csv.reader(file):
                # Programs contain the path of their environment, so they differ between releases.
                if path.startswith(("../", "/")):
                    continue
                recorded[site_packages / path] = "" if path.endswith(".pyc") else digest
    return recorded, installed


def _matches(path: Path, digest: str) -> bool:
    """Whether the file is as recorded; compiled files and the record itself have no digest."""
    if not digest:
        return True
    kind, _, value = digest.partition("=")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, kind).digest()
    except (OSError, ValueError):
        return False
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == value


# -- Gate


def gate(version: str, *, ignore_doctor: bool) -> None:
    """Everything that can be tested before anything depends on the release."""
    with beside_the_others():
        looked_at = check_hashes(version)
    say(f"gate: hashes ({looked_at})")
    if current_version():
        examine_host(version, ignore=ignore_doctor)
    environment = Path("/run/wrm-gate.env")
    environment.write_text(f"WRM_GATE_DOCTOR={'no' if ignore_doctor else 'yes'}\n")
    say("gate: dagster definitions validate, wrm doctor, wrm smoke")
    _oneshot(f"wrm-gate@{version}.service")


def examine_host(version: str, *, ignore: bool) -> None:
    """Say what the release's own `wrm doctor --production` finds on this host.

    Most of it has nothing to do with the release, and a release may be the remedy, so only what would make trying it
    unsafe (it says so itself, say a full disk) refuses the release.

    Raises:
        ReleaseError: it is unsafe.
    """
    command = (str(RELEASES / version / "venv/bin/wrm"), "doctor", "--production", "--json")
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False
        )
        findings = [dict(finding) for finding in json.loads(done.stdout)]
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError) as error:
        say(f"gate: the host was not looked at ({error}); `wrm doctor --production` does it")
        return
    wrong = [finding for finding in findings if finding.get("status") in {"warning", "failed"}]
    say(f"gate: wrm doctor --production ({len(wrong)} findings)")
    for finding in wrong:
        say(f"    {finding['status']}: {finding.get('name')}: {finding.get('got')} → {finding.get('todo')}")
    unsafe = [str(finding.get("got")) for finding in wrong if finding.get("unsafe") and finding["status"] == "failed"]
    if unsafe and not ignore:
        raise ReleaseError(f"the host is not fit for a release: {'; '.join(unsafe)}")


def migrate(version: str) -> None:
    """Migrate Dagster's database for the release, after a dump."""
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
        run("systemctl", "reset-failed", unit, check=False)  # reported here; the host itself is fine
        raise ReleaseError(f"{unit.partition('@')[0]} refused it:\n{reason}")


def _journal(unit: str, since: float, lines: int = 25) -> str:
    time.sleep(1)  # the last lines of an ended process may still be in transit
    # The output of its processes; systemd's messages about it are not a reason.
    text = run("journalctl", f"_SYSTEMD_UNIT={unit}", f"--since=@{int(since)}", "-o", "cat", "--no-pager", check=False)
    kept = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"    {line[:300]}" for line in kept[-lines:])


# -- Switch


def code_unit(slot: str) -> str:
    return f"dagster-code@{slot}.service"


def start_slot(slot: str, version: str) -> None:
    """Start the release's code server in the free slot."""
    begin = time.time()
    reported = False
    stop_slot(slot)  # it may run, if the machine was restarted in the middle of a switch
    while run("systemctl", "show", "-P", "ActiveState", code_unit(slot)) in {"active", "deactivating", "activating"}:
        if not reported:
            say(f"the code server before the last one still waits for its runs; so does this ({code_unit(slot)})")
            reported = True
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
    """Let a code server end after its runs; does not wait."""
    run("systemctl", "disable", "--quiet", code_unit(slot), check=False)
    run("systemctl", "stop", "--no-block", code_unit(slot), check=False)


def wait_for_quiet() -> None:
    """Wait until this minute's ingest tick is over and the next one is far enough away."""
    while int(time.time()) % 60 not in QUIET_SECONDS:
        time.sleep(0.5)


def lead_to(slot: str, version: str) -> float:
    """Daemon, web UI and exporter to the release in `slot`; returns when the daemon has been stopped."""
    run("systemctl", "enable", "--quiet", code_unit(slot), "wrm.target", *FOLLOWERS, *SOCKETS)
    point(CURRENT, f"{RELEASES}/{version}")
    point(ACTIVE, f"{SLOTS}/{slot}")
    point(Path(config()["dagster_home"]) / "dagster.yaml", f"{CURRENT}/dagster.yaml")
    # A unit that failed too often is not started before this.
    run("systemctl", "reset-failed", *FOLLOWERS, *SOCKETS, LOOK, check=False)
    begin = time.time()
    say("daemon")
    run("systemctl", "restart", FOLLOWERS[0])
    say("web UI and exporter")
    if run("systemctl", "is-active", SOCKETS[0], check=False) != "active":
        run("systemctl", "stop", FOLLOWERS[1])  # it cannot take over a socket that comes after it
    run("systemctl", "start", *SOCKETS)
    run("systemctl", "restart", *FOLLOWERS[1:])
    run("systemctl", "try-restart", LOOK)
    run("systemctl", "start", "wrm.target")
    return begin


def lead_back(slot: str, version: str) -> None:
    """`lead_to` the previous release: carries out every possible step, then reports the failed ones."""
    trouble = []
    for step in (way_back, lambda: lead_to(slot, version)):
        try:
            step()
        except (ReleaseError, OSError) as error:
            trouble.append(str(error))
    if not trouble:
        return
    # The rest needs no space on the disk.
    for command in (
        ("restart", FOLLOWERS[0]),
        ("start", *SOCKETS),
        ("restart", *FOLLOWERS[1:]),
        ("start", "wrm.target"),
    ):
        try:
            run("systemctl", *command)
        except ReleaseError as error:
            trouble.append(str(error))
    if current_version() != version or len(trouble) > 1:
        raise ReleaseError("; ".join(trouble))
    say(f"back at {version}, though: {'; '.join(trouble)}")


# -- Verify


class _OnSocket(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(config()["webserver"])


def graphql(query: str, **variables: Any) -> Any:
    connection = _OnSocket("localhost", timeout=10)
    try:
        body = json.dumps({"query": query, "variables": variables})
        connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    except http.client.HTTPException as error:
        raise ReleaseError(f"the web UI does not answer: {error!r}") from None
    finally:
        connection.close()
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
    """An ingest run requested by the new schedule has succeeded; one that was queued before proves nothing."""
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
    with urllib.request.urlopen(f"{config()['exporter']}/metrics", timeout=10) as answer:
        return "" if b"exporter_up" in answer.read() else "the exporter serves no metrics"


CHECKS: tuple[Callable[[float], str], ...] = (ui_answers, exporter_answers, heartbeats_are_fresh, snapshot_is_new)


def verify(since: float) -> None:
    """Wait until everything works; raises with the failures when time is up. Steps in progress get as much time
    again."""
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
    """Switch to an installed release, or keep the present one and raise the reason."""
    if checked_name(version) not in complete_releases():
        raise ReleaseError(f"{version} is not installed; there are: {', '.join(complete_releases()) or 'none'}")
    before, old_slot = current_version(), active_slot()
    slot = OTHER[old_slot] if old_slot else "blue"
    switched = False
    try:
        if gated:
            gate(version, ignore_doctor=ignore_doctor)
            migrate(version)
        start_slot(slot, version)
        keep_way_back()
        if before:
            wait_for_quiet()
        switched = True
        since = lead_to(slot, version)
        verify(since)
    # Whatever the reason, even a full disk or Ctrl-C, the previous release must run again.
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        reason = str(error) or type(error).__name__
        with undisturbed():
            text = _taken_back(version, slot, before, old_slot, reason, switched=switched)
        raise ReleaseError(text) from None
    note(version, "active")
    if old_slot:
        stop_slot(old_slot)
    say(f"{version} is active")


def _taken_back(
    version: str, slot: str, before: str | None, old_slot: str | None, reason: str, *, switched: bool
) -> str:
    """Roll back, and only then record it. Returns the message."""
    outcome = "rolled back" if switched else "refused"
    try:
        if not (before and old_slot):
            abandon_first(slot)
            return reason
        if not switched:
            stop_slot(slot)
            return f"{version} was not switched to, {before} goes on. The reason: {reason}"
        say(f"back to {before}: {reason}")
        try:
            lead_back(old_slot, before)
        except ReleaseError as trouble:
            return f"{version} does not work ({reason}), and going back to {before} failed: {trouble}"
        stop_slot(slot)
        return f"{version} was rolled back, {before} runs again. The reason: {reason}"
    finally:
        note(version, outcome, reason)


def abandon_first(slot: str) -> None:
    """Stop the first release on this host, so that the next attempt starts from scratch."""
    run("systemctl", "stop", *SOCKETS, *FOLLOWERS, LOOK, check=False)
    stop_slot(slot)
    CURRENT.unlink(missing_ok=True)
    ACTIVE.unlink(missing_ok=True)


def earlier_release() -> str | None:
    """The target of `rollback`: the last other release that worked.

    If the history does not show it, the previous one by the links, or else the newest that was never refused.
    """
    entries, _ = history()
    current, there = current_version(), complete_releases()
    others = [name for name in there if name != current]
    good = [entry["version"] for entry in reversed(entries) if entry["outcome"] == "active"]
    last = {entry["version"]: entry["outcome"] for entry in entries}
    before = _leads_to(CURRENT.with_name(f".{CURRENT.name}.back"), RELEASES)
    unknown = [name for name in others if name not in last]
    return next((name for name in [*good, before, *unknown] if name in others), None)


def rollback(version: str | None) -> None:
    version = earlier_release() if version is None else checked_name(version)
    if version is None:
        raise ReleaseError("there is no earlier release to go back to")
    activate(version, gated=False)


def is_stale() -> bool:
    """Whether settings, credentials or units are newer than the processes that use them."""
    slot = active_slot()
    if slot is None:
        return False
    credentials = Path("/etc/wrm/credentials")
    started = run("systemctl", "show", "-P", "ActiveEnterTimestamp", "--timestamp=unix", code_unit(slot)).lstrip("@")
    if not started.isdigit():
        return True
    units = Path("/etc/systemd/system")
    looked_at = [
        Path("/etc/wrm/wrm.env"),
        credentials,
        *(credentials.iterdir() if credentials.is_dir() else ()),
        *units.glob("dagster-*.service"),
        *units.glob("dagster-*.socket"),
        LAUNCHER,
        units / "wrm-exporter.service",
    ]
    return any(path.stat().st_mtime > int(started) + 1 for path in looked_at if path.exists())


def prune() -> None:
    """Remove releases that never worked, and the oldest beyond the number to keep. Running ones stay.

    Anything that is not a release, e.g. a file or a link, is not touched. Failures here have no consequences.
    """
    try:
        if current_version() is None:
            return
        entries, damaged = history()
        last = {entry["version"]: entry["outcome"] for entry in entries}
        good = [entry["version"] for entry in reversed(entries) if entry["outcome"] == "active"]
        # One without a line in the history is not known to be bad.
        good += [name for name in complete_releases() if name not in last]
        keep = max(1, int(config()["keep"]))
        there = [name for name in dict.fromkeys(good) if name in complete_releases()]
        wanted = in_use() | set(there[: keep + damaged])
        folders = [folder for place in (RELEASES, INCOMING) if _is_folder(place) for folder in place.iterdir()]
    except (OSError, ValueError, TypeError, ReleaseError) as error:
        say(f"old releases stay: {error}")
        return
    for folder in folders:
        if folder.name in wanted or not NAME.fullmatch(folder.name) or not _is_folder(folder):
            continue
        try:
            remove(folder)
        except (OSError, ReleaseError) as error:
            say(f"{folder} stays: {error}")
        else:
            if folder.parent == RELEASES:
                say(f"removed {folder.name}")


def _runs(slot: str) -> bool:
    """Whether the slot's code server runs, or may do so."""
    try:
        return run("systemctl", "show", "-P", "ActiveState", code_unit(slot)) not in {"inactive", "failed"}
    except (ReleaseError, OSError):
        return True


def listing() -> str:
    lines = [f"{'*' if name == current_version() else ' '} {name}" for name in complete_releases()]
    done = []
    entries, damaged = history()
    for entry in entries[-10:]:
        done.append(f"  {entry['at']} {entry['version']} {entry['outcome']}")
        done += [f"      {line.strip()}" for line in entry["reason"].splitlines()[-1:]]
    if damaged:
        done.append(f"  ({damaged} lines of {HISTORY} cannot be read)")
    return "\n".join([*lines, "", "Last switches:", *done])


def main() -> int:
    parser = argparse.ArgumentParser(prog="wrm-release", description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("current", help="the version that runs")
    verbs.add_parser("list", help="what is installed, and the last switches")
    adding = verbs.add_parser("install", help=f"install a release that came into {INCOMING}, beside the others")
    adding.add_argument("version")
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
    # The caller may go away; a switch that has begun is finished. A signal brings the old release back.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Before anything else is read.
        if getattr(options, "version", None) is not None:
            checked_name(options.version)
        with only_one():
            change(options)
    except (ReleaseError, OSError) as error:
        return _fail(str(error))
    return 0


def change(options: argparse.Namespace) -> None:
    if options.verb == "install":
        print(install(options.version))
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
