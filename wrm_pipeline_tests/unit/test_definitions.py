"""The code location: what is in it, and that loading it touches nothing."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from graphlib import TopologicalSorter
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline.analytics.lineage import assets_with_lineage, column_lineage
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.partitions import daily_partitions
from wrm_pipeline_tests.fixtures.lake import definitions

PROJECT = Path(__file__).parents[2]

# The asset graph, reviewed: group, I/O manager (None: the asset writes what it makes itself), partitioned by day or
# not, pool, and the assets that each one is made from. A change here is a change that users see.
GRAPH = {
    "wrm_stations_raw_data": ("raw", None, False, "ingest", set()),
    "wrm_stations_processed_data_all": (
        "stations",
        "hive_partitioned_s3_io_manager",
        True,
        None,
        {"wrm_stations_raw_data"},
    ),
    "wrm_stations_enhanced_data_all": (
        "stations",
        "hive_partitioned_s3_io_manager",
        True,
        None,
        {"wrm_stations_processed_data_all"},
    ),
    "bike_positions": ("stations", "hive_partitioned_s3_io_manager", True, None, {"wrm_stations_raw_data"}),
    "create_duckdb_enhanced_views": (
        "analytics",
        "duckdb_hybrid_io_manager",
        False,
        "duckdb",
        {"wrm_stations_enhanced_data_all", "bike_positions"},
    ),
    "create_materialized_views": (
        "analytics",
        None,
        False,
        "duckdb",
        {"create_duckdb_enhanced_views", "bike_positions"},
    ),
    "query_station_summary": ("analytics", None, True, "duckdb", {"create_duckdb_enhanced_views"}),
    "data_quality": ("quality", None, False, "duckdb", {"create_duckdb_enhanced_views"}),
    "bike_density_spatial_analysis": ("analytics", None, True, "duckdb", {"create_duckdb_enhanced_views"}),
    "bike_density_map": ("reports", None, False, None, {"bike_density_spatial_analysis"}),
    "data_catalog": (
        "reports",
        None,
        False,
        "duckdb",
        {
            "query_station_summary",
            "bike_density_spatial_analysis",
            "bike_density_map",
            "create_materialized_views",
            "station_forecast",
            "data_quality",
            "wrm_stations_dlq",
        },
    ),
    "city_report": ("reports", None, False, None, {"data_catalog"}),
    "published_database": ("reports", "duckdb_s3_io_manager", False, "duckdb", {"data_catalog"}),
}

# Fails a process that loads the code location and so much as looks up a host or writes a file.
GUARDED_LOAD = """
import os, sys
written = []
def guard(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        raise AssertionError(f"{event} {arguments}")
    if event == "socket.__new__" and arguments[1] != 1:
        raise AssertionError(f"a socket: {arguments}")
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = os.fsdecode(arguments[0]), arguments[1], arguments[2]
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path != os.devnull:
            written.append(path)
    if event in ("os.mkdir", "os.rename", "os.remove", "shutil.copyfile"):
        written.append(f"{event} {arguments[0]}")
sys.addaudithook(guard)
from wrm_pipeline.definitions import defs
assert not written, written
heavy = {"boto3", "dask", "distributed", "duckdb", "openlineage", "pandas", "pandera", "plotly", "requests", "sklearn"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
print(len(list(defs.assets)))
"""


def run(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-c", script],
        cwd=cwd,
        env={"PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_loading_opens_no_socket_and_writes_no_file_in_an_empty_environment(tmp_path):
    done = run(GUARDED_LOAD, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= len(GRAPH)
    assert list(tmp_path.iterdir()) == []


def test_loading_with_a_bucket_asks_nobody_for_it(tmp_path):
    s3 = {
        "BUCKET_NAME": "b",
        "S3_ACCESS_KEY_ID": "k",
        "S3_SECRET_ACCESS_KEY": "s",
        "S3_ENDPOINT_URL": "http://10.0.0.1",
    }
    done = run(GUARDED_LOAD, tmp_path, **s3)
    assert done.returncode == 0, done.stderr


def test_a_wrong_variable_stops_the_load_with_its_name_and_no_secret(tmp_path):
    done = run("import wrm_pipeline.definitions", tmp_path, WRM_ENV="prod", S3_SECRET_ACCESS_KEY="CANARY")
    assert done.returncode != 0
    assert "WRM_ENV='prod': Input should be 'local' or 'production'" in done.stderr
    assert "CANARY" not in done.stderr


def test_everything_fits_together():
    dg.Definitions.validate_loadable(definitions())


def test_the_asset_graph_is_the_reviewed_one():
    graph = definitions().resolve_asset_graph()
    found = {}
    for name in GRAPH:
        node = graph.get(dg.AssetKey(name))
        assets_def = graph.assets_def_for_key(node.key)
        output = next(iter(assets_def.node_def.output_defs))
        writes = output.dagster_type.kind.name != "NOTHING"
        found[name] = (
            node.group_name,
            output.io_manager_key if writes else None,
            node.partitions_def == daily_partitions,
            assets_def.op.pool,
            {key.to_user_string() for key in node.parent_keys},
        )
    assert found == GRAPH


def test_the_names_of_the_contract_exist():
    defs = definitions()
    assert {
        "wrm_stations_ingest_job",
        "wrm_stations_processing_job",
        "wrm_analytics_job",
    } <= {job.name for job in defs.jobs}
    assert "wrm_stations_raw_data_sensor" in {sensor.name for sensor in defs.sensors}
    assert "wrm_stations_ingest_schedule" in {schedule.name for schedule in defs.schedules}
    assert {
        "hive_partitioned_s3_io_manager",
        "duckdb_io_manager",
        "duckdb_s3_io_manager",
        "duckdb_hybrid_io_manager",
    } <= set(defs.resources)


@pytest.mark.parametrize(("variables", "expected"), [({}, 0), ({"WRM_ALERT_WEBHOOK_URL": "https://example.org/x"}, 2)])
def test_the_sensors_of_alerts_exist_where_there_is_somebody_to_alert(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sum("alerts" in sensor.name for sensor in definitions().sensors) == expected


def test_every_asset_says_what_it_is_and_whose():
    for node in definitions().resolve_asset_graph().asset_nodes:
        name = node.key.to_user_string()
        assert len(node.description) > 80, name
        assert node.group_name != "default", name
        assert node.owners, name
        assert node.kinds, name
        assert node.tags.get("layer"), name


def test_every_table_shows_its_columns_and_where_they_come_from():
    graph = definitions().resolve_asset_graph()
    for name in assets_with_lineage():
        lineage = column_lineage(name)
        shown = graph.get(dg.AssetKey(name)).metadata["dagster/column_lineage"].deps_by_column
        assert list(shown) == list(lineage)
        upstream = {dep.asset_key for deps in shown.values() for dep in deps}
        assert upstream <= graph.get(dg.AssetKey(name)).parent_keys, name


@pytest.mark.parametrize("name", ["wrm_stations_processed_data_all", "wrm_stations_enhanced_data_all"])
def test_the_layers_show_their_schema(name):
    graph = definitions().resolve_asset_graph()
    schema = graph.get(dg.AssetKey(name)).metadata["dagster/column_schema"]
    assert [column.name for column in schema.columns][:2] == ["station_id", "name"]
    assert all(column.description for column in schema.columns)


# --- partitions ---


def test_partitions_are_the_days_since_june_2025_in_warsaw_today_included():
    keys = daily_partitions.get_partition_keys()
    assert keys[0] == "2025-06-01"
    assert keys[-1] == local_date(datetime.now(UTC)).isoformat()
    assert daily_partitions.timezone == "Europe/Warsaw"


@pytest.mark.parametrize(
    ("now", "last"),
    [
        (datetime(2026, 3, 28, 22, 59, tzinfo=UTC), "2026-03-28"),
        (datetime(2026, 3, 28, 23, 0, tzinfo=UTC), "2026-03-29"),
        (datetime(2026, 7, 14, 21, 59, tzinfo=UTC), "2026-07-14"),
        (datetime(2026, 7, 14, 22, 0, tzinfo=UTC), "2026-07-15"),
    ],
)
def test_a_new_day_begins_at_midnight_in_warsaw(now, last):
    assert daily_partitions.get_partition_keys(now)[-1] == last


def test_no_day_is_missing_or_there_twice_when_clocks_change():
    keys = daily_partitions.get_partition_keys(datetime(2026, 12, 1, tzinfo=UTC))
    start = date(2025, 6, 1)
    assert keys == [(start + timedelta(days=n)).isoformat() for n in range(len(keys))]
    assert keys[-1] == "2026-12-01"


def test_groups_depend_on_one_another_in_no_circle():
    """The UI's group view is a picture that can be read from left to right."""
    graph = definitions().resolve_asset_graph()
    group_of = {key: graph.get(key).group_name for key in graph.materializable_asset_keys}
    groups = TopologicalSorter()
    for key, group in group_of.items():
        groups.add(group, *{group_of[parent] for parent in graph.get(key).parent_keys} - {group})
    assert next(iter(groups.static_order())) == "raw"
