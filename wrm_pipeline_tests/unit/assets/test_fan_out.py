"""A range of days in one run: the same files as one run per day, whichever workers build them and whichever die."""

from __future__ import annotations

import os
import signal
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.assets.stations import fan_out
from wrm_pipeline.assets.stations.enhanced_all import enhance_published_day
from wrm_pipeline.assets.stations.fan_out import (
    BuildOptions,
    BuiltDay,
    DayTask,
    WorkerDiffersError,
    build_and_publish,
    publish_day,
)
from wrm_pipeline.assets.stations.processed_all import process_day
from wrm_pipeline.clients.workers import Workers
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline_tests.fixtures.lake import (
    DAY,
    ENHANCED,
    PROCESSED,
    Lake,
    build_day,
    definitions,
    failure_of,
)

DAYS = [DAY + timedelta(days=n) for n in range(4)]
OPTIONS = BuildOptions(datetime(2025, 9, 1, 4, tzinfo=UTC), full_rebuild=True)


def fill(lake: Lake) -> None:
    for number, dt in enumerate(DAYS):
        lake.put_day(3, dt=dt, stations=5 + number)
    lake.put_raw(datetime(2025, 8, 22, 15, tzinfo=UTC), b"no snapshot")


def run_range(first: date, last: date, **kwargs) -> dg.ExecuteInProcessResult:
    defs = definitions()
    return dg.materialize(
        list(defs.assets or ()),
        selection=[PROCESSED, ENHANCED],
        resources=dict(defs.resources or {}),
        tags={
            "dagster/asset_partition_range_start": first.isoformat(),
            "dagster/asset_partition_range_end": last.isoformat(),
        },
        **kwargs,
    )


def columns(lake: Lake, layer: str, *, without: tuple[str, ...] = ()) -> dict[date, list[bytes]]:
    """The bytes of each day's columns, without the file's footer."""
    found = {}
    for dt in DAYS:
        table = pq.read_table(lake.settings.lake_dir / lake.partition_key(layer, dt)).drop_columns(list(without))
        found[dt] = [
            buffer.to_pybytes()
            for column in table.combine_chunks().columns
            for chunk in column.chunks
            for buffer in chunk.buffers()
            if buffer is not None
        ]
    return found


def tasks(lake: Lake, layer: str, build) -> list[DayTask]:
    resource = LakeResource.of(lake.settings)
    return [DayTask(dt, layer, build, OPTIONS, resource.place, resource.layout, resource.area) for dt in DAYS]


def dies_once(lake: LakeResource, dt: date, options: BuildOptions) -> BuiltDay:
    """`process_day` that takes its process down in the middle of the second day, the first time."""
    marker = Path(lake.place).parent / "died"
    built = process_day(lake, dt, options)
    if dt == DAYS[1] and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return built


def rebuild(lake: Lake, workers: Workers, process=process_day) -> None:
    for layer, build in (("processed", process), ("enhanced", enhance_published_day)):
        outcomes = list(workers.run(publish_day, tasks(lake, layer, build)))
        assert [outcome.error for outcome in outcomes if outcome.error] == []
        assert {outcome.task.dt for outcome in outcomes} == set(DAYS)


@pytest.mark.usefixtures("own_forkserver")
def test_processes_threads_and_a_killed_worker_give_the_bytes_of_one_after_the_other(lake):
    fill(lake)
    rebuild(lake, Workers("sequential"))
    expected = {layer: columns(lake, layer) for layer in ("processed", "enhanced")}
    for workers, process in (
        (Workers("threads", 2), process_day),
        (Workers("processes", 2, preload=(__name__,)), process_day),
        (Workers("processes", 2, preload=(__name__,)), dies_once),
    ):
        for key in lake.keys("processed/") + lake.keys("enhanced/"):
            lake.store.delete(key)
        rebuild(lake, workers, process)
        assert {layer: columns(lake, layer) for layer in ("processed", "enhanced")} == expected
    assert (lake.settings.data_dir / "died").exists()


def test_one_run_of_a_range_publishes_what_a_run_for_each_day_does(lake, monkeypatch):
    monkeypatch.setenv("WRM_EXECUTOR", "sequential")
    fill(lake)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_range(DAYS[0], DAYS[-1], instance=instance)
        assert result.success
        for asset in (PROCESSED, ENHANCED):
            events = result.asset_materializations_for_node(asset)
            assert {event.partition for event in events} == {dt.isoformat() for dt in DAYS}
        rows = {
            event.partition: event.metadata["rows_out"].value
            for event in result.asset_materializations_for_node(PROCESSED)
        }
        assert rows == {"2025-08-21": 18, "2025-08-22": 21, "2025-08-23": 24, "2025-08-24": 27}
        assert all(check.passed for check in result.get_asset_check_evaluations())
        assert instance.get_materialized_partitions(dg.AssetKey(ENHANCED)) == {dt.isoformat() for dt in DAYS}
    together = columns(lake, "processed"), columns(lake, "enhanced", without=("processed_at",))
    for key in lake.keys("processed/") + lake.keys("enhanced/"):
        lake.store.delete(key)
    for dt in DAYS:
        assert build_day(dt).success
    assert together == (columns(lake, "processed"), columns(lake, "enhanced", without=("processed_at",)))


def test_a_day_that_fails_costs_itself_only_is_named_and_the_others_are_enhanced(lake, monkeypatch):
    monkeypatch.setenv("WRM_EXECUTOR", "sequential")
    fill(lake)

    def fails(lake: LakeResource, task: DayTask) -> dict[str, object]:
        if task.layer == "processed" and task.dt == DAYS[2]:
            raise ValueError("damaged")
        return build_and_publish(lake, task)

    monkeypatch.setattr(fan_out, "build_and_publish", fails)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_range(DAYS[0], DAYS[-1], instance=instance, raise_on_error=False)
        message = failure_of(result)
        assert "1 of 4 days were not published" in message
        assert "2025-08-23: ValueError: damaged" in message
        done = [instance.get_materialized_partitions(dg.AssetKey(asset)) for asset in (PROCESSED, ENHANCED)]
    assert done == [{"2025-08-21", "2025-08-22", "2025-08-24"}] * 2
    assert len(lake.keys("processed/")) == len(lake.keys("enhanced/")) == 3


@pytest.mark.parametrize("gap", ["no folder", "a marker", "only other endings"])
def test_a_day_without_raw_in_a_range_is_nothing_to_do_and_said(lake, monkeypatch, gap):
    monkeypatch.setenv("WRM_EXECUTOR", "sequential")
    fill(lake)
    for info in lake.store.list(lake.layout.raw_folder(DAYS[2])):
        lake.store.delete(info.key)
    if gap != "no folder":
        name = "_marker" if gap == "a marker" else "notes.csv"
        (lake.settings.lake_dir / lake.layout.raw_folder(DAYS[2])).mkdir(parents=True, exist_ok=True)
        (lake.settings.lake_dir / lake.layout.raw_folder(DAYS[2]) / name).write_bytes(b"")
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_range(DAYS[0], DAYS[-1], instance=instance)
        assert result.success
        for asset in (PROCESSED, ENHANCED):
            events = result.asset_materializations_for_node(asset)
            said = {e.partition: e.metadata["nothing_to_do"].value for e in events if "nothing_to_do" in e.metadata}
            assert set(said) == {"2025-08-23"}
            assert "no raw snapshot in" in said["2025-08-23"]
        for check in result.get_asset_check_evaluations():
            assert check.passed
            assert "Nothing to do for 1 of them: 2025-08-23." in check.description
        tags = instance.get_run_by_id(result.run_id).tags
    assert tags["dagster/max_runtime"] == str(900 + 4 * 60)
    assert len(lake.keys("processed/")) == len(lake.keys("enhanced/")) == 3


def test_a_backfill_that_asks_for_a_day_as_a_range_of_one_publishes_it(lake):
    """So does Dagster, with a run for each day."""
    fill(lake)
    assert run_range(DAYS[1], DAYS[1]).success
    for layer in ("processed", "enhanced"):
        assert lake.keys(f"{layer}/") == [lake.partition_key(layer, DAYS[1])]


def test_a_range_without_any_data_is_green_and_writes_nothing(lake, monkeypatch):
    monkeypatch.setenv("WRM_EXECUTOR", "sequential")
    assert run_range(DAYS[0], DAYS[-1]).success
    assert lake.keys("") == []


@pytest.mark.parametrize("selection", [[PROCESSED], [ENHANCED], [PROCESSED, ENHANCED]])
def test_a_single_day_without_raw_is_green_and_says_so(lake, selection):
    defs = definitions()
    result = dg.materialize(
        list(defs.assets or ()), selection=selection, resources=dict(defs.resources or {}), partition_key="2025-08-21"
    )
    assert result.success
    for asset in selection:
        (event,) = result.asset_materializations_for_node(asset)
        assert "no raw snapshot in" in event.metadata["nothing_to_do"].value
    assert lake.keys("") == []


def test_enhanced_alone_of_a_day_that_has_raw_but_no_rows_is_a_failure_that_says_what_to_do(lake):
    lake.put_day(1)
    defs = definitions()
    result = dg.materialize(
        list(defs.assets or ()),
        selection=[ENHANCED],
        resources=dict(defs.resources or {}),
        partition_key="2025-08-21",
        raise_on_error=False,
    )
    assert "Materialize the processed layer for 2025-08-21 first" in failure_of(result)


@pytest.mark.parametrize("selection", [[PROCESSED], [PROCESSED, ENHANCED]])
def test_a_run_that_names_no_day_says_so_in_one_sentence(lake, selection):
    defs = definitions()
    result = dg.materialize(
        list(defs.assets or ()), selection=selection, resources=dict(defs.resources or {}), raise_on_error=False
    )
    assert "the run has no partition: choose one" in failure_of(result)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"place": "s3://another"}, "s3://another is required"),
        ({"code": "parser 0"}, "parser 0 is required"),
        ({"area": ServiceArea(0, 1, 0, 1)}, "ServiceArea"),
    ],
)
def test_a_worker_of_another_lake_or_release_builds_nothing(lake, change, said):
    fill(lake)
    (task, *_) = tasks(lake, "processed", process_day)
    wanted = {name: getattr(task, name) for name in ("dt", "layer", "build", "options", "place", "layout", "area")}
    with pytest.raises(WorkerDiffersError, match=said):
        publish_day(DayTask(**(wanted | change)))
    assert lake.keys("processed/") == []


@pytest.mark.parametrize(("value", "most"), [("run_per_day", 1), ("single_run", None)])
def test_a_setting_says_whether_a_range_is_one_run(value, most, monkeypatch):
    monkeypatch.setenv("WRM_BACKFILL", value)
    graph = definitions().resolve_asset_graph()
    for asset in (PROCESSED, ENHANCED):
        assert graph.get(dg.AssetKey(asset)).backfill_policy.max_partitions_per_run == most
