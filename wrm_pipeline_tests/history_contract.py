"""What pruning must do to Dagster's history, whatever it is stored in."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable

from wrm_pipeline.exporter.runs import RunSource
from wrm_pipeline.exporter.state_file import StateFile
from wrm_pipeline.exporter.vocabulary import Vocabulary
from wrm_pipeline.jobs.history_size import measure_history, what_goes
from wrm_pipeline.jobs.run_history import MINIMUM_DAYS, Pruned, prune

NOW = datetime.now(UTC).replace(microsecond=0)
ASSET = dg.AssetKey("days")
JOB = "__ephemeral_asset_job__"
CHECK = dg.AssetCheckKey(ASSET, "sound")
TEMPLATE_DAY = "2025-06-01"


@dg.asset(
    name="days",
    partitions_def=dg.DailyPartitionsDefinition("2025-06-01"),
    check_specs=[dg.AssetCheckSpec("sound", asset="days")],
)
def days(context):
    if context.run.tags.get("fail"):
        raise RuntimeError("on demand")
    context.log.info("a message")
    yield dg.MaterializeResult(metadata={"rows": 7})
    yield dg.AssetCheckResult(passed=True, check_name="sound")


def ago(**age: float) -> datetime:
    return NOW - timedelta(**age)


def run_both(instance: dg.DagsterInstance) -> tuple[str, str]:
    """A real run and one that fails; their ids. Takes seconds, so it is done once for a module."""
    ids = []
    for tags in ({}, {"fail": "yes"}):
        done = dg.materialize([days], partition_key=TEMPLATE_DAY, instance=instance, tags=tags, raise_on_error=False)
        assert done.success is not bool(tags)
        ids.append(done.run_id)
    assert instance.all_instigator_state() == []  # makes the schedules' database
    return ids[0], ids[1]


class History:
    """An instance with one real run and one that failed, and copies of them of any age."""

    def __init__(self, instance: dg.DagsterInstance, both: tuple[str, str]) -> None:
        self.instance = instance
        self.good, self.bad = both

    def add(
        self, ended: Sequence[datetime], *, day: str = TEMPLATE_DAY, template: str = "", run_key: str = ""
    ) -> list[str]:
        """Copies of a run (the good one) as if it had ended then, in the order given; their ids."""
        template = template or self.good
        ids = [str(uuid.uuid4()) for _ in ended]
        self._copy_run_rows(template, ids, ended, day, run_key)
        self._copy_events(template, ids, ended, day)
        if self.folder is not None:
            own = self.folder / f"{template}.db"
            for run_id, at in zip(ids, ended, strict=True):
                captured = self.output(run_id) / "compute_logs" / "days.err"
                captured.parent.mkdir(parents=True)
                captured.write_bytes(b"x" * 140_000)
                if own.exists():
                    shutil.copyfile(own, self.folder / f"{run_id}.db")
                for path in (captured, self.folder / f"{run_id}.db"):
                    if path.exists():
                        os.utime(path, (at.timestamp(), at.timestamp()))
                os.utime(self.output(run_id), (at.timestamp(), at.timestamp()))
        return ids

    @property
    def folder(self) -> Path | None:
        """Where SQLite has the events, and the files of runs that have their own."""
        storage = self.instance.event_log_storage
        return Path(storage.path_for_shard("x")).parent if isinstance(storage, SqliteEventLogStorage) else None

    def output(self, run_id: str) -> Path:
        return Path(self.instance.storage_directory()) / run_id

    def _copy_run_rows(
        self, template: str, ids: Sequence[str], ended: Sequence[datetime], day: str, run_key: str
    ) -> None:
        with self.instance.run_storage.connect() as connection:
            row = dict(connection.execute(sa.select(RunsTable).where(RunsTable.c.run_id == template)).mappings().one())
            tags = connection.execute(sa.select(RunTagsTable).where(RunTagsTable.c.run_id == template)).mappings().all()
            del row["id"]
            rows, tag_rows = [], []
            for run_id, at in zip(ids, ended, strict=True):
                naive = at.replace(tzinfo=None)
                times = {
                    "create_timestamp": naive,
                    "update_timestamp": naive,
                    "start_time": at.timestamp() - 1,
                    "end_time": at.timestamp(),
                }
                body = row["run_body"].replace(template, run_id).replace(TEMPLATE_DAY, day)
                rows.append({**row, **times, "run_id": run_id, "run_body": body})
                tag_rows += [
                    {"run_id": run_id, "key": tag["key"], "value": tag["value"].replace(TEMPLATE_DAY, day)}
                    for tag in tags
                ]
                if run_key:
                    tag_rows.append({"run_id": run_id, "key": "dagster/run_key", "value": run_key})
            connection.execute(sa.insert(RunsTable), rows)
            connection.execute(sa.insert(RunTagsTable), tag_rows)

    def _copy_events(self, template: str, ids: Sequence[str], ended: Sequence[datetime], day: str) -> None:
        events, tags, checks = SqlEventLogStorageTable, AssetEventTagsTable, AssetCheckExecutionsTable
        with self.instance.event_log_storage.index_connection() as connection:
            rows = connection.execute(
                sa.select(events).where(events.c.run_id == template).order_by(events.c.id)
            ).mappings()
            new = []
            originals = list(rows)
            for run_id, at in zip(ids, ended, strict=True):
                for row in originals:
                    text = row["event"].replace(template, run_id).replace(TEMPLATE_DAY, day)
                    partition = day if row["partition"] else None
                    naive = at.replace(tzinfo=None)
                    values = {"run_id": run_id, "event": text, "partition": partition, "timestamp": naive}
                    new.append({**{name: row[name] for name in row if name != "id"}, **values})
            connection.execute(sa.insert(events), new)
            placed: dict[tuple[str, str], int] = {}
            wanted = ("ASSET_MATERIALIZATION", "ASSET_CHECK_EVALUATION")
            of_kind = sa.select(events.c.id, events.c.run_id, events.c.dagster_event_type).where(
                events.c.dagster_event_type.in_(wanted)
            )
            known = set(ids)
            for event_id, run_id, kind in connection.execute(of_kind):
                if run_id in known:
                    placed[run_id, kind] = event_id
            tag_rows = connection.execute(
                sa.select(tags).where(tags.c.event_id.in_(sa.select(events.c.id).where(events.c.run_id == template)))
            ).mappings()
            values = [{name: tag[name] for name in tag if name != "id"} for tag in tag_rows]
            copies = [
                {**value, "event_id": placed[run_id, wanted[0]]}
                for run_id in ids
                for value in values
                if (run_id, wanted[0]) in placed
            ]
            if copies:
                connection.execute(sa.insert(tags), copies)
            results = list(connection.execute(sa.select(checks).where(checks.c.run_id == template)).mappings())
            copies = [
                {
                    **{name: result[name] for name in result if name != "id"},
                    "run_id": run_id,
                    "evaluation_event": result["evaluation_event"].replace(template, run_id),
                    "evaluation_event_storage_id": placed.get((run_id, wanted[1])),
                }
                for run_id in ids
                for result in results
            ]
            connection.execute(sa.insert(checks), copies)

    def prune(self, *, days: float, apply: bool = True) -> Pruned:
        return prune(self.instance, before=ago(days=days), apply=apply)

    def run_ids(self) -> set[str]:
        return {run.run_id for run in self.instance.get_runs()}

    def rows(self) -> dict[str, int]:
        """Rows of each table that runs fill."""
        counts = {}
        for table in (RunsTable, RunTagsTable):
            with self.instance.run_storage.connect() as connection:
                counts[table.name] = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for table in (SqlEventLogStorageTable, AssetEventTagsTable, AssetCheckExecutionsTable):
            with self.instance.event_log_storage.index_connection() as connection:
                counts[table.name] = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        return counts

    def materialized(self) -> set[str]:
        return set(self.instance.get_materialized_partitions(ASSET))


class HistoryContract:
    """Subclasses give the fixture `history`."""

    def test_old_runs_go_and_what_tells_of_now_stays(self, history: History) -> None:
        old_days = [f"2025-07-{day:02}" for day in range(1, 29)]
        for number, day in enumerate(old_days):
            history.add([ago(days=90 - number), ago(days=89.5 - number)], day=day)
        young = history.add([ago(days=1)], day="2025-08-01", run_key="2025-08-01:abc")
        check_before = self.latest_check(history)
        before = history.materialized()
        assert before >= {*old_days, "2025-08-01"}

        dry = history.prune(days=14, apply=False)
        assert len(history.run_ids()) == 59
        done = history.prune(days=14)
        assert (dry.runs, dry.events, dry.check_results) == (done.runs, done.events, done.check_results)
        assert (done.runs, done.runs_left) == (56, 3)
        assert dry.events_left == done.events_left

        assert history.run_ids() == {history.good, history.bad, *young}
        assert history.materialized() == before
        (newest,) = history.instance.fetch_materializations(ASSET, limit=1).records
        assert newest.run_id == young[0]
        statuses = history.instance.get_status_by_partition(
            ASSET, sorted(before), dg.DailyPartitionsDefinition("2025-06-01")
        )
        assert statuses is not None
        assert {statuses[day].value for day in (*old_days, "2025-08-01")} == {"MATERIALIZED"}
        assert self.latest_check(history) == check_before
        (found,) = history.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": "2025-08-01:abc"}))
        assert found.run_id == young[0]
        assert history.prune(days=14).runs == 0

    @staticmethod
    def latest_check(history: History) -> tuple[Any, ...]:
        found = history.instance.event_log_storage.get_latest_asset_check_execution_by_key([CHECK])[CHECK]
        return found.run_id, found.status, found.event.timestamp if found.event else None

    def test_a_failed_attempt_stays_failed_and_runs_that_have_not_ended_stay(self, history: History) -> None:
        (fine,) = history.add([ago(days=61)], day="2025-07-01")
        (failed,) = history.add([ago(days=60)], day="2025-07-01", template=history.bad)
        mended = history.add([ago(days=60)], day="2025-07-02", template=history.bad)
        history.add([ago(days=59)], day="2025-07-02")
        stuck = history.add([ago(days=50)], day="2025-07-03")
        with history.instance.run_storage.connect() as connection:
            connection.execute(RunsTable.update().where(RunsTable.c.run_id == stuck[0]).values(status="STARTED"))
        partitions = dg.DailyPartitionsDefinition("2025-06-01")
        wanted = ["2025-07-01", "2025-07-02", "2025-07-03"]
        before = history.instance.get_status_by_partition(ASSET, wanted, partitions)

        history.prune(days=14)

        assert history.instance.get_status_by_partition(ASSET, wanted, partitions) == before
        assert {day: status.value for day, status in (before or {}).items()}["2025-07-01"] == "FAILED"
        left = history.run_ids()
        assert {failed, stuck[0]} < left
        assert not {fine, *mended} & left

    def test_ticks_go_but_for_the_newest_of_each(self, history: History) -> None:
        instance = history.instance
        for name, ages in (("old", [40, 30, 20]), ("busy", [40, 1, 0.5])):
            for age in ages:
                instance.create_tick(
                    TickData(
                        instigator_origin_id=name,
                        selector_id=name,
                        instigator_name=name,
                        instigator_type=dg._core.definitions.run_request.InstigatorType.SENSOR,
                        status=TickStatus.SKIPPED,
                        timestamp=ago(days=age).timestamp(),
                    )
                )
        assert history.prune(days=14).ticks == 3
        assert [tick.timestamp for tick in instance.get_ticks("old", "old")] == [ago(days=20).timestamp()]
        assert len(instance.get_ticks("busy", "busy")) == 2

    def test_counters_of_the_exporter_do_not_fall_or_double(self, history: History, tmp_path: Path) -> None:
        history.add([ago(days=40 - n / 10) for n in range(30)], day="2025-07-01")
        history.add([ago(days=30)], day="2025-07-02", template=history.bad)
        words = Vocabulary(("days",), (JOB,), ())
        state = StateFile(tmp_path / "runs.json")

        def counted() -> dict[tuple[str, ...], float]:
            source = RunSource(lambda: history.instance, words, state)
            source.collect()
            families = {family.name: family for family in source.families(0)}
            samples = families["dagster_runs"].samples
            return {tuple(sample.labels.values()): sample.value for sample in samples}

        before = counted()
        assert before[JOB, "success"] == 31
        history.prune(days=14)
        assert counted() == before
        history.add([ago(hours=1)], day="2025-08-01")
        assert counted()[JOB, "success"] == 32
        assert counted()[JOB, "failure"] == before[JOB, "failure"]

    def check_flat(self, history: History, *, days: int, a_day: int, kept_days: int) -> list[dict[str, int]]:
        """Live through `days` of `a_day` runs each, pruning each day; gives rows and bytes after each prune."""
        found = []
        for day in range(days):
            start = ago(days=days - day)
            history.add(
                [start + timedelta(seconds=n * 86400 / a_day) for n in range(a_day)], day=f"2025-09-{day % 30 + 1:02}"
            )
            history.prune(days=days - day - 1 + kept_days)
            found.append({**history.rows(), **self.bytes_used(history)})
        assert len(history.materialized()) == min(days, 30) + 1
        return found

    @staticmethod
    def bytes_used(history: History) -> dict[str, int]:
        root = Path(history.instance.root_directory)
        return {"bytes": sum(path.stat().st_size for path in root.rglob("*") if path.is_file())}


class HistorySizeContract:
    """What the size of the history is, and what goes because of it."""

    def test_size_and_pace(self, history: History) -> None:
        history.add([ago(days=3)] * 38)
        found = measure_history(history.instance, NOW + timedelta(minutes=1))
        assert found.runs == 40
        assert found.bytes > 38 * 5_000
        # Two runs in the last day.
        assert found.runs_a_day == 2
        assert found.after(days=7) == pytest.approx(found.bytes / 40 * 14)

    def test_the_oldest_runs_go_until_the_rest_fits_but_two_days_stay(self, history: History) -> None:
        ages = [*range(40, 4, -1)]
        history.add([ago(days=days) for days in ages])
        size = measure_history(history.instance, NOW)
        assert what_goes(history.instance, 50, size.bytes + 1, NOW) < ago(days=49)
        half = what_goes(history.instance, 50, size.bytes // 2, NOW)
        assert ago(days=22) < half <= ago(days=19)
        assert what_goes(history.instance, 10, size.bytes // 2, NOW) > ago(days=11)
        assert ago(days=5) < what_goes(history.instance, 50, 1, NOW) <= ago(days=MINIMUM_DAYS)
