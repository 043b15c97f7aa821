"""The registry is the one place that says what a table is: what is added there is everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from wrm_pipeline.analytics.registry import TABLES
from wrm_pipeline.analytics.tables_page import tables_page
from wrm_pipeline_tests.fixtures.markdown import ROOT

VIEWS = "create_duckdb_enhanced_views"
DT = "The partition: the city's calendar date of the fetch"


def test_a_table_that_is_added_to_the_registry_is_everywhere(environment):
    program = [sys.executable, "-m", "wrm_pipeline_tests.unit.analytics.extra_table"]
    done = subprocess.run(program, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])

    # Created, filled, and refreshed by day. A snapshot has three stations and a bike.
    before = ["2025-08-20", 4]
    assert found["rows"] == [[before], [before, ["2025-08-21", 4]], [before, ["2025-08-21", 8]]]
    assert found["ledger"] == [["2025-08-20", 1], ["2025-08-21", 1]]
    explained = "The rows of a day, counted for a test. Rows are counted."
    assert found["comments"] == [[explained], [DT], ["How many there are [rows]"]]
    assert found["catalog_table"] == [[explained, "create_materialized_views", 2]]
    assert found["catalog_columns"] == [
        ["dt", "DATE", "", DT, f"{VIEWS}.dt"],
        ["rows_seen", "INTEGER", "rows", "How many there are", f"{VIEWS}.bikes, {VIEWS}.station_id"],
    ]
    assert found["column_schema"] == [
        ["mv_extra.dt", "DATE", DT],
        ["mv_extra.rows_seen", "INTEGER", "How many there are [rows]"],
    ]
    assert found["column_lineage"] == {
        "mv_extra.dt": [f"{VIEWS}.dt"],
        "mv_extra.rows_seen": [f"{VIEWS}.bikes", f"{VIEWS}.station_id"],
    }
    assert found["lineage_event"] == {
        "fields": [["dt", "DATE"], ["rows_seen", "INTEGER"]],
        "made_from": {"dt": ["dt"], "rows_seen": ["bikes", "station_id"]},
        "rows": 2,
    }
    assert "| `rows_seen` | INTEGER | rows | How many there are |" in found["page"]


def test_the_page_of_tables_is_that_of_the_registry():
    assert (ROOT / "docs" / "tables.md").read_text() == tables_page(), "`make docs-tables` writes it"


def test_the_page_of_tables_names_every_table():
    page = tables_page()
    assert all(page.count(f"## {name}\n") == 1 for name in TABLES)
