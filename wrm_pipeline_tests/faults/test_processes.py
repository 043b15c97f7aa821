"""Processes die and meet: SIGKILL after each change to the disk of each job, two runs at once, a blocked pool."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import duckdb
import pytest
import yaml
from dagster._daemon.monitoring import concurrency, run_monitoring

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline.simulator.misbehaviour import Misbehaviour, misbehave
from wrm_pipeline_tests.faults import crash_runner
from wrm_pipeline_tests.faults.harness import (
    ANALYTICS,
    DEAD_LETTERED,
    JOB,
    MINUTE,
    NOON,
    PUBLISHED,
    Harness,
    Says,
    is_snapshot,
    local_day,
    s3_link,
    s3_world,
    time_of,
)
from wrm_pipeline_tests.faults.oracle import expected_of
from wrm_pipeline_tests.fixtures.fault_server import HANG
from wrm_pipeline_tests.integration.conftest import wait_until

DAY = local_day(NOON)
RAW = ["rename spool", "rename metadata of raw", "link raw", "remove spool"]
LETTER = ["rename metadata of dlq", "rename dlq"]
CACHE = "rename cache"
BUILD = ["rename metadata of processed", "rename processed", "rename metadata of enhanced", "rename enhanced"]
# Objects of an older writer move aside once the day's own is there.
FIRST_BUILD = [
    *BUILD[:2],
    "rename metadata of stray processed",  # its copy
    "link stray processed",
    "remove stray processed",
    "remove metadata of stray processed",
    *BUILD[2:],
    "rename metadata of stray enhanced",  # its copy
    "link stray enhanced",
    "remove stray enhanced",
    "remove metadata of stray enhanced",
]
DATABASE = "rename analytics.duckdb"
GBFS = "rename reports"
# Of both versions: all files at first, then those that change each minute; and whose stays the vehicles' ids are of.
FIRST_GBFS = ["rename key", *[GBFS] * 15, "rename stays.json"]
NEXT_GBFS = [*[GBFS] * 4, "rename stays.json"]
REPORT = ["rename metadata of reports", "rename reports"]
SITE_FILES = 48
# What the check of the feeds remembers; written again if it has changed.
FEEDS = ["rename metadata of feeds.json.json", "rename feeds.json"]

# Each change to the disk that each job makes, in order; a test sees to it that none is missing here. A job dies before
# each, with all that it has written for it, and after the last.
CHANGES = {
    "fetch": RAW,
    "fetch of no snapshot": [
        "rename spool",
        "rename metadata of quarantine",
        "link quarantine",
        *LETTER,
        "remove spool",
    ],
    "fetch without store": ["rename spool", "rename spool"],  # there, and what it is
    "delivery": [RAW[0], *RAW[1:] * 3],
    "fetch with breaker": ["rename breakers"],
    "build": [*[*LETTER, CACHE] * 2, *BUILD, *NEXT_GBFS],
    "first build": [*FIRST_BUILD, *FIRST_GBFS, "rename enhanced_files.json", DATABASE],
    "analytics": [
        *[DATABASE] * 3,
        *REPORT,  # the map
        CACHE,
        *[DATABASE] * 2,
        *REPORT,  # the expectations
        *FEEDS,
        DATABASE,
        *["rename site"] * SITE_FILES,
        *["rename metadata of site", "rename site"] * (SITE_FILES + 1),  # and what they are
        "rename metadata of duckdb",
        "rename duckdb",
    ],
}
TASKS = {
    "fetch": "fetch",
    "fetch of no snapshot": "fetch",
    "fetch without store": "fetch_without_store",
    "delivery": "fetch",
    "fetch with breaker": "fetch_with_breaker",
    "build": "build",
    "first build": "process",
    "analytics": "analyze",
}


def prepare(job: str, world: Harness, feed, city) -> None:
    """Bring the world to where the job has all its work to do."""
    if job in {"fetch of no snapshot", "fetch with breaker"}:
        feed.plan("html" if job == "fetch of no snapshot" else "500", times=1 if job == "fetch of no snapshot" else 4)
    if job == "delivery":
        for _ in range(2):
            body = city.snapshot(world.now)
            world.spool.add("raw", world.now, body)
            world.served.append((world.now, body))
            world.now += MINUTE
    if job in {"build", "analytics"}:
        assert isinstance(world.fetch(), IngestResult)
        assert world.process(DAY), world.failures
    if job == "build":
        rows = city.snapshot(world.now)
        header = rows.partition(b"\n")[0]
        bad = [b"1,x|y|z,Rynek,51.1,17.0,1,1,true,false,false,2,,0", b"1,2"]
        world.put_raw(world.now, b"\n".join([header, *bad, rows.partition(b"\n")[2]]))
    if job == "first build":
        world.put_raw(world.now, city.snapshot(world.now))
        for layer in ("processed", "enhanced"):
            folder = world.layout.partition_folder(layer, DAY)
            world.truth.put(f"{folder}all_{layer}_20250821_113000.parquet", b"PAR1 of an older writer PAR1")
    if job == "analytics":
        assert world.run(JOB, DAY), world.failures


@pytest.mark.parametrize("job", CHANGES)
def test_each_change_to_the_disk_is_known(feed_world, city, tmp_path, report, job):
    report(f"{job}: no kill, its changes are those that are killed between", "as listed")
    world, feed = feed_world
    prepare(job, world, feed, city)
    assert crash_runner.run(world, TASKS[job], tmp_path / "log") == CHANGES[job]


@pytest.mark.parametrize(
    ("job", "kill"), [(job, kill) for job, changes in CHANGES.items() for kill in crash_runner.kills(changes)], ids=str
)
def test_sigkill(feed_world, city, tmp_path, report, job, kill):
    changes, after = CHANGES[job], kill.changes
    outcome = {"fetch of no snapshot": "quarantined", "build": DEAD_LETTERED}.get(job, PUBLISHED)
    report(f"{job}: {crash_runner.place_of(kill, changes)}", outcome)
    world, feed = feed_world
    prepare(job, world, feed, city)
    killed_at = world.now
    body = _served_by(feed, city, job, killed_at)
    assert crash_runner.run(world, TASKS[job], tmp_path / "log", kill) == changes[:after]

    # From the first change on, the body is on the disk, and the fetch has kept it.
    if body is not None and after >= 1:
        world.served.append((killed_at, body))
    _readers_see_whole_things(world)
    feed.unplan()
    world.now += MINUTE
    with_breaker = world.feed(breaker=Breakers(world.settings.breaker_dir, now=lambda: world.now).of("feed"))
    next_run = world.fetch(with_breaker)
    assert isinstance(next_run, IngestResult), next_run
    assert not next_run.spooled
    if DATABASE in changes:
        assert world.run(JOB, DAY), world.failures
        if job == "first build":  # a stray that the killed run has left is what the reconciliation sees
            assert world.run(JOB, DAY), world.failures
        assert world.run(ANALYTICS), world.failures
        _database_is_of_now(world)
    else:
        assert world.process(DAY), world.failures
    if job == "fetch of no snapshot" and after == 0:
        outcome = PUBLISHED
    world.verify(outcome)


def _served_by(feed, city, job: str, at) -> bytes | None:
    if job == "fetch of no snapshot":
        return misbehave(Misbehaviour.HTML, city.snapshot(at)).body
    return city.snapshot(at) if job in {"fetch", "fetch without store", "delivery"} else None


def _readers_see_whole_things(world: Harness) -> None:
    """Right after the kill: every object can be read and is what it was stored as; so can the database."""
    for key, body in world.contents("").items():
        if key.endswith(".parquet"):
            assert body.startswith(b"PAR1")
            assert body.endswith(b"PAR1")
        if "/dlq/" in key:
            json.loads(body)
        if "/raw/" in key:
            assert is_snapshot(body, world.now)
    path = world.settings.database_path
    if path.exists():
        with closing(duckdb.connect(str(path), read_only=True)) as connection:
            connection.execute("SELECT count(*) FROM information_schema.tables").fetchall()


def _database_is_of_now(world: Harness) -> None:
    rows = sum(len(expected_of(body, time_of(key)).stations) for key, body in world.contents("raw/").items())
    with closing(duckdb.connect(str(world.settings.database_path), read_only=True)) as connection:
        (found,) = connection.execute("SELECT count(*) FROM wrm_analytics.wrm_stations_enhanced_data").fetchone()
        (summed,) = connection.execute("SELECT max(snapshots) FROM wrm_analytics.query_station_summary").fetchone()
    assert found == rows
    assert summed == len(world.contents("raw/"))


def test_sigkill_while_a_put_to_s3_is_on_its_way(monkeypatch, seaweedfs, city, tmp_path, report):
    report("build on S3: SIGKILL during the put of processed", PUBLISHED)
    with s3_link(seaweedfs, seaweedfs.create_bucket()) as link:
        proxy, world = link.proxy, s3_world(monkeypatch, seaweedfs, link)
        for _ in range(2):
            world.fetch(Says(lambda: world.now, [city.snapshot(world.now)]))
        assert world.process(), world.failures
        world.fetch(Says(lambda: world.now, [city.snapshot(world.now)]))
        before = world.contents("")
        proxy.fail("put", HANG, key="/processed/")
        seen = len(proxy.seen)
        monkeypatch.setenv("S3_ENDPOINT_URL", link.url)
        process = crash_runner.start(world, "build", tmp_path / "log")
        wait_until(
            lambda: any(o == "put" for o, _ in proxy.seen[seen:]), timeout_s=30, what="the build must come to its put"
        )
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert world.contents("") == before
        proxy.heal()
        assert world.settle() == [DAY]
        world.verify(PUBLISHED)


def test_two_builds_of_one_day_at_once(feed_world, tmp_path, report):
    report("two processes build the same day", PUBLISHED)
    world, _ = feed_world
    for _ in range(3):
        world.fetch()
    both = [crash_runner.start(world, "build", tmp_path / f"log{n}") for n in range(2)]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert all((tmp_path / f"log{n}.failures").read_text() == "" for n in range(2))
    world.settle()
    world.verify(PUBLISHED)


def test_a_build_that_was_overtaken_by_a_newer_one_is_repaired(world, city, report):
    report("a slow build overwrites what a newer one has published", PUBLISHED)
    for _ in range(30):
        world.put_raw(world.now, city.snapshot(world.now))
        world.now += MINUTE
    overtaken: list[str] = []

    def newer_build_first(operation: str, key: str) -> bool:
        if operation == "put" and "/processed/" in key and not overtaken:
            overtaken.append(key)
            world.put_raw(world.now, city.snapshot(world.now))
            assert world.process(), world.failures
        return False

    world.store.fails = newer_build_first
    assert world.process(), world.failures
    assert overtaken
    world.store.fails = lambda _operation, _key: False
    assert world.settle() == [DAY], "the newest snapshot was lost from the partition, and is found missing"
    world.verify(PUBLISHED)


@pytest.mark.parametrize("same", [True, False], ids=["same bytes", "other bytes"])
def test_two_fetches_in_the_same_second(feed_world, city, tmp_path, report, same):
    report(f"two processes fetch at once, {'the same' if same else 'other'} bytes", PUBLISHED)
    world, feed = feed_world
    if not same:
        moments = iter([world.now, world.now + timedelta(hours=1)])
        feed.clock = lambda: next(moments)
    both = [crash_runner.start(world, "fetch", tmp_path / f"log{n}") for n in range(2)]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert all((tmp_path / f"log{n}.failures").read_text() == "" for n in range(2))
    bodies = {city.snapshot(world.now)} if same else {city.snapshot(world.now + timedelta(hours=h)) for h in range(2)}
    raw = world.contents("raw/")
    assert sorted(raw) == sorted(world.key("raw", world.now + n * timedelta(seconds=1)) for n in range(len(bodies)))
    assert set(raw.values()) == bodies
    world.served = sorted((NOON + n * timedelta(seconds=1), raw[key]) for n, key in enumerate(sorted(raw)))
    assert world.process()
    world.verify(PUBLISHED)


def test_a_reader_sees_the_old_database_while_its_writer_is_killed(feed_world, tmp_path, report):
    report("DuckDB writer killed while a reader is open", PUBLISHED)
    world, _ = feed_world
    world.fetch()
    assert world.run(JOB, DAY)
    assert world.run(ANALYTICS)
    question = "SELECT max(snapshots) FROM wrm_analytics.query_station_summary"
    with closing(duckdb.connect(str(world.settings.database_path), read_only=True)) as reader:
        assert reader.execute(question).fetchall() == [(1,)]
        world.fetch()
        crash_runner.run(world, "build", tmp_path / "log")
        # It knows the day's new file, and dies when the database is ready to take the place of the old one.
        crash_runner.run(world, "analyze", tmp_path / "log", crash_runner.Kill(1))
        assert reader.execute(question).fetchall() == [(1,)]
        # No lock is left behind, by the dead writer or the living reader.
        first, *others = crash_runner.run(world, "analyze", tmp_path / "log")
        assert first == "remove analytics.duckdb"
        assert set(others) - set(FEEDS) == set(CHANGES["analytics"]) - set(FEEDS)
        assert reader.execute(question).fetchall() == [(1,)]
    with closing(duckdb.connect(str(world.settings.database_path), read_only=True)) as reader:
        assert reader.execute(question).fetchall() == [(2,)]
    world.verify(PUBLISHED)


def test_a_pool_whose_holder_was_killed_is_freed(feed_world, tmp_path, monkeypatch, report):
    report("SIGKILL of the run that holds the pool duckdb", PUBLISHED)
    world, _ = feed_world
    dagster_yaml = Path(__file__).parents[2] / "dagster.yaml"
    Path(os.environ["DAGSTER_HOME"], "dagster.yaml").write_text(dagster_yaml.read_text())
    monitoring = yaml.safe_load(dagster_yaml.read_text())["run_monitoring"]
    world.fetch()
    assert world.process()
    crash_runner.run(world, "analyze_on_instance", tmp_path / "log", crash_runner.Kill(1, after=True))
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.STARTED
        assert instance.event_log_storage.get_concurrency_info("duckdb").active_run_ids == {run.run_id}

        # The daemon's own steps, at the times at which the settings let them act.
        daemon = SimpleNamespace(instance=instance, create_request_context=lambda: None)
        logger = logging.getLogger("daemon")
        at = time.time() + monitoring["max_runtime_seconds"] + 1
        monkeypatch.setattr(run_monitoring, "get_current_timestamp", lambda: at)
        assert list(run_monitoring.execute_run_monitoring_iteration(daemon, logger)) == [None]
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        later = datetime.now(UTC) + timedelta(seconds=monitoring["free_slots_after_run_end_seconds"] + 1)
        monkeypatch.setattr(concurrency, "get_current_datetime", lambda: later)
        assert list(concurrency.execute_concurrency_slots_iteration(daemon, logger)) == [None]
        assert instance.event_log_storage.get_concurrency_info("duckdb").active_run_ids == set()

        world.instance = instance
        assert world.run(ANALYTICS), world.failures
    _database_is_of_now(world)
    world.verify(PUBLISHED)
