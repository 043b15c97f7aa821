"""The catalog's description of tables, with and without definitions."""

from dataclasses import replace
from datetime import UTC, date, datetime

import duckdb
import pytest

from wrm_pipeline.analytics.catalog import (
    SAMPLE_LENGTH,
    AssetFacts,
    FoundColumn,
    FoundTable,
    build_catalog,
    samples,
)
from wrm_pipeline.analytics.database_catalog import describe_database, write_catalog
from wrm_pipeline.analytics.registry import SCHEMA, TABLES, Column, Refreshed, Table

MADE = datetime(2025, 8, 21, 12, tzinfo=UTC)
TABLE = FoundTable(
    "t", "table", (FoundColumn("a", "INTEGER", nullable=False, samples=("1", "2")),), 7, newest_dt=date(2025, 8, 21)
)
ASSET = AssetFacts("t", "Makes t.", "analytics", "wrm", ("u",), "/lake", MADE)
A = Column("a", "INTEGER", "The a", "bikes", ("x", "y"))
REGISTERED = Table("t", "t", "Holds a.", (A,), Refreshed.EVERY_RUN, columns_from="u")


def test_a_table_has_its_meaning_its_maker_and_its_state():
    catalog = build_catalog([TABLE], [ASSET], {"t": REGISTERED})
    table, asset = catalog.tables.to_pylist()
    assert (table["kind"], table["row_count"], table["rows_counted"]) == ("table", 7, "whole table")
    assert (table["layer"], table["owner"], table["sources"], table["refreshed_at"]) == ("analytics", "wrm", "u", MADE)
    assert (asset["kind"], asset["place"], asset["row_count"]) == ("asset", "/lake", None)
    assert catalog.columns.to_pylist() == [
        {
            "table_name": "t",
            "position": 1,
            "column_name": "a",
            "type": "INTEGER",
            "unit": "bikes",
            "nullable": False,
            "description": "The a",
            "sources": "u.x, u.y",
            "samples": "1 | 2",
        }
    ]
    assert catalog.undescribed == ()


def test_what_nobody_describes_is_listed_all_the_same_and_named():
    new = FoundColumn("b", "VARCHAR", nullable=True)
    more = FoundTable("t", "table", (*TABLE.columns, new), 7)
    unknown = FoundTable("v", "view", (new,), 0)
    catalog = build_catalog([more, unknown], [ASSET], {"t": REGISTERED})
    assert catalog.undescribed == ("t.b", "v", "v.b")
    assert catalog.columns["column_name"].to_pylist() == ["a", "b", "b"]


def test_a_column_that_is_gone_is_not_listed():
    more = replace(REGISTERED, columns=(A, Column("gone", "INTEGER", "Was here")))
    assert build_catalog([TABLE], [ASSET], {"t": more}).columns["column_name"].to_pylist() == ["a"]


def test_the_database_knows_better_than_the_asset_when_a_table_was_made():
    later = datetime(2025, 8, 21, 13, tzinfo=UTC)
    found = FoundTable("t", "table", TABLE.columns, 7, refreshed_at=later)
    assert build_catalog([found], [ASSET], {"t": REGISTERED}).tables["refreshed_at"].to_pylist() == [later, MADE]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ()),
        ([None, "", None], ()),
        ([1, 1, 2, 3, 4], ("1", "2", "3")),
        ([datetime(2025, 8, 21, 12, 3, tzinfo=UTC)], ("2025-08-21 12:03:00",)),
        (["x" * 100], ("x" * (SAMPLE_LENGTH - 1) + "…",)),
    ],
)
def test_samples_are_few_different_and_short(values, shown):
    assert samples(values) == shown


def test_every_definition_describes_its_table_and_all_its_columns():
    for name, table in TABLES.items():
        assert table.description, name
        assert table.asset, name
        assert table.columns, name
        assert all(column.description for column in table.columns), name


def test_tables_of_anybody_are_listed_whatever_their_columns_are_called():
    with duckdb.connect() as db:
        db.execute(f"""CREATE SCHEMA {SCHEMA}; CREATE TABLE {SCHEMA}."order" AS SELECT 'May' AS dt, 1 AS "a""b" """)
        catalog = build_catalog(describe_database(db, None), [], {})
        write_catalog(db, catalog)
        listed = db.execute(f"SELECT name, newest_dt FROM {SCHEMA}.catalog_tables WHERE name = 'order'").fetchall()
    assert listed == [("order", None)]
    assert {"dt", 'a"b'} <= set(catalog.columns["column_name"].to_pylist())


class Watched:
    """A connection that remembers the comments that were written."""

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self._db, self.comments = db, []

    def __getattr__(self, name):
        return getattr(self._db, name)

    def execute(self, sql, *arguments):
        self.comments += [sql] * sql.startswith("COMMENT")
        return self._db.execute(sql, *arguments)


def test_comments_follow_their_descriptions_and_only_new_ones_are_written():
    with duckdb.connect() as db:
        db.execute(
            f"CREATE SCHEMA {SCHEMA}; CREATE TABLE {SCHEMA}.t (a INTEGER); CREATE VIEW {SCHEMA}.v AS FROM {SCHEMA}.t"
        )
        watched = Watched(db)

        def written(description: str) -> list[str]:
            watched.comments.clear()
            known = {"t": replace(REGISTERED, description=description), "v": replace(REGISTERED, name="v")}
            write_catalog(watched, build_catalog(describe_database(db, None), [], known))
            return list(watched.comments)

        assert len(written("Holds a.")) == 4
        assert written("Holds a.") == []
        (only,) = written("Holds an a.")
        assert 'COMMENT ON table wrm_analytics."t"' in only
        db.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.t (a INTEGER)")  # as a rebuild does: its comments are gone
        assert len(written("Holds an a.")) == 2
        stated = db.execute("SELECT comment FROM duckdb_columns() WHERE table_name IN ('t', 'v')").fetchall()
    assert stated == [("The a [bikes]",), ("The a [bikes]",)]
