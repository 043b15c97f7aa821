"""The host, as far as checks look at it.

Everything goes through `Machine`, so that tests can plant faults in recorded answers.
"""

import grp
import json
import os
import pwd
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# A command that hangs must not hang the doctor.
TIMEOUT_S = 20.0

MANIFEST = "/etc/wrm/host.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder, socket or link: `mode` as chmod takes it, `modified` in Unix time, `target` of a link."""

    kind: str
    mode: int
    owner: str
    group: str
    modified: float = 0.0
    target: str = ""

    def __str__(self) -> str:
        return f"{self.mode:04o} {self.owner}:{self.group}"


class Machine(Protocol):
    """What checks may ask; nothing of it changes anything."""

    def run(self, *command: str) -> str:
        """What the command prints, stderr included; "" if it does not exist or hangs."""
        ...

    def entry(self, path: str) -> Entry | None:
        """What is at the path itself, links not followed; None if nothing is."""
        ...

    def read(self, path: str) -> str:
        """A file's text; "" if it cannot be read."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none if it cannot be read."""
        ...

    def now(self) -> float:
        """Unix time."""
        ...


class ThisMachine:
    """The real one."""

    def run(self, *command: str) -> str:
        """See `Machine`."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        try:
            done = subprocess.run(  # noqa: S603 - a list of arguments, no shell
                command,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.decode(errors="replace").strip()

    def entry(self, path: str) -> Entry | None:
        """See `Machine`."""
        try:
            found = os.lstat(path)
            target = str(Path(path).readlink()) if stat.S_ISLNK(found.st_mode) else ""
        except OSError:
            return None
        kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(found.st_mode), "other")
        owner, group = _user(found.st_uid), _group(found.st_gid)
        return Entry(kind, stat.S_IMODE(found.st_mode), owner, group, found.st_mtime, target)

    def read(self, path: str) -> str:
        """See `Machine`."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def names(self, folder: str) -> list[str]:
        """See `Machine`."""
        try:
            return sorted(entry.name for entry in Path(folder).iterdir())
        except OSError:
            return []

    def now(self) -> float:
        """See `Machine`."""
        return time.time()


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the playbook has set up, as it wrote it to `MANIFEST`. Its template explains each entry."""

    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


def wanted_of(machine: Machine) -> Wanted | None:
    """None if the playbook that set up this host wrote no such file, or it is damaged."""
    try:
        values = json.loads(machine.read(MANIFEST))
    except ValueError:
        return None
    return Wanted(values) if isinstance(values, dict) and values.get("format") == 1 else None


def properties(machine: Machine, unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, as systemd knows them."""
    shown = machine.run("systemctl", "show", "--timestamp=unix", "-p", ",".join(names), unit)
    found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return {name: found.get(name, "") for name in names}


def metrics(machine: Machine, port: int) -> dict[str, float]:
    """The exporter's metrics without labels; none if it does not answer."""
    text = machine.run("curl", "-sS", "-m", "5", f"http://127.0.0.1:{port}/metrics")
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name.startswith("wrm_") and "{" not in name:
            try:
                found[name] = float(value)
            except ValueError:
                continue
    return found
