"""The catalog and the report, materialized as Dagster does it."""

from __future__ import annotations

import duckdb
import pytest

from wrm_pipeline.analytics.catalog import COLUMNS_SCHEMA, TABLES_SCHEMA
from wrm_pipeline.analytics.registry import TABLES
from wrm_pipeline.analytics.registry.types import short_type
from wrm_pipeline.domain.asset_names import RIDE_COMPARISON, STATIONS_HISTORY
from wrm_pipeline_tests.fixtures.lake import Lake, build_day, definitions, materialize, metadata_of, run_job

CATALOG, REPORT = "data_catalog", "city_report"
OF_OTHER_JOBS = {STATIONS_HISTORY, RIDE_COMPARISON}


def query(lake: Lake, sql: str) -> list[tuple]:
    with duckdb.connect(str(lake.settings.database_path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture
def analysed(lake):
    """A lake after one run of the analytics job, and that run."""
    lake.put_day(3)
    build_day()
    return lake, run_job("wrm_analytics_job")


def test_the_catalog_lists_every_column_in_the_database_and_nothing_else(analysed):
    lake, result = analysed
    there = query(
        lake,
        "SELECT table_name, column_name, data_type, column_index FROM duckdb_columns() "
        "WHERE schema_name = 'wrm_analytics' AND NOT internal ORDER BY ALL",
    )
    listed = query(
        lake, "SELECT table_name, column_name, type, position FROM wrm_analytics.catalog_columns ORDER BY ALL"
    )
    assert listed == there
    assert len(listed) > 100
    assert metadata_of(result, CATALOG)["undescribed"] == [], "each needs a description where it is defined"
    assert query(lake, "SELECT * FROM wrm_analytics.catalog_columns WHERE description = ''") == []
    assert query(lake, "SELECT name FROM wrm_analytics.catalog_tables WHERE '' IN (description, layer, owner)") == []

    tables = query(lake, "SELECT kind, name FROM wrm_analytics.catalog_tables WHERE kind <> 'asset' ORDER BY name")
    assert tables == query(
        lake,
        "SELECT CASE table_type WHEN 'VIEW' THEN 'view' ELSE 'table' END, table_name FROM information_schema.tables "
        "WHERE table_schema = 'wrm_analytics' ORDER BY table_name",
    )
    assets = {name for (name,) in query(lake, "SELECT name FROM wrm_analytics.catalog_tables WHERE kind = 'asset'")}
    assert assets == {node.key.to_user_string() for node in definitions().resolve_asset_graph().asset_nodes}


def test_the_database_has_the_columns_of_the_registry(analysed):
    lake, _ = analysed
    found: dict[str, list[tuple[str, str]]] = {}
    sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE schema_name = 'wrm_analytics'"
    for table, column, type_name in query(lake, f"{sql} AND NOT internal ORDER BY table_name, column_index"):
        found.setdefault(table, []).append((column, short_type(type_name)))
    tables = [table for table in TABLES.values() if table.asset not in OF_OTHER_JOBS]
    assert found == {table.name: [(column.name, column.type) for column in table.columns] for table in tables}


def test_the_catalog_says_how_much_there_is_and_since_when(analysed):
    lake, _ = analysed
    rows = {
        (kind, name): (count, counted, refreshed)
        for kind, name, count, counted, refreshed in query(
            lake, "SELECT kind, name, row_count, rows_counted, refreshed_at FROM wrm_analytics.catalog_tables"
        )
    }
    assert rows["view", "wrm_stations_only"][:2] == (30, "newest day")
    assert rows["table", "query_station_summary"][:2] == (10, "whole table")
    for name, schema in (("catalog_tables", TABLES_SCHEMA), ("catalog_columns", COLUMNS_SCHEMA)):
        assert query(lake, f"SELECT count(*) FROM wrm_analytics.{name}") == [(rows["table", name][0],)]
        described = query(lake, f"SELECT column_name FROM (DESCRIBE wrm_analytics.{name})")
        assert [column for (column,) in described] == schema.names
    assert rows["asset", "query_station_summary"][2] is not None
    assert rows["table", "query_station_summary"][2] is not None


def test_descriptions_are_comments_in_the_database_and_in_the_published_copy(analysed, tmp_path):
    lake, _ = analysed
    copy = tmp_path / "copy.duckdb"
    copy.write_bytes(lake.store.get(lake.layout.database_key))
    with duckdb.connect(str(copy), read_only=True) as connection:
        missing = connection.execute(
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE schema_name = 'wrm_analytics' AND comment IS NULL"
        ).fetchall()
        assert missing == []
        (unit,) = connection.execute(
            "SELECT comment FROM duckdb_columns() WHERE table_name = 'wrm_stations_latest' AND column_name = 'lat'"
        ).fetchone()
        assert unit == "Latitude, WGS84 [deg]"
        for kind, name in (("tables", "query_station_summary"), ("views", "wrm_stations_only")):
            (comment,) = connection.execute(
                f"SELECT comment FROM duckdb_{kind}() WHERE {kind[:-1]}_name = '{name}'"
            ).fetchone()
            assert comment


def test_the_report_is_on_disk_and_in_the_store_and_written_again_only_where_it_changed(analysed):
    lake, result = analysed
    metadata = metadata_of(result, REPORT)
    folder = lake.settings.reports_dir / "site"
    assert metadata["on_disk"] == str(folder / "index.html")
    assert metadata["page_stations"].endswith("/bike-data/gen_info/reports/site/stations.html")
    # The ledger of rides is a source that a lake need not have; the history of stations is made each night.
    assert set(metadata["missing_tables"]) <= {"ride_comparison", "stations_history"}
    assert metadata["files"] == metadata["files_written"] == sum(path.is_file() for path in folder.rglob("*"))
    assert lake.store.get("bike-data/gen_info/reports/site/index.html") == (folder / "index.html").read_bytes()
    assert "Stacja 3" in (folder / "data" / "stations.js").read_text()

    again = metadata_of(materialize(REPORT), REPORT)
    assert again["files_written"] <= 1, "the second at which it was built, if it is another"


def test_without_a_database_the_report_says_what_is_missing(lake):
    metadata = metadata_of(materialize(REPORT), REPORT)
    assert {"mv_station_latest", "quality_accounting", "catalog_tables"} <= set(metadata["missing_tables"])
    assert (lake.settings.reports_dir / "site" / "index.html").exists()
