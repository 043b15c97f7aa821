"""Dagster's runs, as asked for by the state that they are in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

CONFIGURATION = """
telemetry: {enabled: false}
run_storage: {module: wrm_pipeline.resources.opened_storage, class: OpenedRunStorage}
"""
STARTING, STARTED, SUCCESS = dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS


@dg.job
def nothing() -> None:
    pass


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text(CONFIGURATION)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def found(instance: dg.DagsterInstance, *statuses: dg.DagsterRunStatus) -> list[str]:
    """Ids of the runs in these states, of which runs and records tell the same."""
    filters = dg.RunsFilter(statuses=list(statuses))
    ids = [run.run_id for run in instance.get_runs(filters)]
    assert [record.dagster_run.run_id for record in instance.get_run_records(filters)] == ids
    return ids


def test_runs_are_found_by_their_state_as_it_changes(instance: dg.DagsterInstance) -> None:
    assert found(instance, STARTING, STARTED) == []

    run = instance.create_run_for_job(nothing, status=STARTING)
    other = instance.create_run_for_job(nothing, status=SUCCESS)
    assert found(instance, STARTING) == [run.run_id]
    assert found(instance, STARTED) == []
    assert found(instance, STARTED, STARTING) == [run.run_id]
    assert found(instance) == [other.run_id, run.run_id]

    instance.report_run_failed(run)
    assert found(instance, STARTING, STARTED) == []
    assert found(instance, dg.DagsterRunStatus.FAILURE) == [run.run_id]


def test_other_filters_count_beside_the_state(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(nothing, status=STARTING, tags={"dagster/partition": "2025-08-21"})
    tags, statuses = {"dagster/partition": "2025-08-22"}, [STARTING]
    assert instance.get_runs(dg.RunsFilter(statuses=statuses, tags=tags)) == []
    assert instance.get_run_records(dg.RunsFilter(statuses=[STARTING], run_ids=[run.run_id]), limit=1) != []


def test_a_run_of_another_process_is_seen(instance: dg.DagsterInstance) -> None:
    assert found(instance, STARTING) == []
    with dg.DagsterInstance.from_config(instance.root_directory) as other:
        run = other.create_run_for_job(nothing, status=STARTING)
    assert found(instance, STARTING) == [run.run_id]
