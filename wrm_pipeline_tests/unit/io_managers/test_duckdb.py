"""The DuckDB IO managers: tables, views, and the database in the object store."""

from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from wrm_pipeline.analytics.database import AnalyticsDatabase, enhanced_views
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline_tests.fixtures.lake import Lake, failure_of, materialize, metadata_of

TABLE = pa.table(
    {
        "id": pa.array(["a", 'ł"', None]),
        "n": pa.array([1, None, 3], pa.int32()),
        "x": pa.array([0.5, None, -1.0]),
        "flag": pa.array([True, None, False]),
        "at": pa.array([datetime(2025, 8, 21, 12, 0, 0, 5, tzinfo=UTC), None, None], pa.timestamp("us", "UTC")),
        "day": pa.array([date(2025, 8, 21), None, None]),
    }
)
TABLE_MANAGERS = ["duckdb_io_manager", "duckdb_s3_io_manager", "duckdb_hybrid_io_manager"]


def producer(value: object, io_manager: str, name: str = "produced") -> dg.AssetsDefinition:
    @dg.asset(name=name, io_manager_key=io_manager)
    def produced() -> object:
        return value

    return produced


def consumer(kind: type, seen: list) -> dg.AssetsDefinition:
    @dg.asset
    def consumed(produced: kind) -> None:  # type: ignore[valid-type]
        seen.append(produced)

    return consumed


def query(path: Path, sql: str) -> list[tuple]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.parametrize("io_manager", TABLE_MANAGERS)
@pytest.mark.parametrize("as_pandas", [False, True])
def test_a_table_comes_back_as_arrow_and_as_pandas(lake, io_manager, as_pandas):
    value = TABLE.to_pandas(types_mapper=pd.ArrowDtype) if as_pandas else TABLE
    for kind in (pa.Table, pd.DataFrame):
        seen: list = []
        assert materialize(assets=[producer(value, io_manager), consumer(kind, seen)]).success
        back = seen[0] if kind is pa.Table else pa.Table.from_pandas(seen[0], preserve_index=False)
        assert isinstance(seen[0], kind)
        assert back.cast(TABLE.schema).equals(TABLE)


@pytest.mark.parametrize("io_manager", TABLE_MANAGERS)
def test_the_table_is_in_the_schema_under_the_assets_name(lake, io_manager):
    result = materialize(assets=[producer(TABLE, io_manager, "some_table")])
    metadata = metadata_of(result, "some_table")
    assert metadata["table"] == "wrm_analytics.some_table"
    assert metadata["database"] == str(lake.settings.database_path)
    assert metadata["dagster/row_count"] == 3
    assert query(lake.settings.database_path, "SELECT count(*) FROM wrm_analytics.some_table") == [(3,)]


def test_a_table_is_replaced_and_the_others_stay(lake):
    materialize(assets=[producer(TABLE, "duckdb_io_manager", "one"), producer(TABLE, "duckdb_io_manager", "two")])
    materialize(assets=[producer(TABLE.slice(0, 1), "duckdb_io_manager", "one")])
    assert query(
        lake.settings.database_path,
        "SELECT (SELECT count(*) FROM wrm_analytics.one), (SELECT count(*) FROM wrm_analytics.two)",
    ) == [(1, 3)]


def test_the_published_database_is_the_local_one(lake):
    result = materialize(assets=[producer(TABLE, "duckdb_io_manager", "one"), producer(TABLE, "duckdb_s3_io_manager")])
    metadata = metadata_of(result, "produced")
    key = "bike-data/gen_info/duckdb/analytics.duckdb"
    assert lake.keys() == [key]
    assert metadata["published"] == lake.store.url(key)
    assert metadata["published_bytes"] == lake.settings.database_path.stat().st_size
    assert lake.store.get(key) == lake.settings.database_path.read_bytes()


def test_a_database_that_is_replaced_during_its_upload_is_sent_again(lake, monkeypatch):
    put, sent = LocalObjectStore.put, []

    def put_slowly(store, key, body, **more):
        info = put(store, key, body, **more)
        sent.append(info.size_bytes)
        if len(sent) == 1:
            with AnalyticsDatabase(lake.settings.database_path).refresh() as connection:
                connection.execute("CREATE TABLE wrm_analytics.of_another_run AS SELECT 1 AS n")
        return info

    monkeypatch.setattr(LocalObjectStore, "put", put_slowly)
    materialize(assets=[producer(TABLE, "duckdb_s3_io_manager")])
    assert len(sent) == 2
    assert lake.store.get("bike-data/gen_info/duckdb/analytics.duckdb") == lake.settings.database_path.read_bytes()


def test_an_input_is_read_from_the_store_and_not_from_this_machine(lake):
    materialize(assets=[producer(TABLE, "duckdb_s3_io_manager")])
    lake.settings.database_path.unlink()
    seen: list = []
    assets = [producer(TABLE, "duckdb_s3_io_manager"), consumer(pa.Table, seen)]
    assert materialize("consumed", assets=assets).success
    assert seen[0].equals(TABLE)


def test_a_view_set_becomes_views_beside_the_tables_and_none_leaves_them(lake):
    views = enhanced_views("nothing", None)
    assets = [producer(TABLE, "duckdb_hybrid_io_manager", "a_table")]
    materialize(assets=[*assets, producer(views, "duckdb_hybrid_io_manager", "views")])
    sql = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'wrm_analytics' ORDER BY 1"
    expected = [
        ("a_table", "BASE TABLE"),
        ("bike_positions", "VIEW"),
        ("view_definitions", "BASE TABLE"),
        ("wrm_bikes_only", "VIEW"),
        ("wrm_stations_enhanced", "VIEW"),
        ("wrm_stations_enhanced_data", "VIEW"),
        ("wrm_stations_latest", "VIEW"),
        ("wrm_stations_only", "VIEW"),
    ]
    assert query(lake.settings.database_path, sql) == expected
    before = lake.settings.database_path.stat().st_mtime_ns
    materialize(assets=[producer(None, "duckdb_hybrid_io_manager", "views")])
    assert lake.settings.database_path.stat().st_mtime_ns == before


def test_an_input_without_a_database_says_what_to_do(lake: Lake):
    seen: list = []
    assets = [producer(TABLE, "duckdb_io_manager"), consumer(pa.Table, seen)]
    result = materialize("consumed", assets=assets, raise_on_error=False)
    message = failure_of(result)
    assert str(lake.settings.database_path) in message
    assert "Materialize create_duckdb_enhanced_views first" in message


def test_nothing_is_pickled(lake):
    seen: list = []
    for io_manager in TABLE_MANAGERS:
        materialize(assets=[producer(TABLE, io_manager), consumer(pa.Table, seen)])
    files = [path for path in lake.settings.data_dir.rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} <= {".duckdb", ".json", ""}
