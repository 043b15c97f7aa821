"""Disks that are full, read-only or someone else's. Each scenario's disks are its own process's."""

from __future__ import annotations

import os
from contextlib import closing

import duckdb
import pytest

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline.lake.spool import SpoolFullError
from wrm_pipeline_tests.faults.harness import (
    ANALYTICS,
    JOB,
    MINUTE,
    NOON,
    PUBLISHED,
    REPAIRED,
    SPOOLED,
    Harness,
    Says,
    failing,
    local_day,
)
from wrm_pipeline_tests.faults.mount_namespace import fill, mount_tmpfs, run_in_namespace, set_read_only

DAY = local_day(NOON)


def ingest(world: Harness) -> IngestResult:
    result = world.fetch()
    assert isinstance(result, IngestResult), result
    return result


def lake_full_spool_not(world: Harness) -> None:
    mount_tmpfs(world.settings.lake_dir, 400)
    ingest(world)
    filler = fill(world.settings.lake_dir)
    results = [ingest(world) for _ in range(3)]
    assert all(result.spooled and "Make room" in result.spool_reason for result in results)
    filler.unlink()
    assert len(ingest(world).delivered.keys) == 3
    assert world.process(), world.failures
    world.verify(SPOOLED)


def lake_read_only_spool_not(world: Harness) -> None:
    mount_tmpfs(world.settings.lake_dir, 1000)
    ingest(world)
    set_read_only(world.settings.lake_dir, True)
    results = [ingest(world) for _ in range(3)]
    assert all(result.spooled and "EROFS" in result.spool_reason for result in results)
    set_read_only(world.settings.lake_dir, False)
    assert len(ingest(world).delivered.keys) == 3
    assert world.process(), world.failures
    world.verify(SPOOLED)


def spool_full_lake_not(world: Harness) -> None:
    mount_tmpfs(world.settings.spool_dir, 64)
    filler = fill(world.settings.spool_dir)
    assert not ingest(world).spooled, "straight to the store"
    filler.unlink()
    ingest(world)
    assert world.process(), world.failures
    world.verify(PUBLISHED)


def spool_read_only_lake_not(world: Harness) -> None:
    mount_tmpfs(world.settings.spool_dir, 64)
    set_read_only(world.settings.spool_dir, True)
    assert not ingest(world).spooled
    set_read_only(world.settings.spool_dir, False)
    ingest(world)
    assert world.process(), world.failures
    world.verify(PUBLISHED)


def spool_full_with_bodies_waiting(world: Harness) -> None:
    mount_tmpfs(world.settings.spool_dir, 64)
    with failing(world, lambda _operation, _key: True):
        for _ in range(3):
            assert ingest(world).spooled
    filler = fill(world.settings.spool_dir)
    assert len(ingest(world).delivered.keys) == 3, "what waits goes first, the new body straight after it"
    filler.unlink()
    assert world.process(), world.failures
    world.verify(SPOOLED)


def both_full(world: Harness) -> None:
    mount_tmpfs(world.settings.data_dir, 400)
    ingest(world)
    assert world.process(), world.failures
    before = world.contents("")
    filler = fill(world.settings.data_dir)
    error = world.fetch()
    assert isinstance(error, OSError)
    assert "No space left" in str(error)
    del world.served[-1]  # it is lost, and the run failed and said so: there is nowhere to put it
    filler.unlink()
    assert world.contents("") == before
    ingest(world)
    assert world.process(), world.failures
    world.verify(REPAIRED)


def data_folder_read_only(world: Harness) -> None:
    mount_tmpfs(world.settings.data_dir, 1000)
    ingest(world)
    before = world.contents("")
    set_read_only(world.settings.data_dir, True)
    assert isinstance(world.fetch(), OSError)
    del world.served[-1]  # lost, and said to be
    assert not world.process()
    set_read_only(world.settings.data_dir, False)
    assert world.contents("") == before
    ingest(world)
    assert world.process(), world.failures
    world.verify(REPAIRED)


def full_at_the_put_of_a_partition(world: Harness) -> None:
    mount_tmpfs(world.settings.lake_dir, 1000)
    ingest(world)
    assert world.process(), world.failures
    ingest(world)
    before = world.contents("")
    filler = fill(world.settings.lake_dir)
    assert not world.process()
    assert "Make room" in world.failures[-1]
    filler.unlink()
    assert world.contents("") == before
    assert world.settle() == [DAY]
    ingest(world)
    world.settle()
    world.verify(REPAIRED)


def full_between_processed_and_enhanced(world: Harness) -> None:
    mount_tmpfs(world.settings.lake_dir, 1000)
    for _ in range(3):
        ingest(world)
    assert world.process(), world.failures
    ingest(world)
    old = world.contents("enhanced/")
    fillers = []

    def when_enhanced(operation: str, key: str) -> bool:
        if operation == "put" and "/enhanced/" in key:
            fillers.append(fill(world.settings.lake_dir))
        return False

    with failing(world, when_enhanced):
        assert not world.process()
    fillers[0].unlink()
    assert world.contents("enhanced/") == old
    assert world.settle() == [DAY]
    world.verify(REPAIRED)


def full_while_the_database_is_written(world: Harness) -> None:
    folder = world.settings.data_dir
    mount_tmpfs(folder, 20_000)
    mount_tmpfs(world.settings.lake_dir, 20_000)
    ingest(world)
    assert world.run(JOB, DAY), world.failures
    assert world.run(ANALYTICS), world.failures
    before = world.settings.database_path.read_bytes()
    ingest(world)
    assert world.process(), world.failures
    filler = fill(folder)
    assert not world.run(ANALYTICS)
    filler.unlink()
    assert world.settings.database_path.read_bytes() == before
    assert world.run(ANALYTICS), world.failures
    with closing(duckdb.connect(str(world.settings.database_path), read_only=True)) as connection:
        found = connection.execute("SELECT max(snapshots) FROM wrm_analytics.query_station_summary").fetchone()
    assert found == (2,)
    world.verify(REPAIRED)


def state_of_the_breaker_cannot_be_written(world: Harness) -> None:
    folder = world.settings.breaker_dir
    mount_tmpfs(folder, 64)
    set_read_only(folder, True)
    breaker = Breakers(folder, now=lambda: world.now).of("feed")
    world.feed_url = "http://127.0.0.1:9/"
    for _ in range(6):
        assert isinstance(world.fetch(Harness.feed(world, breaker=breaker)), Exception)
    set_read_only(folder, False)
    ingest(world)
    assert world.process(), world.failures
    world.verify(REPAIRED)


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)


def _become_root() -> None:
    os.setresuid(0, 0, 0)
    os.setresgid(0, 0, 0)


def lake_of_another_user(world: Harness) -> None:
    ingest(world)
    world.settings.spool_dir.mkdir(exist_ok=True)
    world.settings.spool_dir.chmod(0o777)
    for folder in [world.settings.data_dir, *world.settings.data_dir.parents]:
        if folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(0o755)
    world.settings.lake_dir.chmod(0o700)
    _become_nobody()
    try:
        result = ingest(world)
    finally:
        _become_root()
    assert result.spooled
    assert "Let uid 65534 write there" in result.spool_reason
    assert ingest(world).delivered.keys == (world.key("raw", world.served[1][0]),)
    assert world.process(), world.failures
    world.verify(SPOOLED)


SCENARIOS = {
    lake_full_spool_not: ("lake: disk full for 3 minutes", SPOOLED),
    lake_read_only_spool_not: ("lake: read-only mount for 3 minutes", SPOOLED),
    spool_full_lake_not: ("spool: disk full", PUBLISHED),
    spool_read_only_lake_not: ("spool: read-only mount", PUBLISHED),
    spool_full_with_bodies_waiting: ("spool: disk full with 3 bodies in it", SPOOLED),
    both_full: ("whole data folder: disk full", REPAIRED),
    data_folder_read_only: ("whole data folder: read-only mount", REPAIRED),
    full_at_the_put_of_a_partition: ("disk full at the put of processed", REPAIRED),
    full_between_processed_and_enhanced: ("disk full at the put of enhanced", REPAIRED),
    full_while_the_database_is_written: ("disk full while DuckDB writes", REPAIRED),
    state_of_the_breaker_cannot_be_written: ("breaker's state: read-only mount", REPAIRED),
    lake_of_another_user: ("lake: permission denied (another user's folder)", SPOOLED),
}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_disk(environment, tmp_path, report, scenario):
    if scenario is lake_of_another_user and os.getuid() != 0:
        pytest.skip("only root can become another user")
    report(*SCENARIOS[scenario])
    run_in_namespace(scenario, tmp_path)


def test_a_spool_at_its_bound_keeps_the_oldest_and_says_so(world, city, monkeypatch, report):
    report("store away until the spool is full", REPAIRED)
    size = len(city.snapshot(NOON))
    world.settings = world.settings.model_copy(update={"spool_max_bytes": size * 3 + 100})
    world.feed = lambda: Says(lambda: world.now, [city.snapshot(world.now)])
    with failing(world, lambda _operation, _key: True):
        results = [world.fetch() for _ in range(5)]
    assert [isinstance(result, IngestResult) and result.spooled for result in results] == [True] * 3 + [False] * 2
    assert all(isinstance(result, SpoolFullError) for result in results[3:])
    del world.served[3:]  # lost, and each of their runs failed and said so
    world.now += MINUTE
    assert len(ingest(world).delivered.keys) == 3
    assert world.process(DAY), world.failures
    world.verify(REPAIRED)
