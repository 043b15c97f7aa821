"""The dashboards by Grafana's own schema: it knows each field, and would write the same value itself."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GRAFANA = Path(__file__).parents[2] / "deploy/monitoring/grafana"
DASHBOARDS = sorted([*GRAFANA.glob("dashboards/*.json"), *GRAFANA.glob("serving/*.json")])

pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed: make setup")


def as_grafana_reads_it(board: dict[str, Any]) -> dict[str, Any]:
    """Decoded into Grafana's types, which drop what they do not know, and encoded again."""
    plugins, encoder, dashboard = (
        importlib.import_module(f"grafana_foundation_sdk.{name}")
        for name in ("cog.plugins", "cog.encoder", "models.dashboard")
    )
    plugins.register_default_plugins()
    found: dict[str, Any] = json.loads(encoder.JSONEncoder().encode(dashboard.Dashboard.from_json(board)))
    return found


def lost(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from lost(value, theirs[key], f"{place}.{key}")
            else:
                yield f"{place}.{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")
    elif ours != theirs:
        yield f"{place}: {ours!r} != {theirs!r}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafana_knows_each_field(path: Path) -> None:
    board = json.loads(path.read_text())
    assert list(lost(board, as_grafana_reads_it(board))) == []


@pytest.mark.parametrize("where", ["panel", "unit", "option"])
def test_a_field_that_it_does_not_know_is_found(where: str) -> None:
    board = json.loads(DASHBOARDS[0].read_text())
    panel = board["panels"][-1]
    {"panel": panel, "unit": panel["fieldConfig"]["defaults"], "option": panel["options"]}[where]["unitt"] = "s"
    (found,) = lost(board, as_grafana_reads_it(board))
    assert found.endswith(".unitt")


def test_all_dashboards_are_checked() -> None:
    assert len(DASHBOARDS) == 3
