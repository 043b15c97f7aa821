"""The views over a lake with files of several makers: old, foreign, damaged ones; and whatever its folder is called."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.analytics.database import AnalyticsDatabase, create_views, enhanced_views
from wrm_pipeline.analytics.enhanced_files import EnhancedFiles, describe_by, known_problems, look_at_enhanced
from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema
from wrm_pipeline.flows.rebuild import rebuild_partition
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.lake import DAY, Lake, WatchedStore

DAYS = [DAY - timedelta(days=n) for n in range(4, -1, -1)]
NOW = datetime(2025, 8, 21, 20, tzinfo=UTC)
ALL = "wrm_analytics.wrm_stations_enhanced_data"


def publish(lake: Lake, dt: date, snapshots: int = 1) -> str:
    lake.put_day(snapshots, dt=dt)
    rebuild_partition(lake.store, lake.layout, dt, area=lake.settings.area, now=datetime.now(UTC))
    return lake.partition_key("enhanced", dt)


def change(lake: Lake, dt: date, how: Callable[[pa.Table], pa.Table]) -> None:
    """Write an enhanced file again, as another writer would."""
    key = lake.partition_key("enhanced", dt)
    out = io.BytesIO()
    pq.write_table(how(pq.read_table(io.BytesIO(lake.store.get(key)))), out)
    lake.store.put(key, out.getvalue())


def of_version_1(rows: pa.Table) -> pa.Table:
    return rows.drop_columns(["feed", "count_capped"])


def look(lake: Lake) -> EnhancedFiles:
    describe = describe_by(AnalyticsDatabase(lake.settings.database_path))
    return look_at_enhanced(lake.store, lake.layout, lake.settings.enhanced_index_path, describe)


def refresh(lake: Lake) -> EnhancedFiles:
    found = look(lake)
    sources = found.sources(lake.store.url, lake.layout.partition_glob("enhanced"))
    with AnalyticsDatabase(lake.settings.database_path).refresh() as connection:
        create_views(connection, enhanced_views(sources, found.newest(DAY)), refreshed_at=NOW)
    return found


def query(lake: Lake, sql: str) -> list[tuple]:
    with AnalyticsDatabase(lake.settings.database_path).reading() as connection:
        return connection.execute(sql).fetchall()


def days_seen(lake: Lake) -> list[date]:
    return [dt for (dt,) in query(lake, f"SELECT DISTINCT dt FROM {ALL} ORDER BY dt")]


def test_old_and_new_files_side_by_side_are_one_table(lake):
    for dt in DAYS:
        publish(lake, dt)
    for dt in DAYS[:2]:
        change(lake, dt, of_version_1)
    change(lake, DAYS[2], lambda rows: of_version_1(rows).drop_columns(["battery_pct"]))
    change(lake, DAYS[3], lambda rows: rows.append_column("more", pa.repeat("x", rows.num_rows)))
    refresh(lake)
    kinds = {name: kind for name, kind, *_ in query(lake, f"DESCRIBE {ALL}")}
    assert list(kinds) == [*arrow_schema(ENHANCED).names, "dt"]
    assert (kinds["feed"], kinds["count_capped"], kinds["battery_pct"]) == ("VARCHAR", "BOOLEAN", "SMALLINT")
    sql = f"SELECT dt, count(*), any_value(feed), bool_or(count_capped), count(battery_pct) FROM {ALL} GROUP BY dt"
    assert [row[:4] for row in sorted(query(lake, sql))] == [(dt, 11, "ucl", False) for dt in DAYS]
    for where in (f"dt = DATE '{DAYS[0]}'", f"dt = DATE '{DAYS[3]}'"):
        plan = query(lake, f"EXPLAIN ANALYZE SELECT sum(bikes) FROM {ALL} WHERE {where}")[0][1]
        assert sum(int(part.split()[0]) for part in plan.split("Total Files Read: ")[1:]) == 1, plan
    # What has been built again is in the pattern again.
    for dt in DAYS:
        lake.store.delete(lake.partition_key("enhanced", dt))
        publish(lake, dt)
    assert isinstance(refresh(lake).sources(lake.store.url, "x"), str)
    assert days_seen(lake) == DAYS


def truncated(data: bytes) -> bytes:
    return data[:-50]


def without_footer(data: bytes) -> bytes:
    length = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - length] + bytes(length) + data[-8:]


def foreign(_: bytes) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"id": [1], "bikes": ["many"], "feed": ["x"]}), out)
    return out.getvalue()


def with_a_type_of_its_own(data: bytes) -> bytes:
    rows, out = pq.read_table(io.BytesIO(data)), io.BytesIO()
    index = rows.schema.get_field_index("file_timestamp")
    pq.write_table(rows.set_column(index, "file_timestamp", rows["file_timestamp"].cast(pa.string())), out)
    return out.getvalue()


SPOILT = {
    "cut off": (truncated, "not a Parquet file"),
    "empty": (lambda _: b"", "not a Parquet file"),
    "text": (lambda _: b"<html>no</html>" * 10, "not a Parquet file"),
    "footer of zeros": (without_footer, "not a Parquet file"),
    "of others": (foreign, "it has no column station_id"),
    "of another type": (with_a_type_of_its_own, "file_timestamp is of type VARCHAR"),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("day", [0, 4])
def test_a_file_that_cannot_be_read_is_left_out_and_named(lake, name, day):
    for dt in DAYS:
        publish(lake, dt)
    refresh(lake)
    spoil, problem = SPOILT[name]
    key = lake.partition_key("enhanced", DAYS[day])
    good = lake.store.get(key)
    lake.store.put(key, spoil(good))
    found = refresh(lake)
    assert [file.key for file in found.problems] == [key]
    assert problem in found.problems[0].problem
    assert known_problems(lake.settings.enhanced_index_path, lake.store.name) == list(found.problems)
    others = [dt for dt in DAYS if dt != DAYS[day]]
    assert days_seen(lake) == others
    assert found.newest(DAY) == others[-1]
    assert query(lake, "SELECT DISTINCT dt FROM wrm_analytics.wrm_stations_latest") == [(others[-1],)]
    lake.store.put(key, good)
    assert refresh(lake).problems == ()
    assert days_seen(lake) == DAYS


def test_what_only_looks_like_a_partition_is_no_partition(lake):
    good = lake.store.get(publish(lake, DAY))
    prefix = lake.layout.layer_prefix("enhanced")
    for key in (
        "dt=foo/all_enhanced_20250821_000000.parquet",
        "dt=2025-08-20/all_enhanced_20250819_000000.parquet",
        "dt=2025-13-45/all_enhanced_20251345_000000.parquet",
        "dt=2025-08-19/sub/all_enhanced_20250819_000000.parquet",
        "dt=2025-08-18/all_enhanced_20250818_130502.parquet",
    ):
        lake.store.put(f"{prefix}{key}", good)
    refresh(lake)
    assert query(lake, f"SELECT dt, count(*) FROM {ALL} GROUP BY dt") == [(DAY, 11)]


def test_only_what_has_changed_is_looked_at(lake):
    looked: list[list[str]] = []
    describe = describe_by(AnalyticsDatabase(lake.settings.database_path))

    def ask() -> list[str]:
        looked.clear()
        store = WatchedStore(lake.store)

        def watched(paths: list[str]) -> object:
            looked.append([path.rpartition("dt=")[2][:10] for path in paths])
            return describe(paths)

        look_at_enhanced(store, lake.layout, lake.settings.enhanced_index_path, watched)
        assert store.counts == {"list": 1}
        return [day for days in looked for day in days]

    for dt in DAYS:
        publish(lake, dt)
    assert ask() == [str(dt) for dt in DAYS]
    assert ask() == []
    publish(lake, DAYS[1], 2)
    assert ask() == [str(DAYS[1])]
    # Of another lake, garbage, or away: all is looked at again.
    index = lake.settings.enhanced_index_path
    kept = json.loads(index.read_text())
    for content in (json.dumps({**kept, "store": "other"}), json.dumps({**kept, "schema": ""}), "{", "[]", ""):
        index.write_text(content)
        assert ask() == [str(dt) for dt in DAYS]
    index.unlink()
    index.mkdir()
    assert ask() == [str(dt) for dt in DAYS]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_left_out_for_now(lake):
    for dt in DAYS:
        publish(lake, dt)
    path = lake.settings.lake_dir / lake.partition_key("enhanced", DAYS[0])
    path.chmod(0)
    assert [file.dt for file in refresh(lake).problems] == [DAYS[0]]
    path.chmod(0o644)
    assert refresh(lake).problems == ()


FOLDERS = [
    "disk[1]",
    "[a-z]",
    "st*r",
    "what?",
    "{a,b}",
    "env=prod",
    "name=wroclaw",
    "NAME=x",
    "dt=2020-01-01",
    "lat=1/bikes=2",
    "it's",
    'quo"te',
    "sp ace",
    "żółć",
    "back\\slash",
    "100%",
    "#1",
    "$HOME;",
]


@pytest.mark.parametrize(
    ("folder", "mixed"),
    [*((folder, False) for folder in FOLDERS), ("disk[1]", True), ("name=wroclaw", True), ("back\\slash", True)],
)
def test_the_path_of_the_lake_is_data(monkeypatch, tmp_path: Path, folder: str, mixed: bool):
    monkeypatch.setenv("WRM_DATA_DIR", str(tmp_path / folder / "data"))
    lake = Lake(load_settings())
    # DuckDB itself cannot keep a database in a folder with a question mark: it looks for the log's name before it.
    monkeypatch.setattr(type(lake.settings), "database_path", tmp_path / "analytics.duckdb")
    for dt in DAYS[-2:]:
        publish(lake, dt)
    if mixed:
        change(lake, DAYS[-2], of_version_1)
    assert refresh(lake).problems == ()
    assert [name for name, *_ in query(lake, f"DESCRIBE {ALL}")] == [*arrow_schema(ENHANCED).names, "dt"]
    found = query(lake, f"SELECT dt, count(*), count(DISTINCT name), min(lat) FROM {ALL} GROUP BY dt ORDER BY dt")
    expected = [(dt, 11, 11, min(row["lat"] for row in lake.rows("enhanced", dt))) for dt in DAYS[-2:]]
    assert found == expected
    plan = query(lake, f"EXPLAIN ANALYZE SELECT sum(bikes) FROM {ALL} WHERE dt = DATE '{DAYS[-2]}'")[0][1]
    assert sum(int(part.split()[0]) for part in plan.split("Total Files Read: ")[1:]) == 1


def test_a_lake_without_a_readable_file_has_empty_views(lake):
    for spoil in (None, truncated):
        if spoil:
            key = publish(lake, DAY)
            lake.store.put(key, spoil(lake.store.get(key)))
        refresh(lake)
        for view in ("wrm_stations_enhanced_data", "wrm_stations_latest"):
            assert query(lake, f"FROM wrm_analytics.{view}") == []
            names = [name for name, *_ in query(lake, f"DESCRIBE wrm_analytics.{view}")]
            assert names == [*arrow_schema(ENHANCED).names, "dt"]


def test_a_new_day_is_in_the_views_by_itself(lake):
    for dt in DAYS[:2]:
        publish(lake, dt)
    refresh(lake)
    publish(lake, DAYS[2])
    assert days_seen(lake) == DAYS[:3]


def test_a_store_that_fails_leaves_the_views_as_they_are(lake):
    publish(lake, DAY)

    def away(_: list[str]) -> object:
        raise duckdb.HTTPException("HTTP 503")

    with pytest.raises(duckdb.HTTPException):
        look_at_enhanced(lake.store, lake.layout, lake.settings.enhanced_index_path, away)
    assert not lake.settings.enhanced_index_path.exists()
