"""Days of an older version beside new ones, on a real S3 server: views and plain readers see one table."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.analytics.enhanced_views import LATER_COLUMNS
from wrm_pipeline.cli.main import main
from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, build_day, run_job, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line
from wrm_pipeline_tests.integration.conftest import SeaweedFS

pytestmark = pytest.mark.integration

DAYS = [DAY - timedelta(days=n) for n in range(3, -1, -1)]
VIEW = "wrm_analytics.wrm_stations_enhanced_data"
UNKNOWN_BEFORE = ["gmt_local_diff_sec", "gmt_servertime_diff_sec", "spaces", "total_docks"]


@pytest.fixture
def lake(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Lake:
    for name, value in seaweedfs.variables(seaweedfs.create_bucket()).items():
        monkeypatch.setenv(name, value)
    return Lake(load_settings())


def of_version_1(rows: pa.Table) -> pa.Table:
    """Without the columns that came later, and with columns that were never null then."""
    rows = rows.drop_columns(list(LATER_COLUMNS))
    return rows.cast(pa.schema([f.with_nullable(f.nullable and f.name not in UNKNOWN_BEFORE) for f in rows.schema]))


def without_optional_columns(rows: pa.Table) -> pa.Table:
    return of_version_1(rows).drop_columns(["battery_pct", "pedelecs"])


def write_again(lake: Lake, layer: str, dt: object, how: Callable[[pa.Table], pa.Table]) -> None:
    key, out = lake.partition_key(layer, dt), io.BytesIO()
    pq.write_table(how(pq.ParquetFile(io.BytesIO(lake.store.get(key))).read()), out)
    lake.store.put(key, out.getvalue())


def test_views_and_plain_readers_see_one_table(lake: Lake) -> None:
    unknown = line(id="15901", combined=f"{int(NOON.timestamp())}||", name="Bez miejsc", spaces="", total_docks="")
    for dt in DAYS:
        lake.put_day(2, dt=dt)
    lake.put_raw(NOON + timedelta(minutes=2), snapshot(NOON + timedelta(minutes=2), 10, unknown))
    for dt in DAYS:
        build_day(dt)
    rows = {dt: lake.rows("enhanced", dt) for dt in DAYS}
    write_again(lake, "enhanced", DAYS[0], of_version_1)
    write_again(lake, "enhanced", DAYS[1], without_optional_columns)
    assert run_job("wrm_analytics_job").success

    types = {f.name: f.type for f in arrow_schema(ENHANCED)}
    for row in rows[DAYS[1]]:
        row |= {"battery_pct": None, "pedelecs": None}
    expected = [{**row, "dt": dt} for dt in DAYS for row in rows[dt]]
    assert [row["station_id"] for row in expected if row["spaces"] is None] == ["15901"]

    def in_order(found: list[dict]) -> list[dict]:
        return sorted(found, key=lambda row: (row["dt"], row["file_timestamp"], row["station_id"]))

    pattern = lake.store.url(f"{lake.layout.layer_prefix('enhanced')}**/*.parquet")
    options = "hive_partitioning = true, hive_types = {'dt': DATE}"
    with LakeResource.of(lake.settings).database.reading() as connection:
        found = connection.execute(f"FROM {VIEW}").to_arrow_table()
        assert {f.name: f.type for f in found.schema} == {**types, "dt": pa.date32()}
        assert in_order(found.to_pylist()) == in_order(expected)
        one = f"SELECT count(*), any_value(feed), count(spaces) FROM {VIEW} WHERE dt = DATE '{DAY}'"
        assert connection.execute(one).fetchall() == [(34, "ucl", 33)]

        union = connection.execute(f"FROM read_parquet('{pattern}', union_by_name = true, {options})").to_arrow_table()
        assert {f.name: f.type for f in union.schema} == {**types, "dt": pa.date32()}
        later = dict.fromkeys(LATER_COLUMNS)
        assert in_order(union.to_pylist()) == in_order(
            [row | later if row["dt"] in DAYS[:2] else row for row in expected]
        )

    # After a rebuild a plain pattern does, and the views are made from it.
    assert main(["rebuild", "--full"]) == 0
    with LakeResource.of(lake.settings).database.reading() as connection:
        plain = connection.execute(f"FROM read_parquet('{pattern}', {options})").to_arrow_table()
        assert {f.name: f.type for f in plain.schema} == {**types, "dt": pa.date32()}
        again = {(row["dt"], row["file_timestamp"], row["station_id"], row["feed"]) for row in plain.to_pylist()}
        assert again == {(row["dt"], row["file_timestamp"], row["station_id"], "ucl") for row in expected}
        ((sql,),) = connection.execute(
            "SELECT definition FROM wrm_analytics.view_definitions WHERE view_name = 'wrm_stations_enhanced_data'"
        ).fetchall()
        assert "UNION ALL" not in sql
