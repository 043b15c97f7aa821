"""The deploy workflow's view of health, as its shell sees it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STEPS = yaml.safe_load((ROOT / ".github/workflows/deploy.yml").read_text())["jobs"]["deploy"]["steps"]
HEALTH = next(step for step in STEPS if step.get("id") == "health")


def look(tmp_path: Path, url: str, *answers: str) -> subprocess.CompletedProcess[str]:
    """Run the step with a `curl` that gives these answers, one a call, and then the last one again and again."""
    for name, body in {
        "curl": f"n=$(cat {tmp_path}/n 2>/dev/null || echo 0)\necho $((n + 1)) >{tmp_path}/n\n"
        f'set -- {" ".join(answers)}\n[ "$n" -lt $# ] || n=$(($# - 1))\nshift "$n"\nprintf %s "$1"',
        "sleep": "",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    # As GitHub starts it.
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", HEALTH["run"]],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HEALTH_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        (["204"], 0),
        (["200"], 0),
        (["000", "502", "500", "204"], 0),
        (["401"], 1),
        (["403"], 1),
        (["301"], 1),
        (["500"], 1),
        (["502", "401"], 1),
        (["000"], 1),
    ],
)
def test_only_the_web_servers_own_answer_is_health(tmp_path: Path, answers: list[str], status: int) -> None:
    assert look(tmp_path, "https://wrm.example/healthz", *answers).returncode == status


@pytest.mark.parametrize("url", ["https://wrm.example/", "http://wrm.example/healthz", "https://wrm.example/metrics"])
def test_a_page_that_says_nothing_of_health_is_refused(tmp_path: Path, url: str) -> None:
    done = look(tmp_path, url, "200")
    assert done.returncode == 1
    assert "healthz" in done.stdout


def test_without_an_address_it_says_so(tmp_path: Path) -> None:
    done = look(tmp_path, "")
    assert done.returncode == 0
    assert "::warning::" in done.stdout
