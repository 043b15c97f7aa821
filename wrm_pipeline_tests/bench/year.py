"""A year of history: what one changed day costs, and how fast the tables answer.

The newest day is whole: 1,440 snapshots of 410 rows. The days before have a snapshot every quarter of an hour, seven
simulated days over and over with their times shifted: the tables by hour, which every refresh carries along, are as
large as with a snapshot a minute, while only a fifteenth of the rows has to be generated.
"""

import io
import shutil
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wrm_pipeline.analytics.answers import replace_days
from wrm_pipeline.analytics.database import AnalyticsDatabase, create_views, enhanced_views, query_arrow
from wrm_pipeline.analytics.materialized_views import MaterializedViews, refresh_materialized_views
from wrm_pipeline.analytics.refresh import Part, Source, published_days
from wrm_pipeline.analytics.registry.answers import STATION_SUMMARY
from wrm_pipeline.analytics.registry.daily import DAILY_VIEWS
from wrm_pipeline.analytics.registry.planner import MV_LOST_DEMAND, MV_TURNOVER
from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
from wrm_pipeline.flows.enhance import enhance_partition
from wrm_pipeline.flows.process import process_partition
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.simulator.city import City
from wrm_pipeline_tests.bench.lake import LAYOUT, BenchLake

NEWEST = date(2026, 8, 21)
DAYS = {"month": 30, "year": 365}
_OLD_INTERVAL = timedelta(minutes=15)
_ROUNDS = 5


def fill(lake: BenchLake) -> dict[str, Any]:
    """Make both lakes and their databases, up to date."""
    now = datetime.now(UTC)
    city = City(station_count=lake.stations, bike_count=lake.bikes)
    first, following = partition_bounds(NEWEST)
    newest = build_day(lake, city, NEWEST, (following - first) / lake.snapshots)
    templates = []
    for number in range(1, 8):
        day = NEWEST - timedelta(days=number)
        templates.append(pq.read_table(io.BytesIO(build_day(lake, city, day, _OLD_INTERVAL))))
    shutil.rmtree(lake.data_dir / "lake")
    rows = 0
    for name, days in DAYS.items():
        folder = lake.data_dir / name
        store = LocalObjectStore(folder)
        partitions = PublishedPartitions(store, LAYOUT)
        database = _database(lake, name)
        store.put(LAYOUT.partition_key("enhanced", NEWEST), newest)
        _write_days(folder, templates, range(1, 8))
        refresh_materialized_views(database, partitions, refreshed_at=now)
        rows = _write_days(folder, templates, range(8, days))
        with database.refresh() as connection:
            published = published_days(partitions)
            _add_weeks(connection, MaterializedViews(partitions, now).sources(published))
            views = enhanced_views(store.url(LAYOUT.partition_glob("enhanced")), NEWEST)
            create_views(connection, views, refreshed_at=now)
    return {"rows": rows + sum(rows.num_rows for rows in templates) + pq.read_metadata(io.BytesIO(newest)).num_rows}


def _add_weeks(connection: Any, sources: dict[Part, Source]) -> None:
    """What the refresh of the earlier weeks gives, without the minutes that it takes: the first one's rows, shifted."""
    for view in (*DAILY_VIEWS, MV_LOST_DEMAND, MV_TURNOVER):
        # Fewer than were published, if the table keeps only the newest days.
        days = sorted(dt for name, dt in sources if name == view.name and dt is not None)
        instants = [column.name for column in view.columns if column.type == "TIMESTAMPTZ"]
        computed = ", ".join(column.name for column in view.columns if column.computed)
        but = f" EXCLUDE ({computed})" if computed else ""
        for week in range(1, -(-len(days) // 7)):
            moved = "".join(f", {name} - INTERVAL {7 * week} DAY AS {name}" for name in instants)
            connection.execute(
                f"INSERT INTO wrm_analytics.{view.name} SELECT *{but} REPLACE (dt - {7 * week} AS dt{moved}) "
                f"FROM wrm_analytics.{view.name} "
                f"WHERE dt BETWEEN DATE '{NEWEST}' - 7 AND DATE '{NEWEST}' - 1 AND dt - {7 * week} >= ?",
                [days[0]],
            )
        if refreshed := [[dt, str(sources[view.name, dt])] for dt in days if (NEWEST - dt).days > 7]:
            connection.executemany(
                f"INSERT INTO wrm_analytics.mv_refreshes SELECT '{view.name}', ?, now(), 0, ?", refreshed
            )


def build_day(lake: BenchLake, city: City, day: date, interval: timedelta) -> bytes:
    """The enhanced partition of a simulated day, by the pipeline's own steps."""
    first, following = partition_bounds(day)
    store = lake.store
    for number in range(int((following - first) / interval)):
        at = first + number * interval + timedelta(seconds=2)
        path = lake.data_dir / "lake" / LAYOUT.raw_key(at)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(city.snapshot(at))
    processed = process_partition(store, LAYOUT, day, parsed_at=datetime.now(UTC), full_rebuild=True)
    partitions = PublishedPartitions(store, LAYOUT)
    at = datetime.now(UTC)
    return enhance_partition(processed.file, partitions, day, area=DEFAULT_SERVICE_AREA, built_at=at).build.data


def _write_days(folder: Path, templates: list[pa.Table], days_before: range) -> int:
    """Days of the past, so many days before the newest; gives their rows."""
    rows = 0
    for number in days_before:
        weeks, template = divmod(number - 1, 7)
        rows += templates[template].num_rows
        write_day(folder, templates[template], timedelta(days=7 * weeks), NEWEST - timedelta(days=number))
    return rows


def write_day(folder: Path, template: pa.Table, earlier: timedelta, day: date) -> None:
    """A day of the past: the template's rows, so many days earlier."""
    rows = template
    for name in ("timestamp", "file_timestamp", "processed_at"):
        index = rows.schema.get_field_index(name)
        shifted = pc.subtract(rows[name], pa.scalar(earlier, pa.duration("us")))
        rows = rows.set_column(index, rows.schema.field(index), shifted)
    index = rows.schema.get_field_index("date")
    dates = pa.repeat(pa.scalar(day, pa.date32()), rows.num_rows)
    rows = rows.set_column(index, rows.schema.field(index), dates)
    path = folder / LAYOUT.partition_key("enhanced", day)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)


def _database(lake: BenchLake, name: str) -> AnalyticsDatabase:
    return AnalyticsDatabase(lake.data_dir / f"{name}-database" / "analytics.duckdb")


def measure(lake: BenchLake) -> dict[str, Any]:
    """Refreshes after the newest day has changed, month and year in turns; then questions to the year."""
    times: dict[str, list[float]] = {name: [] for name in DAYS}
    for _ in range(_ROUNDS):
        for name, found in times.items():
            store = LocalObjectStore(lake.data_dir / name)
            key = LAYOUT.partition_key("enhanced", NEWEST)
            store.put(key, store.get(key))
            found.append(_seconds(lambda store=store, name=name: _refresh(_database(lake, name), store)))
    database = _database(lake, "year")
    questions = {
        "latest": "FROM wrm_analytics.mv_station_latest",
        "daily": "FROM wrm_analytics.mv_daily_aggregates",
        "summary": "FROM wrm_analytics.query_station_summary",
    }
    day = NEWEST - timedelta(days=100)
    view = f"SELECT avg(bikes) FROM wrm_analytics.wrm_stations_only WHERE dt = DATE '{day}'"
    with database.reading() as connection:
        plan = connection.execute(f"EXPLAIN ANALYZE {view}").fetchall()[0][1]
    return {
        "refresh": times,
        "ratio": median(year / month for year, month in zip(times["year"], times["month"], strict=True)),
        "ms": {name: 1000 * _fastest(lambda sql=sql: _ask(database, sql)) for name, sql in questions.items()},
        "cpu_ms": 1000 * max(_cpu_seconds(lambda sql=sql: _ask(database, sql)) for sql in questions.values()),
        "one_day_ms": 1000 * _fastest(lambda: _ask(database, view)),
        "files": int(plan.partition("Total Files Read: ")[2].split()[0]),
        "size_mb": {name: _database(lake, name).path.stat().st_size / 1e6 for name in DAYS},
    }


def _refresh(database: AnalyticsDatabase, store: LocalObjectStore) -> None:
    """What an analytics run does to these tables."""
    done = refresh_materialized_views(database, PublishedPartitions(store, LAYOUT), refreshed_at=datetime.now(UTC))
    if done.days_refreshed != (NEWEST,):
        raise AssertionError(f"{done.days_refreshed} were refreshed, and only {NEWEST} had changed")
    with database.reading() as connection:
        summary = query_arrow(connection, STATION_SUMMARY.sql, [str(NEWEST)])
    replace_days(database, STATION_SUMMARY, {NEWEST: summary})


def _ask(database: AnalyticsDatabase, sql: str) -> None:
    """Open the file, ask, close it: as a dashboard that comes by."""
    with database.reading() as connection:
        if not connection.execute(sql).fetchall():
            raise AssertionError(f"no rows: {sql}")


def _fastest(function: Callable[[], None], times: int = 15) -> float:
    """Other work on the machine makes an answer slower, never faster."""
    return min(_seconds(function) for _ in range(times))


def _cpu_seconds(function: Callable[[], None]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
