"""Assets of anybody through each I/O manager, in a local folder."""

import sys
from datetime import date
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from wrm_pipeline.io_managers.partition_folders import hive_folders
from wrm_pipeline_tests.fixtures.lake import Lake, definitions, failure_of
from wrm_pipeline_tests.io_manager_contract import (
    DAYS,
    TWO_DAYS,
    ForeignAssetContract,
    as_rows,
    foreign,
    in_the_lake,
    reader,
    rows_of,
)

PREFIX = "bike-data/gen_info/"
HIVE = "hive_partitioned_s3_io_manager"


class TestInAFolder(ForeignAssetContract):
    pass


def failure(*assets: dg.AssetsDefinition, day: str | None = None, **more: Any) -> str:
    """Why a run of these assets fails."""
    resources = dict(definitions().resources or {})
    result = dg.materialize(list(assets), resources=resources, partition_key=day, raise_on_error=False, **more)
    return failure_of(result)


@pytest.mark.parametrize(
    ("definition", "keys", "folders"),
    [
        (dg.StaticPartitionsDefinition(["a/b", "..", "c"]), ["a/b", ".."], ["partition=a%2Fb/", "partition=%2E./"]),
        (
            dg.HourlyPartitionsDefinition("2025-08-21-02:00", end_date="2025-08-21-05:00", timezone="Europe/Warsaw"),
            ["2025-08-21-02:00", "2025-08-21-03:00"],
            ["hour=2025-08-21-02:00/", "hour=2025-08-21-03:00/"],
        ),
        (
            dg.MultiPartitionsDefinition({"region": dg.StaticPartitionsDefinition(["x", "y"]), "day": TWO_DAYS}),
            ["2025-08-21|x", "2025-08-21|y"],
            ["day=2025-08-21/region=x/", "day=2025-08-21/region=y/"],
        ),
        (None, [None], [""]),
    ],
    ids=["static", "hourly", "multi", "none"],
)
def test_other_partitions_than_days(lake: Lake, definition, keys, folders):
    """Each has a folder of its own, is there once when it is built twice, and comes back."""

    def made(manager: str) -> dg.AssetsDefinition:
        @dg.asset(name=f"of_{manager}", partitions_def=definition, io_manager_key=manager)
        def asset(context: dg.AssetExecutionContext) -> pa.Table:
            return pa.table({"n": [keys.index(context.partition_key if definition else None)]})

        return asset

    managers = [HIVE, "duckdb_io_manager", "s3_io_manager"]
    assets, seen = [made(manager) for manager in managers], {}

    def read(upstream: dg.AssetsDefinition) -> dg.AssetsDefinition:
        name = f"read_{upstream.key.path[-1]}"

        @dg.asset(
            name=name,
            ins={"rows": dg.AssetIn(upstream.key, metadata={"allow_missing_partitions": True})},
        )
        def asset(rows: pa.Table) -> None:
            seen[name] = sorted(rows["n"].to_pylist())

        return asset

    readers = [read(asset) for asset in assets]
    for key in [*keys, keys[0]]:
        in_the_lake(*assets, day=key)
    expected = [f"{PREFIX}of_{HIVE}/all/{folder}all_of_{HIVE}.parquet" for folder in folders]
    assert lake.keys(f"of_{HIVE}/") == sorted(expected)
    assert len(lake.keys("values/")) == len(keys)
    in_the_lake(*assets, *readers, names=[asset.key.path[-1] for asset in readers])
    assert seen == {asset.key.path[-1]: list(range(len(keys))) for asset in readers}


@pytest.mark.parametrize(
    ("definition", "key", "folder"),
    [
        (dg.MonthlyPartitionsDefinition("2025-07-01"), "2025-08-01", ("month", "2025-08-01")),
        (dg.WeeklyPartitionsDefinition("2025-07-01"), "2025-08-03", ("week", "2025-08-03")),
        (dg.DailyPartitionsDefinition("20250701", fmt="%Y%m%d"), "20250821", ("dt", "2025-08-21")),
        (
            dg.HourlyPartitionsDefinition("2025-10-26-00:00"),
            "2025-10-26-02:00+0100",
            ("hour", "2025-10-26-02:00%2B0100"),
        ),
        (dg.DynamicPartitionsDefinition(name="d"), "a=b", ("partition", "a%3Db")),
    ],
)
def test_the_folder_of_a_partition_is_a_function_of_its_key(definition, key, folder):
    assert hive_folders(definition, key) == [folder]


def test_the_folder_of_an_asset_by_day_is_its_name_with_prefixes_and_duckdb_finds_the_days(lake: Lake):
    @dg.asset(partitions_def=TWO_DAYS, io_manager_key=HIVE, key_prefix=["team", "weather"])
    def rain(context: dg.AssetExecutionContext) -> pa.Table:
        return rows_of(context.partition_key)

    for day in DAYS:
        in_the_lake(rain, day=day)
    assert lake.keys() == [
        f"{PREFIX}team/weather/rain/all/dt={day}/all_rain_{day.replace('-', '')}_000000.parquet" for day in DAYS
    ]
    files = f"{lake.settings.lake_dir}/{PREFIX}team/weather/rain/all/*/*.parquet"
    sql = f"SELECT dt, count(*) FROM read_parquet('{files}', hive_partitioning = true) GROUP BY dt ORDER BY dt"
    assert duckdb.sql(sql).fetchall() == [(date.fromisoformat(day), 3) for day in DAYS]


@pytest.mark.parametrize(
    ("name", "metadata"), [("raw", {}), ("enhanced", {}), ("rain", {"layer": "dlq"}), ("rain", {"layer": "a/../b"})]
)
def test_a_folder_of_the_pipelines_own_is_refused(lake: Lake, name, metadata):
    @dg.asset(name=name, io_manager_key=HIVE, metadata=metadata)
    def asset() -> pa.Table:
        return rows_of(DAYS[0])

    assert "Set the metadata `layer` to another name" in failure(asset)
    assert lake.keys() == []


def test_a_partition_shrinks_by_consent_of_the_run_or_of_the_asset(lake: Lake):
    rows = {"count": 100}

    def made(**metadata: Any) -> dg.AssetsDefinition:
        @dg.asset(io_manager_key=HIVE, metadata=metadata)
        def rain() -> pa.Table:
            return pa.table({"n": list(range(rows["count"]))})

        return rain

    in_the_lake(made())
    rows["count"] = 90
    assert "`allow_shrink` of the resource `hive_partitioned_s3_io_manager` in the launchpad" in failure(made())
    in_the_lake(made(allow_shrink=True))
    rows["count"] = 80
    resources = dict(definitions().resources or {})
    config = {"resources": {HIVE: {"config": {"allow_shrink": True}}}}
    assert dg.materialize([made()], resources=resources, run_config=config).success


def test_an_input_that_is_not_annotated_is_what_the_output_is(lake: Lake):
    seen: dict[str, Any] = {}

    def made(kind: str, manager: str) -> list[dg.AssetsDefinition]:
        upstream = foreign(manager, kind)

        @dg.asset(name=f"read_{kind}_{manager}", ins={"rain": dg.AssetIn(upstream.key)}, partitions_def=TWO_DAYS)
        def read(rain) -> None:
            seen[f"{kind} {manager}"] = type(rain)

        return [upstream, read]

    kinds = {"arrow": pa.Table, "polars": pl.DataFrame, "pandas": pd.DataFrame}
    managers = [HIVE, "duckdb_io_manager", "s3_io_manager"]
    in_the_lake(*(each for kind in kinds for manager in managers for each in made(kind, manager)), day=DAYS[0])
    assert seen == {f"{kind} {manager}": of for kind, of in kinds.items() for manager in managers}


def test_polars_is_not_imported_for_others(lake: Lake, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)  # an import of it fails
    seen: dict[str, Any] = {}
    made = [foreign(manager, kind) for manager in (HIVE, "duckdb_io_manager") for kind in ("arrow", "pandas")]
    readers = [reader(each, kind, seen, by_day=True) for each in made for kind in ("arrow", "pandas")]
    in_the_lake(*made, *readers, day=DAYS[0])
    assert [as_rows(frame) for frame in seen.values()] == [as_rows(rows_of(DAYS[0]))] * 8


@pytest.mark.parametrize("manager", [HIVE, "duckdb_io_manager", "duckdb_s3_io_manager", "s3_io_manager"])
def test_what_is_missing_is_an_error_or_none_where_that_is_allowed(lake: Lake, manager):
    upstream = foreign(manager, "arrow")
    seen: list[Any] = []

    @dg.asset(ins={"rain": dg.AssetIn(upstream.key)}, partitions_def=TWO_DAYS)
    def strict(rain: pa.Table) -> None: ...

    @dg.asset(ins={"rain": dg.AssetIn(upstream.key)}, partitions_def=TWO_DAYS)
    def lenient(rain: pa.Table | None) -> None:
        seen.append(rain)

    said = failure(upstream, strict, day=DAYS[0], selection=["strict"])
    assert "there is no such object" in said if manager == "duckdb_s3_io_manager" else "Materialize" in said
    in_the_lake(upstream, lenient, names=["lenient"], day=DAYS[0])
    assert seen == [None]


@pytest.mark.parametrize("manager", [HIVE, "duckdb_io_manager", "duckdb_s3_io_manager", "duckdb_hybrid_io_manager"])
def test_a_value_that_is_not_a_table_is_refused_with_its_type(lake: Lake, manager):
    @dg.asset(io_manager_key=manager)
    def rain() -> dict[str, int]:
        return {"n": 1}

    said = failure(rain)
    assert "builtins.dict" in said
    assert "s3_io_manager" in said


def test_several_partitions_in_one_run_need_a_column_that_tells_them_apart(lake: Lake):
    def made(manager: str, **metadata: Any) -> dg.AssetsDefinition:
        @dg.asset(
            partitions_def=TWO_DAYS,
            io_manager_key=manager,
            metadata=metadata,
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def rain(context: dg.AssetExecutionContext) -> pa.Table:
            return pa.concat_tables([rows_of(day) for day in context.partition_keys])

        return rain

    both = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[1]}
    assert "2 partitions of rain at once" in failure(made(HIVE), tags=both)
    assert "2 partitions of rain at once" in failure(made("duckdb_io_manager"), tags=both)
    resources = dict(definitions().resources or {})
    for _ in range(2):
        assert dg.materialize([made("duckdb_io_manager", partition_expr="day")], resources=resources, tags=both).success
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as db:
        assert db.sql("SELECT count(*), count(DISTINCT day) FROM wrm_analytics.rain").fetchall() == [(6, 2)]


def test_a_table_that_another_asset_makes_is_not_overwritten(lake: Lake):
    @dg.asset(io_manager_key="duckdb_io_manager")
    def mv_flows() -> pa.Table:
        return rows_of(DAYS[0])

    assert "wrm_analytics.mv_flows is made by create_materialized_views" in failure(mv_flows)


def test_a_database_of_somebody_else_is_added_to_and_not_moved_aside(lake: Lake, tmp_path):
    path = tmp_path / "theirs.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute("CREATE TABLE mine AS SELECT 1 AS a")
    resources = dict(definitions().resources or {})
    config = {"resources": {"duckdb_io_manager": {"config": {"database": str(path), "schema": "main"}}}}
    made = foreign("duckdb_io_manager", "arrow")
    assert dg.materialize([made], resources=resources, run_config=config, partition_key=DAYS[0]).success
    with duckdb.connect(str(path), read_only=True) as db:
        assert db.sql("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall() == [
            ("mine",),
            ("rain_duckdb_io_manager_arrow",),
        ]
    assert [each.name for each in tmp_path.iterdir()] == ["theirs.duckdb"]


def test_they_are_dagster_duckdbs_own(lake: Lake):
    from dagster_duckdb import DuckDBIOManager, DuckDBResource

    resources = definitions().resources or {}
    for key in ("duckdb_io_manager", "duckdb_s3_io_manager", "duckdb_hybrid_io_manager"):
        assert isinstance(resources[key].as_dagster_duckdb(), DuckDBIOManager)
    assert isinstance(resources["duckdb"].as_dagster_duckdb(), DuckDBResource)
    ours = set(type(resources["duckdb_io_manager"]).model_fields)
    assert set(DuckDBIOManager.model_fields) <= ours, "every field of dagster-duckdb's is there"
