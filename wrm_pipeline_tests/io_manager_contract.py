"""What holds for each I/O manager and the assets of anybody, over a local folder as over a bucket."""

from datetime import date
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa

from wrm_pipeline_tests.fixtures.lake import Lake, definitions

TWO_DAYS = dg.DailyPartitionsDefinition("2025-08-21", end_date="2025-08-23", timezone="Europe/Warsaw")
DAYS = ["2025-08-21", "2025-08-22"]
KINDS = {"arrow": pa.Table, "pandas": pd.DataFrame, "polars": pl.DataFrame}


def rows_of(day: str) -> pa.Table:
    number = int(day[-2:])
    return pa.table({"day": pa.array([date.fromisoformat(day)] * 3), "n": [number, number + 100, None]})


def as_kind(table: pa.Table, kind: str) -> Any:
    if kind == "polars":
        return pl.from_arrow(table)
    return table.to_pandas(types_mapper=pd.ArrowDtype) if kind == "pandas" else table


def as_rows(frame: Any) -> list[tuple[date, int | None]]:
    """The rows of any frame, in order."""
    if isinstance(frame, dict):
        return sorted((row for part in frame.values() for row in as_rows(part)), key=str)
    records = frame.to_dict("records") if isinstance(frame, pd.DataFrame) else pa.table(frame).to_pylist()
    return sorted(((row["day"], None if row["n"] is pd.NA else row["n"]) for row in records), key=str)


def foreign(manager: str, kind: str, *, by_column: bool = False) -> dg.AssetsDefinition:
    """An asset by day, as somebody would write it."""

    @dg.asset(
        name=f"rain_{manager}_{kind}{'_by_column' if by_column else ''}",
        partitions_def=TWO_DAYS,
        io_manager_key=manager,
        metadata={"partition_expr": "day"} if by_column else {},
    )
    def rain(context: dg.AssetExecutionContext) -> KINDS[kind]:  # type: ignore[valid-type]
        return as_kind(rows_of(context.partition_key), kind)

    return rain


def reader(upstream: dg.AssetsDefinition, kind: str, seen: dict[str, Any], *, by_day: bool) -> dg.AssetsDefinition:
    """What loads an asset: a day, or all of them."""
    name = f"{'day_of' if by_day else 'all_of'}_{upstream.key.path[-1]}_as_{kind}"

    @dg.asset(name=name, ins={"rain": dg.AssetIn(upstream.key)}, partitions_def=TWO_DAYS if by_day else None)
    def read(rain: KINDS[kind]) -> None:  # type: ignore[valid-type]
        seen[name] = rain

    return read


def in_the_lake(*assets: dg.AssetsDefinition, names: list[str] | None = None, day: str | None = None) -> None:
    """Materialize assets with the resources of the code location."""
    resources = dict(definitions().resources or {})
    assert dg.materialize(list(assets), selection=names, resources=resources, partition_key=day).success


class ForeignAssetContract:
    def test_two_days_that_are_built_twice_are_there_once_and_come_back(self, lake: Lake):
        made = [foreign("hive_partitioned_s3_io_manager", kind) for kind in KINDS]
        made += [foreign("duckdb_io_manager", kind, by_column=kind == "pandas") for kind in KINDS]
        made += [
            foreign("duckdb_s3_io_manager", "arrow"),
            foreign("duckdb_hybrid_io_manager", "polars", by_column=True),
        ]
        made += [foreign("s3_io_manager", kind) for kind in ("pandas", "polars")]
        for day in [*DAYS, *DAYS]:
            in_the_lake(*made, day=day)
        seen: dict[str, Any] = {}
        every = [reader(each, "arrow", seen, by_day=False) for each in made]
        in_the_lake(*made, *every, names=[each.key.path[-1] for each in every])
        both = sorted((row for day in DAYS for row in as_rows(rows_of(day))), key=str)
        assert {name: as_rows(frame) for name, frame in seen.items()} == {each.key.path[-1]: both for each in every}
        assert {tuple(frame.column_names) for frame in seen.values()} == {("day", "n")}

        seen.clear()
        by_day = [reader(each, kind, seen, by_day=True) for each in [made[0], made[4], made[-2]] for kind in KINDS]
        in_the_lake(*made, *by_day, names=[each.key.path[-1] for each in by_day], day=DAYS[0])
        assert len(seen) == len(by_day) == 9
        for name, frame in seen.items():
            assert type(frame) is KINDS[name.rpartition("_as_")[2]]
            assert as_rows(frame) == as_rows(rows_of(DAYS[0]))
