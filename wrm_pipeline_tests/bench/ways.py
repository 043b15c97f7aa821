"""Ways from a day's raw files to Parquet, each giving the number of rows that it wrote.

Heavy libraries are imported at the top: a child process loads them before its clock starts.
"""

import csv
import gc
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq

from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
from wrm_pipeline.domain.snapshot import COMBINED_COLUMN
from wrm_pipeline.flows.enhance import enhance_partition
from wrm_pipeline.flows.process import process_partition
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline_tests.bench.counting_store import CountingStore
from wrm_pipeline_tests.bench.lake import DT, LAYOUT, BenchLake

# As `wrm_pipeline.definitions` does: no way is charged for looking at these libraries' objects.
gc.freeze()

_PANDAS_TYPES = {
    "lat": "float64",
    "lon": "float64",
    "bikes": "int32",
    "spaces": "int32",
    "total_docks": "int32",
    "pedelecs": "int32",
    "gmt_local_diff_sec": "int32",
    "gmt_servertime_diff_sec": "int32",
}

_DUCKDB_TYPES = {
    "id": "VARCHAR",
    "combined": "VARCHAR",
    "name": "VARCHAR",
    "lat": "DOUBLE",
    "lon": "DOUBLE",
    "bikes": "INTEGER",
    "spaces": "INTEGER",
    "installed": "BOOLEAN",
    "locked": "BOOLEAN",
    "temporary": "BOOLEAN",
    "total_docks": "INTEGER",
    "battery": "VARCHAR",
    "pedelecs": "INTEGER",
}


def pandas_way(lake: BenchLake) -> int:
    """File by file, as one writes it at first: no check, no dead letter, no enhanced layer."""
    frames = [_pandas_frame(path) for path in sorted(lake.raw_folder.iterdir())]
    day = pd.concat(frames, ignore_index=True).sort_values(["file_timestamp", "station_id"])
    day.to_parquet(lake.output_folder / "pandas.parquet", index=False)
    return len(day)


def _pandas_frame(path: Path) -> pd.DataFrame:
    with path.open(newline="", encoding="utf-8") as file:
        frame = pd.DataFrame(list(csv.DictReader(file))).rename(columns={"#id": "station_id"})
    combined = frame.pop(COMBINED_COLUMN).str.split("|", expand=True)
    frame["timestamp"] = pd.to_datetime(combined[0].astype("int64"), unit="s", utc=True)
    frame["gmt_local_diff_sec"], frame["gmt_servertime_diff_sec"] = combined[1], combined[2]
    for name in ("installed", "locked", "temporary"):
        frame[name] = frame[name] == "true"
    frame["s3_source_key"] = path.name
    frame["file_timestamp"] = datetime.strptime(path.stem[-19:], "%Y-%m-%d_%H-%M-%S").replace(tzinfo=UTC)
    return frame.astype(_PANDAS_TYPES)


def duckdb_way(lake: BenchLake) -> int:
    """DuckDB's own CSV reader on all files at once, types as it guesses them: no check, not even a split column."""
    return _duckdb_copy(lake, "")


def typed_duckdb_way(lake: BenchLake) -> int:
    """The same with all columns and types given: by position, not by header."""
    return _duckdb_copy(lake, f", auto_detect = false, header = true, columns = {_DUCKDB_TYPES}")


def _duckdb_copy(lake: BenchLake, options: str) -> int:
    output = lake.output_folder / "duckdb.parquet"
    source = f"read_csv('{lake.raw_folder}/*.txt', filename = true, hive_partitioning = false{options})"
    duckdb.sql(f"COPY (FROM {source}) TO '{output}' (FORMAT parquet)")
    return int(pq.read_metadata(output).num_rows)


def pipeline_way(lake: BenchLake, *, by_sensor: bool = False) -> tuple[int, Counter[str]]:
    """What a processing run does from listing to the second put, without Dagster; also the requests that it made.

    The sensor's run of each minute does not look for other writers' files in the published layers.
    """
    store = CountingStore(lake.store)
    now = datetime.now(UTC)
    processed = process_partition(store, LAYOUT, DT, parsed_at=now, full_rebuild=False, look_for_strays=not by_sensor)
    if processed.build is None or processed.dead_letters:
        raise AssertionError("a bench lake has clean snapshots, and there are new ones")
    partitions = PublishedPartitions(store, LAYOUT)
    partitions.publish("processed", DT, processed.to_publish(allow_shrink=False))
    parts = ParquetParts.open(processed.build.data)
    enhanced = enhance_partition(
        parts, partitions, DT, area=DEFAULT_SERVICE_AREA, built_at=now, look_for_strays=not by_sensor
    )
    partitions.publish("enhanced", DT, enhanced.to_publish(allow_shrink=False))
    return enhanced.build.row_count, store.requests
