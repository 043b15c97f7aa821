"""Two assets that have nothing to do with bikes, and take everything but the weather from wrm_pipeline."""

from datetime import date

import dagster as dg
import pyarrow as pa
import requests

from wrm_pipeline.resources.cache import RedisCacheResource
from wrm_pipeline.resources.dlq import DlqResource
from wrm_pipeline.resources.logger import StructlogResource
from wrm_pipeline.resources.metrics import MetricsResource
from wrm_pipeline.resources.s3 import S3Resource

DAYS = dg.DailyPartitionsDefinition("2025-08-20")
HOURS = pa.schema([("hour", pa.int32()), ("mm", pa.float64())])


class Source(dg.Config):
    """Where the weather comes from, and the bucket in which its answers are kept as they came, if any."""

    url: str = "http://127.0.0.1:8090"
    bucket: str | None = None


def fetch(url: str) -> str:
    """A day as CSV, one line an hour: `hour,mm`.

    Raises:
        requests.RequestException: the service did not answer with 200.
    """
    answer = requests.get(url, timeout=10)
    answer.raise_for_status()
    return answer.text


@dg.asset(partitions_def=DAYS, io_manager_key="hive_partitioned_s3_io_manager")
def rain_per_hour(
    context: dg.AssetExecutionContext,
    config: Source,
    s3_resource: S3Resource,
    redis_cache: RedisCacheResource,
    dlq: DlqResource,
    metrics: MetricsResource,
    structlog: StructlogResource,
) -> pa.Table:
    """Millimetres of rain in each hour of a day."""
    day, rows = context.partition_key, list[dict[str, float]]()
    counted = metrics.counter("rain_hours", "Lines of the weather service", ["usable"])
    millimetres = metrics.histogram("rain_millimetres", "Rain in an hour", buckets=[0.1, 1, 5])
    with metrics.observe_asset(context) as observed:
        lines = redis_cache.get_or_compute(f"rain/{day}", lambda: fetch(f"{config.url}/{day}"), ttl=600).splitlines()
        if config.bucket:
            body = "\n".join(lines).encode()
            s3_resource.get_client().put_object(Bucket=config.bucket, Key=f"rain/{day}.csv", Body=body)
        for number, line in enumerate(lines, start=1):
            try:
                hour, mm = line.split(",")
                rows.append({"hour": int(hour), "mm": float(mm)})
            except ValueError as error:
                dlq.write("rain_per_hour", day, "not_a_number", line, error, line_number=number)
                counted.labels(usable="no").inc()
            else:
                millimetres.observe(float(mm))
                counted.labels(usable="yes").inc()
        observed.add_rows(len(rows), dead_lettered=len(lines) - len(rows))
    if len(rows) == len(lines):
        for letter in dlq.list("rain_per_hour", day, "pending_reprocessing"):
            dlq.settle(letter.entry_id)
    structlog.get_logger().info("measured", hours=len(rows))
    return pa.Table.from_pylist(rows, schema=HOURS)


@dg.asset(partitions_def=DAYS, io_manager_key="duckdb_io_manager", metadata={"partition_expr": "date"})
def rain_per_day(context: dg.AssetExecutionContext, rain_per_hour: pa.Table) -> pa.Table:
    """Millimetres of rain in a day, for SQL: `SELECT * FROM wrm_analytics.rain_per_day`."""
    day = date.fromisoformat(context.partition_key)
    return pa.table({"date": [day], "mm": [sum(rain_per_hour["mm"].to_pylist())]})
