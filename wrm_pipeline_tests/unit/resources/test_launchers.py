"""Where runs go: what docs/scaling.md has for dagster.yaml is valid, and which runs leave home."""

from __future__ import annotations

import importlib
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type

from wrm_pipeline.domain import asset_names
from wrm_pipeline.resources.celery_runs import queue_of
from wrm_pipeline_tests.fixtures.markdown import ROOT, blocks

DOCUMENTED = [
    yaml.safe_load(block.code)["run_launcher"]
    for block in blocks(ROOT / "docs/scaling.md")
    if block.language == "yaml" and block.code.startswith("run_launcher:")
]


def test_three_launchers_are_documented() -> None:
    assert {launcher["class"] for launcher in DOCUMENTED} == {
        "WarmRunLauncher",
        "HomeOrCeleryRunLauncher",
        "K8sRunLauncher",
    }


@pytest.mark.parametrize("launcher", DOCUMENTED, ids=lambda launcher: launcher["class"])
def test_what_is_documented_is_valid_to_the_launcher(launcher: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster and no broker is asked; a field too many, or of another type, fails."""
    monkeypatch.setenv("WRM_CELERY_BROKER", "redis://127.0.0.1:1/1")
    monkeypatch.setenv("WRM_CELERY_BACKEND", "redis://127.0.0.1:1/2")
    schema = resolve_to_config_type(
        getattr(importlib.import_module(launcher["module"]), launcher["class"]).config_type()
    )
    result = process_config(schema, launcher.get("config", {}))
    assert result.success, result.errors
    assert not process_config(schema, launcher.get("config", {}) | {"no_such_field": 1}).success


BACKFILL = {"dagster/backfill": "abc"}


@pytest.mark.parametrize(
    ("assets", "tags", "queue"),
    [
        ([asset_names.PROCESSED, asset_names.ENHANCED], BACKFILL, "wrm"),
        ([asset_names.ENHANCED], BACKFILL, "wrm"),
        ([asset_names.PROCESSED, asset_names.ENHANCED], {}, None),
        ([asset_names.ENHANCED, asset_names.STATION_SUMMARY], BACKFILL, None),
        ([asset_names.RAW], {}, None),
        ([], BACKFILL, None),
        ([asset_names.ENHANCED], BACKFILL | {"dagster-celery/queue": "home"}, None),
        ([asset_names.ENHANCED], {"dagster-celery/queue": "large"}, "large"),
    ],
)
def test_backfills_of_processing_and_runs_with_a_queue_leave_home(
    assets: list[str], tags: dict[str, str], queue: str | None
) -> None:
    selection = frozenset(dg.AssetKey(name) for name in assets) or None
    assert queue_of(dg.DagsterRun("a_job", asset_selection=selection, tags=tags), "wrm") == queue
