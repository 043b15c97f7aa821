"""`hive_partitioned_s3_io_manager`: what an asset returns is what the next one gets, and no pickle in between."""

import io
from datetime import UTC, date, datetime

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.partitions import daily_partitions
from wrm_pipeline_tests.fixtures.lake import DAY, Lake, failure_of, materialize

KEY = "bike-data/gen_info/processed/all/dt=2025-08-21/all_processed_20250821_000000.parquet"
TABLE = pa.table(
    {
        "id": pa.array(["a", "ł", None]),
        "n": pa.array([1, None, 3], pa.int32()),
        "x": pa.array([0.5, None, -1.0]),
        "flag": pa.array([True, None, False]),
        "at": pa.array([datetime(2025, 8, 21, 12, tzinfo=UTC), None, None], pa.timestamp("us", "UTC")),
        "day": pa.array([DAY, None, None]),
    }
)
STORED = {"layer": "processed"}


def producer(value: object, layer: str = "processed") -> dg.AssetsDefinition:
    @dg.asset(
        partitions_def=daily_partitions, io_manager_key="hive_partitioned_s3_io_manager", metadata={"layer": layer}
    )
    def produced() -> object:
        return value

    return produced


def consumer(kind: type, seen: list, *, partitioned: bool = True) -> dg.AssetsDefinition:
    @dg.asset(partitions_def=daily_partitions if partitioned else None)
    def consumed(produced: kind) -> None:  # type: ignore[valid-type]
        seen.append(produced)

    return consumed


def round_trip(value: object, kind: type) -> object:
    seen: list = []
    assets = [producer(value), consumer(kind, seen)]
    assert materialize(assets=assets, dt=DAY).success
    return seen[0]


@pytest.mark.parametrize("value", [TABLE, TABLE.to_pandas(types_mapper=pd.ArrowDtype)], ids=["arrow", "pandas"])
def test_arrow_and_pandas_come_back_as_either(lake, value):
    assert round_trip(value, pa.Table).equals(TABLE)
    frame = round_trip(value, pd.DataFrame)
    assert pa.Table.from_pandas(frame, preserve_index=False).cast(TABLE.schema).equals(TABLE)
    parts = round_trip(value, ParquetParts)
    assert isinstance(parts, ParquetParts)
    assert parts.row_count == 3


def test_an_index_is_no_column(lake):
    frame = pd.DataFrame({"n": [1, 2, 3]}, index=[7, 7, 9])
    assert round_trip(frame, pa.Table).column_names == ["n"]


def test_an_empty_table_comes_back_with_its_columns(lake):
    back = round_trip(TABLE.schema.empty_table(), pa.Table)
    assert (back.num_rows, back.schema) == (0, TABLE.schema)
    assert list(round_trip(TABLE.schema.empty_table(), pd.DataFrame).columns) == TABLE.column_names


def test_a_partition_is_one_plain_parquet_object(lake):
    round_trip(TABLE, pa.Table)
    assert lake.keys() == [KEY]
    assert pq.read_table(io.BytesIO(lake.store.get(KEY))).equals(TABLE)
    folder = lake.settings.data_dir
    assert [
        path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05")
    ] == []


def test_several_partitions_come_one_after_the_other(lake: Lake):
    days = [date(2025, 8, 20), DAY]
    for day in days:
        table = pa.table({"n": [day.day, day.day + 100]})
        assert materialize(assets=[producer(table)], dt=day).success
    seen: list = []

    @dg.asset(
        partitions_def=daily_partitions,
        ins={
            "produced": dg.AssetIn(partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=0)),
        },
    )
    def both(produced: pa.Table) -> None:
        seen.append(produced)

    assert materialize("both", assets=[producer(None), both], dt=DAY).success
    assert seen[0]["n"].to_pylist() == [20, 120, 21, 121]


def test_none_leaves_a_partition_as_it_is(lake):
    round_trip(TABLE, pa.Table)
    before = lake.etags()
    assert materialize(assets=[producer(None)], dt=DAY).success
    assert lake.etags() == before


def test_another_run_reads_what_is_published_and_not_what_it_once_wrote(lake):
    round_trip(TABLE, pa.Table)
    sink = io.BytesIO()
    pq.write_table(TABLE.slice(0, 1), sink)
    lake.store.put(KEY, sink.getvalue())
    seen: list = []
    assert materialize("consumed", assets=[producer(TABLE), consumer(pa.Table, seen)], dt=DAY).success
    assert seen[0].num_rows == 1


def test_a_frame_that_lost_rows_is_not_published(lake):
    round_trip(pa.table({"n": list(range(100))}), pa.Table)
    before = lake.etags()
    result = materialize(assets=[producer(pa.table({"n": [1]}))], dt=DAY, raise_on_error=False)
    assert "100 rows and would be replaced by 1" in failure_of(result)
    assert lake.etags() == before


def test_the_layer_is_the_assets_own(lake):
    assert materialize(assets=[producer(TABLE, "enhanced")], dt=DAY).success
    assert lake.keys() == [KEY.replace("processed", "enhanced")]


def test_an_input_that_was_never_published_says_what_to_do(lake):
    seen: list = []
    assets = [producer(TABLE), consumer(pa.Table, seen)]
    result = materialize("consumed", assets=assets, dt=DAY, raise_on_error=False)
    message = failure_of(result)
    assert KEY in message
    assert "Materialize the processed layer for 2025-08-21 first" in message
