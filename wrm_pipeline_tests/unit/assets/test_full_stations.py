"""Summary, tables, report and metrics name the same stations full, and the same empty."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from wrm_pipeline.domain.enhanced_build import enhance_rows
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.exporter.lake import city_of
from wrm_pipeline_tests.fixtures.lake import DAY, Lake, build_day, run_job
from wrm_pipeline_tests.fixtures.snapshots import body, line

AT = datetime(2025, 8, 21, 13, 5, 2, tzinfo=UTC)

# As the real feed has them: bikes, free docks, docks -> what the station is.
STATIONS = {
    ("45", "0", "16"): "full",
    ("16", "0", "16"): "full",
    ("12", "0", "12"): "full",
    ("0", "0", "8"): "full and empty",
    ("0", "12", "12"): "empty",
    ("5", "7", "12"): "",
    ("9", "0", "0"): "",
    ("0", "0", "0"): "",
    ("0", "", "10"): "",
    ("0", "10", ""): "",
    ("4", "0", ""): "",
}
FULL = sum("full" in kind for kind in STATIONS.values())
EMPTY = sum("empty" in kind for kind in STATIONS.values())


def snapshot_of_stations() -> bytes:
    rows = [
        line(id=str(15001 + number), name=f"Stacja {number}", bikes=bikes, spaces=spaces, total_docks=docks)
        for number, (bikes, spaces, docks) in enumerate(STATIONS)
    ]
    bike = line(id="fb591106", name="BIKE 591106", bikes="1", spaces="0", total_docks="0")
    return body(*rows, bike)


def counted(lake: Lake, content: bytes) -> dict[str, tuple[float, float]]:
    """How many stations each place calls full, and how many empty."""
    lake.put_raw(AT, content)
    build_day()
    run_job("wrm_analytics_job")
    found = {"exporter": metrics(lake, content), "report": report(lake.settings.reports_dir / "site" / "data")}
    tables = {
        "query_station_summary": "count(*) FILTER (share_full = 1), count(*) FILTER (share_empty = 1)",
        "mv_station_hourly": "count(*) FILTER (share_full = 1), count(*) FILTER (share_empty = 1)",
        "mv_city_hourly": "sum(stations_full_mean), sum(stations_empty_mean)",
        "mv_rebalancing": "count(*) FILTER (full_at = file_timestamp), count(*) FILTER (empty_at = file_timestamp)",
        "mv_daily_aggregates": "round(any_value(share_full) * stations), round(any_value(share_empty) * stations)",
    }
    stations = "(SELECT count(*) AS stations FROM wrm_analytics.mv_station_latest)"
    with lake_database(lake) as connection:
        for table, counts in tables.items():
            sql = f"SELECT {counts} FROM wrm_analytics.{table}, {stations} GROUP BY stations"
            (found[table],) = connection.execute(sql).fetchall()
    return found


def lake_database(lake: Lake):
    import duckdb

    return duckdb.connect(str(lake.settings.database_path), read_only=True)


def metrics(lake: Lake, content: bytes) -> tuple[float, float]:
    rows: pa.Table = parse_snapshots([RawSnapshot("raw/a", AT, content)]).rows
    city = city_of(enhance_rows(rows, area=lake.settings.area, dt=DAY, processed_at={}), AT.timestamp())
    return city.stations["full"], city.stations["empty"]


def report(folder: Path) -> tuple[int, int]:
    """What the filters `full now` and `empty now` of the page of stations find."""
    text = (folder / "stations.js").read_text().partition(" = ")[2]
    dataset = json.loads(text.strip().removesuffix(";"))["stations"]
    rows = [dict(zip(dataset["columns"], row, strict=True)) for row in dataset["rows"]]
    return sum(row["full"] for row in rows), sum(row["empty"] for row in rows)


def test_all_places_count_the_same_full_and_empty_stations(lake):
    found = counted(lake, snapshot_of_stations())
    assert found == dict.fromkeys(found, (FULL, EMPTY))
    assert len(found) == 7


def test_the_old_names_of_the_shares_answer_for_one_version(lake):
    counted(lake, snapshot_of_stations())
    with lake_database(lake) as connection:
        sql = "SELECT share_full, full_share, share_empty, empty_share FROM wrm_analytics.mv_daily_aggregates"
        ((full, old_full, empty, old_empty),) = connection.execute(sql).fetchall()
    assert (full, empty) == (old_full, old_empty) == (round(FULL / len(STATIONS), 4), round(EMPTY / len(STATIONS), 4))
