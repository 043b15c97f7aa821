"""The disaster drill: only raw/ and dlq/ are left, and everything comes back, row for row."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.domain.dead_letters import DISCARDED
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline_tests.fixtures.lake import ENHANCED, PROCESSED, Lake, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line

DAYS = [date(2025, 8, 20), date(2025, 8, 21), date(2025, 8, 22)]
LAYERS = ("processed", "enhanced")

# When something was made and of which object (its ETag), not what it says.
_MADE = {"processed_at", "refreshed_at", "source", "etag"}


def noon(dt: date) -> datetime:
    return datetime(dt.year, dt.month, dt.day, 12, tzinfo=UTC)


@pytest.fixture
def full_lake(lake: Lake) -> Lake:
    """Three days, with a corrected and a discarded dead letter, a dead file and a repeated station, published."""
    for dt in DAYS:
        lake.put_day(4, dt=dt)
    at = noon(DAYS[1]) + timedelta(hours=1)
    combined = f"{int(at.timestamp())}|7200|-1"
    bad = [line(id="15998", combined=combined, bikes="x"), line(id="15999", combined=combined, lat="north")]
    lake.put_raw(at, snapshot(at, 5, *bad, line(id="15001", combined=combined)))
    lake.put_raw(at + timedelta(minutes=1), b"")
    for dt in DAYS:
        rebuild(lake, dt)
    queue = DeadLetterQueue(lake.store, lake.layout)
    letters = {letter.error_type: letter for letter in queue.of_date(DAYS[1])}
    corrected = letters["bad_count"]
    good = line(id="15998", combined=combined, bikes="4")
    queue.put(replace(corrected, records=tuple(replace(record, corrected_data=good) for record in corrected.records)))
    queue.put(replace(next(v for k, v in letters.items() if k != "bad_count"), status=DISCARDED))
    rebuild(lake, DAYS[1])
    return lake


def rebuild(lake: Lake, dt: date) -> None:
    rebuild_partition(lake.store, lake.layout, dt, area=lake.settings.area, now=datetime.now(UTC))


def partitions(lake: Lake) -> dict[str, list[dict[str, Any]]]:
    """The rows of every partition, without the times at which they were made."""
    return {
        lake.partition_key(layer, dt): [
            {name: value for name, value in row.items() if name not in _MADE} for row in lake.rows(layer, dt)
        ]
        for layer in LAYERS
        for dt in DAYS
    }


def tables(lake: Lake) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of every table and view of the analytics database, sorted, without such times."""
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'wrm_analytics' ORDER BY 1"
        ).fetchall()
        found = {}
        for (name,) in names:
            rows = connection.execute(f'SELECT * FROM wrm_analytics."{name}"')
            # The catalog's examples are whichever rows the database gave first.
            left_out = _MADE | ({"samples"} if name == "catalog_columns" else set())
            kept = [index for index, column in enumerate(rows.description) if column[0] not in left_out]
            values = [tuple(row[index] for index in kept) for row in rows.fetchall()]
            if name in ("quality_profile", "catalog_columns"):  # they describe each column, those among them
                values = [row for row in values if not _MADE & {str(value) for value in row[:3]}]
            found[name] = sorted(values, key=repr)
        return found


def test_from_raw_and_dead_letters_alone_every_row_comes_back(
    full_lake: Lake, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = full_lake
    assert main(["rebuild", "--apply"]) == 0
    before, tables_before = partitions(lake), tables(lake)
    letters_before = {letter.entry_id: letter for letter in DeadLetterQueue(lake.store, lake.layout).all()}
    assert any(row["station_id"] == "15998" for row in before[lake.partition_key("enhanced", DAYS[1])])
    # The daily tables have every day, not the newest alone.
    summaries = tables_before["query_station_summary"]
    assert {value for row in summaries for value in row if type(value) is date} == set(DAYS)
    assert len(tables_before) >= 6

    for key in lake.keys(""):
        if not key.startswith((lake.layout.raw_prefix, lake.layout.dead_letter_prefix)):
            lake.store.delete(key)
    assert lake.settings.database_path.exists()
    lake.settings.database_path.unlink()
    shutil.rmtree(environment.parent / "dagster_home")
    (environment.parent / "dagster_home").mkdir()
    capsys.readouterr()
    assert main(["rebuild", "--apply"]) == 0

    assert partitions(lake) == before
    assert tables(lake) == tables_before
    letters = {letter.entry_id: letter for letter in DeadLetterQueue(lake.store, lake.layout).all()}
    assert {key: (letter.status, letter.records) for key, letter in letters.items()} == {
        key: (letter.status, letter.records) for key, letter in letters_before.items()
    }
    assert lake.keys("duckdb/") == [lake.layout.database_key]
    with dg.DagsterInstance.get() as instance:
        for asset in (PROCESSED, ENHANCED):
            known = instance.get_materialized_partitions(dg.AssetKey(asset))
            assert known == {dt.isoformat() for dt in DAYS}
    said = capsys.readouterr().out
    assert "2025-08-21  6 snapshots, 51 rows, 1 dead-lettered: processed+enhanced written" in said
    assert "3 of 3" in said


def test_a_rebuild_that_was_cut_short_goes_on_where_it_was(
    full_lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = full_lake
    for layer in LAYERS:
        for dt in DAYS[1:]:
            lake.store.delete(lake.partition_key(layer, dt))
    first = lake.etags("processed/")
    monkeypatch.delenv("DAGSTER_HOME")
    put = LocalObjectStore.put

    def fails(self: LocalObjectStore, key: str, *arguments: Any, **options: Any) -> Any:
        if key == lake.partition_key("enhanced", DAYS[1]):
            raise TransientError("HTTP 503 Slow Down", "s3", "put", key)
        return put(self, key, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalObjectStore, "put", fails)
        assert main(["rebuild", "--apply"]) == 1
    captured = capsys.readouterr()
    assert "2025-08-21  failed: s3 put" in captured.out
    assert "1 of 3 days failed (2025-08-21)" in captured.err
    assert not lake.settings.database_path.exists()

    assert main(["rebuild", "--layer", "processed", "--layer", "enhanced", "--apply"]) == 0
    said = capsys.readouterr().out
    assert "2025-08-20  4 snapshots, 44 rows, 0 dead-lettered: there already" in said
    assert "2025-08-21  6 snapshots, 51 rows, 1 dead-lettered: enhanced written" in said
    assert first.items() <= lake.etags("processed/").items()


def test_a_dry_run_and_a_part(
    full_lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = full_lake
    monkeypatch.delenv("DAGSTER_HOME")
    for dt in DAYS:
        lake.store.delete(lake.partition_key("enhanced", dt))
    before = lake.etags()
    assert main(["rebuild", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert ["enhanced", "0", "3"] in [row.split() for row in said.splitlines()]
    assert "Nothing was changed" in said
    assert lake.etags() == before

    assert main(["rebuild", "--from", "2025-08-21", "--to", "2025-08-21", "--layer", "enhanced", "--apply"]) == 0
    assert sorted(set(lake.etags()) - set(before)) == [lake.partition_key("enhanced", DAYS[1])]
    assert main(["rebuild", "--from", "2025-09-01"]) == 1
    assert "no raw snapshot of the selected days" in capsys.readouterr().err


def test_full_parses_everything_again(full_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = full_lake
    monkeypatch.delenv("DAGSTER_HOME")
    before, rows = lake.etags("processed/"), partitions(lake)
    assert main(["rebuild", "--full", "--layer", "processed", "--layer", "enhanced", "--apply"]) == 0
    assert not set(before.items()) & set(lake.etags("processed/").items())
    assert partitions(lake) == rows
