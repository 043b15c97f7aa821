"""Queries and their results as the pages get them."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import pytest

from wrm_pipeline.report.answers import Answers, Dataset, plain
from wrm_pipeline.report.datasets import DATASETS

REFRESHED = datetime(2025, 8, 21, 12, tzinfo=UTC)
DATASET = Dataset(("a", "b"), "SELECT * FROM wrm_analytics.a JOIN wrm_analytics.b USING (x)")


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA wrm_analytics")
        yield connection


def answers(connection, *tables):
    return Answers(tables, lambda sql: connection.execute(sql).to_arrow_table())


def test_rows_come_with_their_tables_the_query_and_the_oldest_refresh(connection):
    connection.execute("CREATE TABLE wrm_analytics.a AS SELECT 1 AS x, '<b>' AS y")
    connection.execute("CREATE TABLE wrm_analytics.b AS SELECT 1 AS x, DATE '2025-08-21' AS dt")
    later = REFRESHED.replace(hour=13)
    value = answers(connection, "a", "b", "c").page_value(DATASET, {"a": later, "b": REFRESHED})
    assert value == {
        "tables": ["wrm_analytics.a", "wrm_analytics.b"],
        "missing": [],
        "refreshed": "2025-08-21T12:00:00Z",
        "sql": DATASET.sql,
        "columns": ["x", "y", "dt"],
        "rows": [(1, "<b>", "2025-08-21")],
    }


def test_a_missing_table_gives_no_rows_and_is_remembered(connection):
    some = answers(connection, "a")
    value = some.page_value(DATASET, {})
    assert (value["missing"], value["rows"], value["refreshed"]) == (["b"], [], None)
    assert some.missing == {"b"}
    assert some.refreshed() == {}


def test_a_column_that_an_older_table_lacks_is_missing_as_a_table_would_be(connection):
    connection.execute("CREATE TABLE wrm_analytics.a AS SELECT 1 AS x")
    dataset = Dataset(("a",), "SELECT x, y FROM wrm_analytics.a", ("a.y",))
    some = answers(connection, "a", "a.x")
    value = some.page_value(dataset, {})
    assert (value["missing"], value["rows"], some.missing) == (["a.y"], [], {"a.y"})
    assert answers(connection, "a.x").page_value(dataset, {})["missing"] == ["a"], "the table, if there is none"


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (2.0, 2),
        (2.5, 2.5),
        (Decimal("1.50"), 1.5),
        (date(2025, 8, 21), "2025-08-21"),
        (datetime.fromisoformat("2025-08-21T15:06:02+02:00"), "2025-08-21T13:06:02Z"),
        ([1.0, None, [date(2025, 8, 21)]], [1, None, ["2025-08-21"]]),
        ("=1+1", "=1+1"),
        (True, True),
    ],
)
def test_values_as_json_has_them(value, as_json):
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == as_json


def test_each_query_names_exactly_the_tables_that_it_reads():
    for datasets in DATASETS.values():
        for name, dataset in datasets.items():
            read = {word.strip("(),") for word in dataset.sql.split() if word.startswith("wrm_analytics.")}
            assert read == {f"wrm_analytics.{table}" for table in dataset.tables}, name


def test_a_station_has_the_names_that_it_had_before_under_any_number(connection):
    connection.execute(
        """
CREATE TABLE wrm_analytics.stations_history (station_key VARCHAR, station_id VARCHAR, name VARCHAR, valid_to DATE);
INSERT INTO wrm_analytics.stations_history VALUES
    ('a', '1', 'Old', '2025-08-01'), ('a', '1', 'Older', '2025-07-01'), ('a', '7', 'New', NULL),
    ('b', '1', 'Another', NULL), ('c', '3', 'Same', '2025-08-01'), ('c', '3', 'Same', NULL),
    ('d', '4', 'Gone', '2025-08-01')
"""
    )
    value = answers(connection, "stations_history").page_value(DATASETS["stations"]["former"], {})
    assert value["rows"] == [("7", ["Old", "Older"])]


def taken_over(connection, *hours):
    """The line on feeds: when another feed was last published in place of the usual one."""
    columns = "dt DATE, hour_start TIMESTAMPTZ, feed VARCHAR, published INT"
    connection.execute(f"CREATE OR REPLACE TABLE wrm_analytics.quality_feeds ({columns})")
    for at, feed, published in hours:
        start = datetime.fromisoformat(f"{at}:00Z")
        connection.execute(
            "INSERT INTO wrm_analytics.quality_feeds VALUES (?, ?, ?, ?)", [start.date(), start, feed, published]
        )
    return answers(connection, "quality_feeds").page_value(DATASETS["good"]["takeovers"], {})["rows"]


def test_the_last_stretch_of_another_feed_is_told_from_its_first_to_its_last_hour(connection):
    day = [(f"2025-08-21T{hour:02}", "ucl", 60) for hour in (*range(8), *range(13, 20))]
    gap = [("2025-08-21T08", "ucl", 2), ("2025-08-21T08", "operator", 58)]
    assert taken_over(
        connection, *day, *gap, *((f"2025-08-21T{hour:02}", "operator", 60) for hour in range(9, 13))
    ) == [("operator", "ucl", "2025-08-21T08:00:00Z", "2025-08-21T13:00:00Z", 298)]
    before = [("2025-08-20T23", "operator", 60), ("2025-08-21T00", "operator", 3), ("2025-08-21T02", "gbfs", 0)]
    assert taken_over(connection, *day, *before) == [
        ("operator", "ucl", "2025-08-20T23:00:00Z", "2025-08-21T01:00:00Z", 63)
    ]


def test_one_feed_alone_takes_over_from_none(connection):
    assert taken_over(connection, ("2025-08-21T08", "ucl", 60), ("2025-08-21T08", "operator", 0)) == []
    assert taken_over(connection) == []
