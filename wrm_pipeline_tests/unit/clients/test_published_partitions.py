"""Published partitions: one object each, replaced whole, never shrunk by accident."""

import io
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.clients.errors import ExternalError, UnexpectedAnswerError
from wrm_pipeline.clients.published_partitions import PublishedPartitions, UnreadablePartitionError
from wrm_pipeline.domain.partition_build import PartitionWouldShrinkError
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
    return partitions.publish(layer, dt, parquet(rows), rows_now=rows, rows_before=before, allow_shrink=allow_shrink)


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


def test_publishing_removes_strays_of_this_folder_only(partitions, lake):
    folder = KEY.rpartition("/")[0]
    strays = [f"{folder}/all_processed_20250821_130502.parquet", f"{folder}/part-0.parquet"]
    kept = [
        f"{folder}/README.txt",
        KEY.replace("processed", "enhanced"),
        KEY.replace("2025-08-21", "2025-08-22").replace("20250821", "20250822"),
        KEY.replace("2025-08-21", "2025-08-22").replace("20250821_000000", "20250822_130502"),
    ]
    for key in (*strays, *kept):
        lake.store.put(key, parquet(1))
    publish(partitions, 3)
    assert lake.keys() == sorted([KEY, *kept])


def test_the_new_object_is_there_before_a_stray_is_removed(lake):
    stray = KEY.replace("_000000", "_130502")
    lake.store.put(stray, parquet(3))
    failing = WatchedStore(lake.store, fails=lambda operation, _key: operation == "put")
    with pytest.raises(ExternalError):
        publish(PublishedPartitions(failing, lake.layout), 3)
    assert lake.keys() == [stray]


def test_a_crash_before_the_strays_are_gone_is_seen_and_made_good(lake):
    stray = KEY.replace("_000000", "_130502")
    lake.store.put(stray, parquet(3))
    failing = WatchedStore(lake.store, fails=lambda operation, _key: operation == "delete")
    with pytest.raises(ExternalError):
        publish(PublishedPartitions(failing, lake.layout), 3)
    partitions = PublishedPartitions(lake.store, lake.layout)
    assert {dt: [info.key for info in found] for dt, found in partitions.strays_by_day().items()} == {DAY: [stray]}
    partitions.remove_strays("processed", DAY)
    assert lake.keys() == [KEY]
    assert partitions.strays_by_day() == {}


def test_strays_are_all_that_there_is_of_a_day_until_it_is_published(partitions, lake):
    stray = KEY.replace("_000000", "_130502")
    lake.store.put(stray, parquet(3))
    partitions.remove_strays("processed", DAY)
    assert lake.keys() == [stray]


def test_a_later_publish_asks_for_no_listing(lake):
    watched = WatchedStore(lake.store)
    partitions = PublishedPartitions(watched, lake.layout)
    publish(partitions, 3)
    assert watched.counts == {"put": 1, "list": 1}
    publish(partitions, 4, before=3)
    assert watched.counts == {"put": 2, "list": 1}


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
    with pytest.raises(UnreadablePartitionError, match="Delete it") as caught:
        partitions.read("processed", DAY)
    assert KEY in str(caught.value)
    assert isinstance(caught.value, UnexpectedAnswerError)


def test_a_parquet_file_whose_notes_are_damaged_is_unreadable(partitions, lake):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({b"wrm.notes": b"eA=="}), buffer)
    lake.store.put(KEY, buffer.getvalue())
    with pytest.raises(UnreadablePartitionError):
        partitions.read("processed", DAY)
