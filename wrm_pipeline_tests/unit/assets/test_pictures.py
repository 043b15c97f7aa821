"""The pictures of the day and of its quality, from tables."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import date

import duckdb
import pytest

from wrm_pipeline.assets.duckdb.pictures import day_picture, quality_picture

DAY = date(2025, 10, 26)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA wrm_analytics; SET TimeZone = 'UTC'")
        yield connection


def description(markdown: str) -> str:
    content = markdown.partition("base64,")[2].removesuffix(")")
    return ET.fromstring(base64.b64decode(content)).findtext(f"{SVG}desc") or ""


def test_a_day_of_25_hours_shows_each_of_them(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        """
        CREATE TABLE wrm_analytics.mv_city_hourly AS
        SELECT DATE '2025-10-26' AS dt, hour_start, hour(hour_start AT TIME ZONE 'Europe/Warsaw') AS local_hour,
               1000.0 - n AS bikes_at_stations_mean, 100.0 AS free_bikes_mean, n AS stations_empty_mean,
               2.5 AS stations_full_mean
        FROM (SELECT n, TIMESTAMPTZ '2025-10-25 22:00:00+00' + to_hours(n) AS hour_start FROM range(25) t(n))
        UNION ALL SELECT DATE '2025-10-25', TIMESTAMPTZ '2025-10-25 21:00:00+00', 23, 5.0, 5.0, 0, 0.0
        """
    )
    shown = description(day_picture(connection, DAY).value)
    out, empty, full = shown.split("stations ")
    assert out.startswith("bikes out (estimate). 00: 0, 01: 1, 02: 2, 02: 3, 03: 4, ")
    assert "23: 24." in out
    assert empty.count(":") == full.count(":") == 25


def test_the_quality_of_four_weeks_has_a_bar_for_each_day_with_data(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        """
        CREATE TABLE wrm_analytics.quality_accounting AS
        FROM (VALUES (DATE '2025-10-26', 1000, 5), (DATE '2025-10-20', 0, 0), (DATE '2025-09-28', 10, 10))
        AS t(dt, lines_in, dead_lettered)
        """
    )
    shown = description(quality_picture(connection, DAY).value)
    assert shown.startswith("09-29: no value")
    assert shown.endswith("10-26: 0.5.")
    assert shown.count("no value") == 27
