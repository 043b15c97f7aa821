"""A range of days on a Dask cluster: real scheduler, real workers, a real bucket, and a worker that dies."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - what Dask does with a task
import signal
from datetime import UTC, date, datetime, timedelta

import pytest
from distributed import get_worker

from wrm_pipeline.assets.stations.enhanced_all import enhance_published_day
from wrm_pipeline.assets.stations.fan_out import BuildOptions, BuiltDay, DayTask, publish_day
from wrm_pipeline.assets.stations.processed_all import process_day
from wrm_pipeline.clients.workers import Workers
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.workers import WorkersResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, Lake
from wrm_pipeline_tests.integration.dask_cluster import dask_cluster

pytestmark = pytest.mark.integration

DAYS = [DAY + timedelta(days=n) for n in range(4)]
OPTIONS = BuildOptions(datetime(2025, 9, 1, 4, tzinfo=UTC), full_rebuild=True)
LAYERS = ("processed", "enhanced")


def dies_once(lake: LakeResource, dt: date, options: BuildOptions) -> BuiltDay:
    """`process_day` that takes its worker down in the middle of the second day, the first time."""
    built = process_day(lake, dt, options)
    if dt == DAYS[1] and lake.store.put_if_absent(f"{lake.layout.prefix}died", b"once"):
        os.kill(os.getpid(), signal.SIGKILL)
    return built


def is_sampled(_: int) -> bool:
    """Whether Dask looks at the stack of its tasks."""
    return bool(get_worker().periodic_callbacks["profile"].is_running())


def tasks(lake: Lake, layer: str, build) -> list[DayTask]:
    resource = LakeResource.of(lake.settings)
    return [DayTask(dt, layer, build, OPTIONS, resource.place, resource.layout, resource.area) for dt in DAYS]


def rebuild(lake: Lake, workers: Workers, process=process_day) -> dict[str, bytes]:
    for key in lake.keys("processed/") + lake.keys("enhanced/"):
        lake.store.delete(key)
    for layer, build in (("processed", process), ("enhanced", enhance_published_day)):
        outcomes = list(workers.run(publish_day, tasks(lake, layer, build)))
        assert [str(outcome.error) for outcome in outcomes if outcome.error] == []
    return {key: lake.store.get(key) for key in lake.keys("processed/") + lake.keys("enhanced/")}


def test_a_cluster_builds_the_same_bytes_with_its_own_credentials_and_survives_a_worker(
    seaweedfs, monkeypatch, tmp_path
):
    environment = {
        **seaweedfs.variables(seaweedfs.create_bucket()),
        "WRM_DATA_DIR": str(tmp_path / "worker"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    lake = Lake(load_settings())
    for number, dt in enumerate(DAYS):
        lake.put_day(3, dt=dt, stations=5 + number)
    expected = rebuild(lake, Workers())
    assert len(expected) == len(DAYS) * len(LAYERS)

    with dask_cluster(tmp_path, environment) as address:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        workers = WorkersResource.of(load_settings()).client()
        assert workers.kind == "dask"
        assert rebuild(lake, workers) == expected
        assert [outcome.result for outcome in workers.run(is_sampled, range(4))] == [False] * 4
        # The footers of a file that was built twice are equal, too: its build time is that of the options.
        assert rebuild(lake, workers, dies_once) == expected
        assert lake.store.stat(f"{lake.layout.prefix}died") is not None

        # A worker that would write somewhere else says so.
        monkeypatch.setenv("BUCKET_NAME", seaweedfs.create_bucket())
        elsewhere = Lake(load_settings())
        (outcome, *_) = workers.run(publish_day, tasks(elsewhere, "processed", process_day)[:1])
        assert "would build something else" in str(outcome.error)

    travelling = pickle.dumps(tasks(lake, "processed", process_day))
    assert seaweedfs.secret_access_key.encode() not in travelling
    assert seaweedfs.access_key_id.encode() not in travelling
