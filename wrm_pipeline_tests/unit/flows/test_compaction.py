"""Old days packed: the same rows from the same objects, whatever is killed when; and nothing lost by it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from datetime import UTC, date, datetime, timedelta

import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
from wrm_pipeline.flows.compaction import Compaction, compact_day, days_to_pack, restore_day
from wrm_pipeline.flows.watch import plan_reconciliation_runs
from wrm_pipeline.lake.raw_objects import RawDay, UnreadableArchiveError
from wrm_pipeline_tests.fixtures.lake import (
    DAY,
    NOON,
    PROCESSED,
    Lake,
    WatchedStore,
    build_day,
    definitions,
    failure_of,
    metadata_of,
    run_job,
    snapshot,
)

TODAY = DAY + timedelta(days=30)
RAW = "raw/dt=2025-08-21/"


def compact(lake: Lake, *, dry_run: bool = False, store=None, today: date = TODAY) -> Compaction:
    return compact_day(store or lake.store, lake.layout, DAY, area=DEFAULT_SERVICE_AREA, today=today, dry_run=dry_run)


def bodies(lake: Lake) -> dict[str, bytes]:
    """What a rebuild would read."""
    raw = RawDay.of(lake.store, lake.layout, DAY)
    return dict(raw.read(info.key for info in raw.objects()))


def unpublished(lake: Lake) -> list[date]:
    """Days that the reconciliation asks for."""
    plan = plan_reconciliation_runs(
        lake.store,
        lake.layout,
        None,
        area=DEFAULT_SERVICE_AREA,
        now=datetime(2025, 9, 20, tzinfo=UTC),
        today=TODAY,
        started=frozenset(),
    )
    return [run.dt for run in plan.runs]


@pytest.fixture
def published(lake: Lake) -> Lake:
    """A published day of six snapshots, one with a bad row and one without a time in its name."""
    lake.put_day(4)
    lake.put_raw(NOON + timedelta(minutes=9), snapshot(NOON) + b"1,2\n")
    lake.store.put(f"{lake.layout.raw_folder(DAY)}of-another-writer.txt", snapshot(NOON))
    assert build_day().success
    return lake


def test_a_packed_day_is_one_archive_and_an_index_and_the_same_day_to_all(published):
    before, rows = bodies(published), published.rows("enhanced")
    infos = RawDay.of(published.store, published.layout, DAY).objects()

    done = compact(published)

    assert (done.packed, done.refused) == (6, "")
    assert done.bytes_before == sum(map(len, before.values()))
    index, archive = published.keys(RAW)
    assert index == f"bike-data/gen_info/{RAW}archive/index.json"
    assert archive.startswith(f"bike-data/gen_info/{RAW}archive/wrm_stations_2025-08-21_")
    assert bodies(published) == before
    assert RawDay.of(published.store, published.layout, DAY).objects() == infos
    assert unpublished(published) == []
    unchanged = metadata_of(build_day(), PROCESSED)
    assert (unchanged["unchanged"], unchanged["snapshots"]) == (True, 6)
    rebuilt = metadata_of(build_day(config={"full_rebuild": True}), PROCESSED)
    assert (rebuilt["snapshots_parsed_now"], rebuilt["dead_lettered"]) == (6, 1)
    assert [row | {"processed_at": 0} for row in published.rows("enhanced")] == [
        row | {"processed_at": 0} for row in rows
    ]
    assert compact(published) == Compaction(DAY, 0, 0)


def test_the_archive_is_an_ordinary_zip_with_checksums(published):
    before = bodies(published)
    compact(published)
    with zipfile.ZipFile(io.BytesIO(published.store.get(published.keys(RAW)[1]))) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    sums = dict(reversed(line.split("  ")) for line in found.pop("SHA256SUMS").decode().splitlines())
    assert found == {key.rpartition("/")[2]: body for key, body in before.items()}
    assert sums == {name: hashlib.sha256(body).hexdigest() for name, body in found.items()}


def test_a_late_object_beside_the_archive_is_read_and_packed_with_the_others(published):
    before = bodies(published)
    compact(published)
    (_, first_archive) = published.keys(RAW)
    key = published.put_raw(NOON - timedelta(hours=1))
    late = published.store.get(key)
    assert unpublished(published) == [DAY]
    assert "process it first" in compact(published).refused
    assert metadata_of(build_day(), PROCESSED)["snapshots_parsed_now"] == 1

    assert compact(published).packed == 1
    assert bodies(published) == before | {key: late}
    assert len(published.keys(RAW)) == 2
    assert first_archive not in published.keys(RAW)
    assert unpublished(published) == []


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(published):
    before = published.etags()
    done = compact(published, dry_run=True)
    assert (done.packed, done.bytes_after, done.refused) == (6, 0, "")
    assert published.etags() == before


@pytest.mark.parametrize("reason", ["unpublished", "late", "enhanced lags", "young", "gone"])
def test_a_day_that_is_not_published_whole_is_left_alone(lake, reason):
    lake.put_day(3)
    if reason != "unpublished":
        assert build_day().success
    if reason == "late":
        lake.put_raw(NOON - timedelta(hours=2))
    if reason == "enhanced lags":
        lake.store.delete(lake.partition_key("enhanced"))
    if reason == "gone":
        lake.store.delete(lake.keys(RAW)[0])
    before = lake.etags()
    assert compact(lake, today=DAY + timedelta(days=1) if reason == "young" else TODAY).refused
    assert lake.etags() == before


def test_days_are_chosen_by_age_and_by_what_is_still_loose(published):
    def days(age: int, today: date = TODAY) -> list[date]:
        return list(days_to_pack(published.store, published.layout, today=today, older_than_days=age))

    assert days(30) == [DAY]
    assert days(31) == []
    assert days(0, DAY + timedelta(days=1)) == []
    compact(published)
    assert days(30) == []
    published.put_raw(NOON + timedelta(hours=3))
    assert days(30) == [DAY]


def test_after_a_failure_at_any_request_the_day_is_whole_and_the_next_try_completes(published):
    """Each write and each read fails once; a crash leaves the same."""
    before = bodies(published)
    reached = 0
    while True:
        asked = 0

        def fails(operation: str, _key: str, at: int = reached) -> bool:
            nonlocal asked
            asked += 1
            return asked == at + 1

        try:
            compact(published, store=WatchedStore(published.store, fails=fails))
        except ExternalError:
            assert bodies(published) == before, reached
            assert unpublished(published) == [], reached
            reached += 1
            if reached % 3 == 0:  # and so does a restore, cut short or not
                restore_day(published.store, published.layout, DAY)
                assert build_day().success
            continue
        break
    assert reached > 12
    assert len(published.keys(RAW)) == 2
    assert bodies(published) == before


def test_no_original_is_removed_if_the_archive_does_not_read_back(published):
    class Spoiling(WatchedStore):
        def get(self, key: str) -> bytes:
            body = super().get(key)
            return body[:-40] + b"x" * 40 if key.endswith(".zip") else body

    before = published.keys(RAW)
    with pytest.raises(UnreadableArchiveError, match="SHA-256"):
        compact(published, store=Spoiling(published.store))
    assert set(before) <= set(published.keys(RAW))
    assert published.layout.archive_index_key(DAY) not in published.keys(RAW)


def test_an_object_that_changes_meanwhile_is_kept(published):
    key = published.keys(RAW)[0]

    class Changing(WatchedStore):
        def put(self, name: str, *args, **kwargs):
            if name.endswith("index.json"):
                published.store.put(key, snapshot(NOON, 2))
            return super().put(name, *args, **kwargs)

    compact(published, store=Changing(published.store))
    assert published.store.get(key) == snapshot(NOON, 2)
    assert bodies(published)[key] == snapshot(NOON, 2)
    assert unpublished(published) == [DAY]


@pytest.mark.parametrize("damage", ["archive", "index"])
def test_a_damaged_archive_is_named_and_hides_no_other_day(published, damage):
    compact(published)
    index, archive = published.keys(RAW)
    key = archive if damage == "archive" else index
    published.store.put(key, published.store.get(key)[:-50])
    published.put_day(1, dt=DAY + timedelta(days=1))
    with pytest.raises(UnreadableArchiveError) as caught:
        bodies(published)
    assert key in str(caught.value)
    assert DAY + timedelta(days=1) in unpublished(published)
    with pytest.raises(UnreadableArchiveError):
        restore_day(published.store, published.layout, DAY)
    assert set(published.keys(RAW)) == {archive, index}


def test_a_restored_day_is_as_it_was(published):
    before, keys, rows = bodies(published), published.keys(RAW), published.rows("processed")
    compact(published)
    assert restore_day(published.store, published.layout, DAY) == 6
    assert published.keys(RAW) == keys
    assert bodies(published) == before
    assert build_day().success
    untimed = [row for row in published.rows("processed") if "another" not in row["s3_source_key"]]
    assert untimed == [row for row in rows if "another" not in row["s3_source_key"]]
    assert restore_day(published.store, published.layout, DAY) == 0


def test_archive_keys_are_no_raw_objects():
    layout = Layout()
    assert layout.parse_raw_key(layout.archive_index_key(DAY)) is None
    assert layout.archive_folder(DAY).startswith(layout.raw_folder(DAY))


# --- the job and the command ---


def test_the_job_is_off_until_an_age_is_set(published, monkeypatch):
    failed = run_job("wrm_compaction_job", raise_on_error=False)
    assert "WRM_COMPACT_AFTER_DAYS" in failure_of(failed)
    assert "wrm_compaction_schedule" not in {schedule.name for schedule in definitions().schedules}

    monkeypatch.setenv("WRM_COMPACT_AFTER_DAYS", "30")
    assert "wrm_compaction_schedule" in {schedule.name for schedule in definitions().schedules}
    before = published.etags()
    dry = run_job("wrm_compaction_job", config={"pack_old_days": {"dry_run": True}})
    assert (dry.output_for_node("pack_old_days"), published.etags()) == (1, before)
    assert run_job("wrm_compaction_job").output_for_node("pack_old_days") == 1
    assert len(published.keys(RAW)) == 2
    assert run_job("wrm_compaction_job").output_for_node("pack_old_days") == 0


def test_the_command_says_first_and_does_with_write(published, capsys):
    before = published.etags()
    assert main(["compact"]) == 2
    assert main(["compact", "--older-than-days", "30"]) == 0
    assert "6 raw objects of " in capsys.readouterr().out
    assert published.etags() == before
    assert main(["compact", "--older-than-days", "30", "--write"]) == 0
    assert len(published.keys(RAW)) == 2
    assert main(["compact", "--restore", "--date", "2025-08-21", "--write"]) == 0
    assert "6 raw objects are back" in capsys.readouterr().out
    assert set(before) == set(published.etags())
    assert main(["compact", "--older-than-days", "30", "--write"]) == 1
    assert "process it first" in capsys.readouterr().out
