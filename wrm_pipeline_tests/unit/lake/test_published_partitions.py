"""Published partitions: one object each, replaced whole, never shrunk by accident."""

import io
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.clients.errors import ExternalError, UnexpectedAnswerError
from wrm_pipeline.domain.partition_build import PartitionWouldShrinkError
from wrm_pipeline.flows.take_over import remove_expired
from wrm_pipeline.lake.published_partitions import PartitionFile, PublishedPartitions, UnreadablePartitionError
from wrm_pipeline_tests.fixtures.lake import DAY, Lake, WatchedStore

KEY = "bike-data/gen_info/processed/all/dt=2025-08-21/all_processed_20250821_000000.parquet"


def parquet(rows: int) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(rows))}), buffer)
    return buffer.getvalue()


@pytest.fixture
def partitions(lake: Lake) -> PublishedPartitions:
    return PublishedPartitions(lake.store, lake.layout)


def publish(partitions, rows, *, before=0, allow_shrink=False, layer="processed", dt=DAY):
    return partitions.publish(layer, dt, PartitionFile(parquet(rows), rows, before, allow_shrink))


def test_a_partition_that_was_never_published_is_none(partitions):
    assert partitions.read("processed", DAY) is None
    assert partitions.newest("processed") is None
    assert partitions.dates("processed") == []
    assert list(partitions.objects("processed")) == []


def test_the_key_is_a_function_of_layer_and_date(partitions, lake):
    info = publish(partitions, 3)
    assert info.key == KEY
    assert partitions.read("processed", DAY).row_count == 3
    assert partitions.read("enhanced", DAY) is None
    assert lake.keys() == [KEY]


STRAY = KEY.replace("_000000", "_130502")


def test_strays_are_other_parquet_objects_in_the_folder_and_below_it(partitions, lake):
    folder = KEY.rpartition("/")[0]
    strays = [f"{folder}/all_processed_20250821_130502.parquet", f"{folder}/hour=13/part-0.parquet"]
    others = [
        KEY,
        f"{folder}/README.txt",
        f"{folder}/_SUCCESS",
        KEY.replace("processed", "enhanced"),
        KEY.replace("2025-08-21", "2025-08-22").replace("20250821", "20250822"),
        KEY.replace("dt=2025-08-21", "dt=garbage"),
    ]
    for key in (*strays, *others):
        lake.store.put(key, parquet(1))
    assert [info.key for info in partitions.strays("processed", DAY)] == strays
    assert {dt: [info.key for info in found] for dt, found in partitions.strays_by_day().items()} == {DAY: strays}


def test_what_is_superseded_moves_after_the_write_and_keeps_its_bytes(partitions, lake):
    nested = f"{KEY.rpartition('/')[0]}/hour=13/part-0.parquet"
    lake.store.put(STRAY, parquet(1))
    lake.store.put(nested, parquet(2))
    partitions.publish("processed", DAY, PartitionFile(parquet(3), 3, 0, superseded=(STRAY, nested)))
    folder = "bike-data/gen_info/superseded/processed/dt=2025-08-21/"
    assert lake.keys() == sorted([KEY, folder + STRAY.rpartition("/")[2], f"{folder}hour=13/part-0.parquet"])
    assert lake.store.get(folder + STRAY.rpartition("/")[2]) == parquet(1)


@pytest.mark.parametrize("fails_at", ["put", "put_if_absent", "get", "delete"])
def test_a_crash_on_the_way_loses_nothing_and_is_made_good(lake, fails_at):
    lake.store.put(STRAY, parquet(1))
    failing = WatchedStore(lake.store, fails=lambda operation, _key: operation == fails_at)
    file = PartitionFile(parquet(3), 3, 0, superseded=(STRAY,))
    with pytest.raises(ExternalError):
        PublishedPartitions(failing, lake.layout).publish("processed", DAY, file)
    assert lake.store.get(STRAY) == parquet(1)
    PublishedPartitions(lake.store, lake.layout).publish("processed", DAY, file)
    assert lake.store.stat(STRAY) is None
    assert [lake.store.get(key) for key in lake.keys("superseded/")] == [parquet(1)]


def test_another_file_of_the_same_name_is_kept_beside_it(partitions, lake):
    for rows in (1, 2, 1):
        lake.store.put(STRAY, parquet(rows))
        partitions.supersede("processed", DAY, STRAY)
    assert sorted(lake.store.get(key) for key in lake.keys("superseded/")) == sorted([parquet(1), parquet(2)])
    partitions.supersede("processed", DAY, STRAY)


def test_what_is_under_the_key_and_not_ours_is_kept_before_it_is_replaced(partitions, lake):
    lake.store.put(KEY, b"PAR1 of old")
    found = partitions.find("processed", DAY)
    assert (found.parts, found.set_aside) == (None, b"PAR1 of old")
    assert "not a Parquet file" in found.problem
    partitions.publish("processed", DAY, PartitionFile(parquet(3), 3, 0, set_aside=found.set_aside))
    (kept,) = lake.keys("superseded/")
    assert lake.store.get(kept) == b"PAR1 of old"
    assert lake.store.get(KEY) == parquet(3)


def test_a_parquet_file_of_another_writer_under_our_key_is_not_ours(partitions, lake):
    assert partitions.find("processed", DAY).problem == ""
    lake.store.put(KEY, parquet(3))
    assert "not one of this pipeline" in partitions.find("processed", DAY).problem


def test_superseded_files_go_after_thirty_days(partitions, lake):
    lake.store.put(STRAY, parquet(1))
    partitions.supersede("processed", DAY, STRAY)
    publish(partitions, 3)
    now = datetime.now(UTC)
    assert remove_expired(lake.store, lake.layout, now=now + timedelta(days=29)) == 0
    assert remove_expired(lake.store, lake.layout, now=now + timedelta(days=31)) == 1
    assert lake.keys() == [KEY]


def test_a_publish_is_one_request(lake):
    watched = WatchedStore(lake.store)
    partitions = PublishedPartitions(watched, lake.layout)
    publish(partitions, 3)
    publish(partitions, 4, before=3)
    assert watched.counts == {"put": 2}


@pytest.mark.parametrize(("now", "fits"), [(95, True), (94, False), (0, False), (100, True), (500, True)])
def test_more_than_five_percent_are_not_lost_by_accident(partitions, lake, now, fits):
    publish(partitions, 100)
    before = lake.etags()
    if fits:
        publish(partitions, now, before=100)
        assert partitions.read("processed", DAY).row_count == now
        return
    with pytest.raises(PartitionWouldShrinkError, match=rf"100 rows.*by {now}.*allow_shrink"):
        publish(partitions, now, before=100)
    assert lake.etags() == before
    publish(partitions, now, before=100, allow_shrink=True)
    assert partitions.read("processed", DAY).row_count == now


def test_what_a_clock_ahead_has_published_is_not_the_newest(partitions):
    for dt in (date(2025, 8, 1), date(2025, 8, 3), datetime.now(UTC).date() + timedelta(days=2)):
        publish(partitions, 1, dt=dt)
    assert partitions.newest("processed") == date(2025, 8, 3)
    assert partitions.newest("processed", date(2025, 8, 2)) == date(2025, 8, 1)


def test_dates_are_those_of_folders_and_newest_of_objects(partitions, lake):
    for day in (1, 3, 2):
        publish(partitions, 1, dt=date(2025, 8, day))
    lake.store.put("bike-data/gen_info/processed/all/dt=garbage/x.parquet", b"")
    lake.store.put("bike-data/gen_info/processed/all/dt=2025-08-04/stray.parquet", parquet(1))
    assert partitions.dates("processed") == [date(2025, 8, day) for day in (1, 2, 3, 4)]
    assert partitions.newest("processed") == date(2025, 8, 3)
    assert [info.key[-23:-15] for info in partitions.objects("processed")] == ["20250801", "20250802", "20250803"]


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>Service Unavailable</html>", b"PAR1" * 5, parquet(3)[:-9] + b"PAR1", parquet(3)[:100]],
    ids=["empty", "html", "magic", "footer", "cut"],
)
def test_an_object_that_is_no_parquet_file_says_which_and_what_to_do(partitions, lake, content):
    lake.store.put(KEY, content)
    with pytest.raises(UnreadablePartitionError, match="rebuilds it") as caught:
        partitions.read("processed", DAY)
    assert KEY in str(caught.value)
    assert isinstance(caught.value, UnexpectedAnswerError)


def test_a_parquet_file_whose_notes_are_damaged_is_unreadable(partitions, lake):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({b"wrm.notes": b"eA=="}), buffer)
    lake.store.put(KEY, buffer.getvalue())
    with pytest.raises(UnreadablePartitionError):
        partitions.read("processed", DAY)
