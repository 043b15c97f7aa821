"""The runbook and what links to it."""

from __future__ import annotations

import re
from pathlib import Path

import click
import yaml

from wrm_pipeline.cli.main import wrm

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


def test_each_alert_links_to_a_section_that_names_it() -> None:
    sections = re.split(r'<a id="([a-z-]+)"></a>\n', TEXT)
    by_anchor = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert len(by_anchor) == len(sections) // 2, "each anchor is there once"
    for rule in ALERTS:
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert path == "docs/operations.md"
        assert f"`{rule['alert']}" in by_anchor.get(anchor, ""), f"{rule['alert']} is not in section {anchor!r}"


def test_the_runbook_tells_of_no_alert_that_does_not_exist() -> None:
    named = set(re.findall(r"^\*`(\w+)", TEXT, re.MULTILINE))
    assert named <= {rule["alert"] for rule in ALERTS}


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    anchors = headings | set(re.findall(r'<a id="([a-z-]+)">', TEXT))
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        assert (ROOT / "docs" / path).exists(), target
        if not path:
            assert anchor in anchors, target


def test_commands_of_the_runbook_exist_with_their_options() -> None:
    lines = re.findall(r"`wrm ([^`…]+)", TEXT) + re.findall(r"(?m)^wrm ([^#\n]+)", TEXT)
    assert len(lines) > 30
    for line in lines:
        command: click.Command = wrm
        for word in line.split():
            if not isinstance(command, click.Group) or word.startswith("--"):
                break  # a value or an option
            assert word in command.commands, f"wrm {line}"
            command = command.commands[word]
        options = {
            option
            for param in command.params
            if not getattr(param, "hidden", False)
            for option in (*param.opts, *param.secondary_opts)
        }
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= options, f"wrm {line}"
