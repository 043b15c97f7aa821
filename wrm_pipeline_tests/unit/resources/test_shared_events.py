"""Dagster's event log in one file, beside runs that have their own."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from wrm_pipeline.resources.packed_text import pack, unpack
from wrm_pipeline.resources.shared_events import SharedSqliteEventLogStorage, unpack_history

SHARED = """
event_log_storage: {module: wrm_pipeline.resources.shared_events, class: SharedSqliteEventLogStorage}
run_storage: {module: wrm_pipeline.resources.opened_storage, class: OpenedRunStorage}
schedule_storage: {module: wrm_pipeline.resources.opened_storage, class: OpenedScheduleStorage}
"""
ENDED = dg.DagsterEventType.RUN_SUCCESS


@dg.asset(check_specs=[dg.AssetCheckSpec("sound", asset="stations")])
def stations(context):
    context.log.info("ęąć counted")
    yield dg.MaterializeResult(metadata={"rows": 7})
    yield dg.AssetCheckResult(passed=True, check_name="sound")


@contextmanager
def instance_in(home: Path, configuration: str) -> Iterator[dg.DagsterInstance]:
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{configuration}")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run(instance: dg.DagsterInstance) -> str:
    return dg.materialize([stations], instance=instance).run_id


def messages(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    return [record.event_log_entry.message for record in instance.get_records_for_run(run_id).records]


def rows(instance: dg.DagsterInstance) -> list[int]:
    page = instance.fetch_materializations(stations.key, limit=100).records
    return [record.asset_materialization.metadata["rows"].value for record in page if record.asset_materialization]


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str], str]:
    """A home that had Dagster's own storage: the run from then with its messages, and one from since."""
    home = tmp_path_factory.mktemp("upgraded")
    with instance_in(home, "") as instance:
        before = run(instance)
        said = messages(instance, before)
    with instance_in(home, SHARED) as instance:
        return home, before, said, run(instance)


def test_runs_from_before_are_read_and_new_ones_have_no_file(upgraded: tuple[Path, str, list[str], str]) -> None:
    home, before, said, since = upgraded
    assert {path.name for path in (home / "history" / "runs").glob("*.db")} == {"index.db", f"{before}.db"}
    with instance_in(home, SHARED) as instance:
        assert isinstance(instance.event_log_storage, SharedSqliteEventLogStorage)
        assert messages(instance, before) == said
        assert len(messages(instance, since)) == len(said)
        assert "ęąć counted" in messages(instance, since)
        assert rows(instance) == [7, 7]
        ended = instance.fetch_run_status_changes(ENDED, limit=10).records
        assert [record.run_id for record in ended] == [since, before]
        steps = instance.get_event_records(dg.EventRecordsFilter(dg.DagsterEventType.STEP_SUCCESS))
        assert [record.run_id for record in steps] == [since]
        check = dg.AssetCheckKey(stations.key, "sound")
        history = instance.event_log_storage.get_asset_check_execution_history(check, limit=5)
        assert [(execution.run_id, execution.status.value) for execution in history] == [
            (since, "SUCCEEDED"),
            (before, "SUCCEEDED"),
        ]


def test_a_run_that_began_before_goes_on_in_its_own_file(upgraded: tuple[Path, str, list[str], str]) -> None:
    home, before, said, _ = upgraded
    with instance_in(home, SHARED) as instance:
        found = instance.get_run_by_id(before)
        assert found is not None
        instance.report_engine_event("one more", found)
        assert messages(instance, before) == [*said, "one more"]
    with instance_in(home, "") as instance:
        assert messages(instance, before) == [*said, "one more"]


def test_events_are_stored_in_a_quarter_of_their_size_and_once(tmp_path: Path) -> None:
    sizes = {}
    for name, configuration in (("own", ""), ("shared", SHARED)):
        with instance_in(tmp_path / name, configuration) as instance:
            run(instance)
            runs = tmp_path / name / "history" / "runs"
            before = sum(path.stat().st_size for path in runs.glob("*.db"))
            for _ in range(2):
                run(instance)
            sizes[name] = (sum(path.stat().st_size for path in runs.glob("*.db")) - before) / 2
    assert sizes["own"] > 130_000, "Dagster does without a file of 110 kB for each run: is this storage still needed?"
    assert sizes["shared"] < 16_000


def test_dagsters_own_storage_reads_all_once_it_is_unpacked(tmp_path: Path) -> None:
    with instance_in(tmp_path, SHARED) as instance:
        run(instance)
    assert unpack_history(tmp_path / "history" / "runs" / "index.db") > 10
    with instance_in(tmp_path, "") as instance:
        assert type(instance.event_log_storage) is SqliteEventLogStorage
        assert rows(instance) == [7]
        run(instance)
        assert rows(instance) == [7, 7]
        assert len(instance.fetch_run_status_changes(ENDED, limit=10).records) == 2


def test_a_run_is_watched_as_it_goes_on(upgraded: tuple[Path, str, list[str], str]) -> None:
    home, _, _, followed = upgraded
    with instance_in(home, SHARED) as instance:
        found = instance.get_run_by_id(followed)
        assert found is not None
        last = instance.get_records_for_run(followed).cursor
        seen, happened = [], threading.Event()

        def tell(event: dg.EventLogEntry, cursor: str) -> None:
            seen.append(event.message)
            happened.set()

        # Another process has the file open: what is written stays in the second file.
        with sqlite3.connect(home / "history" / "runs" / "index.db") as other:
            other.execute("SELECT count(*) FROM event_logs").fetchone()
            instance.watch_event_logs(followed, last, tell)
            instance.report_engine_event("now", found)
            assert happened.wait(20)
        other.close()
        instance.event_log_storage.end_watch(followed, tell)
        assert seen == ["now"]


def test_an_instance_is_opened_without_alembic(
    upgraded: tuple[Path, str, list[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(ScriptDirectory, "from_config", loaded.append)
    with instance_in(upgraded[0], SHARED) as instance:
        assert instance.get_runs_count() >= 2
        assert instance.all_instigator_state() == []
        assert rows(instance)
    assert loaded == []


def test_queries_share_a_connection_which_ends_with_the_instance(
    upgraded: tuple[Path, str, list[str], str],
) -> None:
    home, before, _, since = upgraded
    opened: list[str] = []
    connect = sqlite3.connect

    def counted(place: str, *args, **kwargs) -> sqlite3.Connection:
        if not place.startswith("file:"):  # a look at the version
            opened.append(Path(place).name)
        return connect(place, *args, **kwargs)

    with instance_in(home, SHARED) as instance, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3.dbapi2, "connect", counted)
        for _ in range(3):
            instance.report_engine_event("now", instance.get_run_by_id(since))
            assert instance.all_instigator_state() == []
        assert sorted(opened) == ["index.db", "runs.db", "schedules.db"]
        assert messages(instance, before)
        assert descriptors(home) >= {"index.db", "runs.db"}
        assert f"{before}.db" not in descriptors(home)
    assert not descriptors(home) & {"index.db", "runs.db"}


def descriptors(folder: Path) -> set[str]:
    """Names of the files below a folder that this process has open."""
    links = (link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return {link.name for link in links if link.is_relative_to(folder)}


def test_a_deleted_run_is_gone(upgraded: tuple[Path, str, list[str], str]) -> None:
    home, stays, _, _ = upgraded
    with instance_in(home, SHARED) as instance:
        gone = run(instance)
        instance.delete_run(gone)
        assert messages(instance, gone) == []
        assert messages(instance, stays)


def test_threads_that_write_at_once_lose_nothing(upgraded: tuple[Path, str, list[str], str]) -> None:
    home, _, _, since = upgraded
    with instance_in(home, SHARED) as instance:
        found = instance.get_run_by_id(since)
        assert found is not None
        before = len(messages(instance, found.run_id))

    def write(name: int) -> None:
        with dg.DagsterInstance.from_config(str(home)) as mine:
            for number in range(10):
                mine.report_engine_event(f"{name}.{number}", found)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with instance_in(home, SHARED) as instance:
        assert len(messages(instance, found.run_id)) == before + 40


def test_packed_text_says_what_it_cannot_read() -> None:
    packed = pack('{"__class__": "EventLogEntry", "message": "żółć"}')
    assert unpack(packed) == '{"__class__": "EventLogEntry", "message": "żółć"}'
    with pytest.raises(ValueError, match="newer version"):
        unpack(b"\x02" + packed[1:])
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(packed[:10] + b"\0\0" + packed[12:])
