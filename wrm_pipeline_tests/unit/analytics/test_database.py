"""The analytics database: readers never meet a lock, and never half a refresh."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from wrm_pipeline import open_database
from wrm_pipeline.analytics.database import (
    AnalyticsDatabase,
    AnalyticsDatabaseError,
    S3Access,
    create_views,
    enhanced_views,
    give_s3_access,
    query_arrow,
    stored_views,
    write_table,
)
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema
from wrm_pipeline.flows.enhance import enhance_partition
from wrm_pipeline.flows.process import process_partition
from wrm_pipeline.lake.published_partitions import PartitionFile, PublishedPartitions
from wrm_pipeline_tests.fixtures.lake import DAY, Lake

VIEWS = [
    "wrm_bikes_only",
    "wrm_stations_enhanced",
    "wrm_stations_enhanced_data",
    "wrm_stations_latest",
    "wrm_stations_only",
]
NOW = datetime(2025, 8, 21, 20, tzinfo=UTC)
SPILLED_ROWS = 1_000_000
# A million rows of 40 bytes with 32 MB of memory: many of them go to the disk.
SPILL = (
    "SET memory_limit = '32MB'; SET threads = 1; "
    f"CREATE TEMP TABLE big AS SELECT range AS a, md5(range::VARCHAR) AS b FROM range({SPILLED_ROWS})"
)


@pytest.fixture
def database(lake: Lake) -> AnalyticsDatabase:
    return AnalyticsDatabase(lake.settings.database_path)


def put_number(database: AnalyticsDatabase, number: int) -> None:
    with database.refresh() as connection:
        write_table(connection, "numbers", pa.table({"n": [number]}))


def number(database: AnalyticsDatabase) -> int:
    with database.reading() as connection:
        return connection.execute("SELECT n FROM wrm_analytics.numbers").fetchone()[0]


def files(database: AnalyticsDatabase) -> list[str]:
    return sorted(path.name for path in database.path.parent.iterdir())


def publish_day(lake: Lake, dt: date, snapshots: int = 2) -> None:
    lake.put_day(snapshots, dt=dt)
    partitions = PublishedPartitions(lake.store, lake.layout)
    built = process_partition(lake.store, lake.layout, dt, parsed_at=NOW, full_rebuild=True).build
    partitions.publish("processed", dt, PartitionFile(built.data, 1, 0, allow_shrink=True))
    processed = partitions.read("processed", dt)
    build = enhance_partition(processed, partitions, dt, area=DEFAULT_SERVICE_AREA, built_at=NOW).build
    partitions.publish("enhanced", dt, PartitionFile(build.data, 1, 0, allow_shrink=True))


def refresh_views(lake: Lake, database: AnalyticsDatabase) -> None:
    newest = PublishedPartitions(lake.store, lake.layout).newest("enhanced")
    pattern = lake.store.url(lake.layout.partition_glob("enhanced"))
    with database.refresh() as connection:
        create_views(connection, enhanced_views(pattern, newest), refreshed_at=NOW)


def query(database: AnalyticsDatabase, sql: str) -> list[tuple]:
    with database.reading() as connection:
        return connection.execute(sql).fetchall()


def columns(database: AnalyticsDatabase, view: str) -> dict[str, str]:
    return {row[0]: row[1] for row in query(database, f"DESCRIBE wrm_analytics.{view}")}


# --- views ---


def test_an_empty_lake_has_views_without_rows(lake, database):
    refresh_views(lake, database)
    for view in VIEWS:
        assert query(database, f"SELECT count(*) FROM wrm_analytics.{view}") == [(0,)]
        assert query(database, f"SELECT station_id, dt FROM wrm_analytics.{view} WHERE dt = DATE '2025-08-21'") == []


def test_views_have_the_columns_of_the_schema_with_and_without_data(lake, database):
    refresh_views(lake, database)
    empty = {view: columns(database, view) for view in VIEWS}
    publish_day(lake, DAY)
    refresh_views(lake, database)
    assert {view: columns(database, view) for view in VIEWS} == empty
    for found in empty.values():
        assert list(found) == [*arrow_schema(ENHANCED).names, "dt"]
        assert (found["dt"], found["date"], found["lat"]) == ("DATE", "DATE", "DOUBLE")
        assert (found["timestamp"], found["battery_pct"]) == ("TIMESTAMP WITH TIME ZONE", "SMALLINT")


def test_views_show_what_is_published(lake, database):
    for day in (19, 20):
        publish_day(lake, date(2025, 8, day))
    refresh_views(lake, database)
    count = "SELECT count(*), min(dt), max(dt) FROM wrm_analytics."
    assert query(database, f"{count}wrm_stations_enhanced_data") == [(44, date(2025, 8, 19), date(2025, 8, 20))]
    assert query(database, f"{count}wrm_stations_only") == [(40, date(2025, 8, 19), date(2025, 8, 20))]
    assert query(database, f"{count}wrm_bikes_only") == [(4, date(2025, 8, 19), date(2025, 8, 20))]

    # Without a refresh: a later day is in the views of everything, and the newest is as it was pinned.
    publish_day(lake, DAY)
    assert query(database, "SELECT count(*) FROM wrm_analytics.wrm_stations_enhanced_data") == [(66,)]
    assert query(database, "SELECT DISTINCT dt FROM wrm_analytics.wrm_stations_latest") == [(date(2025, 8, 20),)]
    refresh_views(lake, database)
    assert query(database, "SELECT DISTINCT dt FROM wrm_analytics.wrm_stations_latest") == [(DAY,)]


def test_latest_is_each_stations_newest_row(lake, database):
    publish_day(lake, DAY, snapshots=3)
    refresh_views(lake, database)
    sql = "SELECT count(*), count(DISTINCT station_id), min(file_timestamp) FROM wrm_analytics.wrm_stations_latest"
    assert query(database, sql) == [(10, 10, datetime(2025, 8, 21, 12, 2, tzinfo=UTC))]
    # In a fixed order: the catalog shows the first values of each column.
    ids = query(database, "SELECT station_id FROM wrm_analytics.wrm_stations_latest")
    assert ids == sorted(ids)


def test_a_stray_of_an_older_writer_is_not_counted(lake, database):
    publish_day(lake, DAY)
    key = lake.partition_key("enhanced")
    lake.store.put(key.replace("_000000", "_130502"), lake.store.get(key))
    refresh_views(lake, database)
    assert query(database, "SELECT count(*) FROM wrm_analytics.wrm_stations_enhanced_data") == [(22,)]


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("SELECT sum(bikes) FROM wrm_analytics.wrm_stations_enhanced_data WHERE dt = DATE '2025-08-19'", 1),
        ("SELECT sum(bikes) FROM wrm_analytics.wrm_stations_only WHERE dt = '2025-08-19'", 1),
        ("SELECT sum(bikes) FROM wrm_analytics.wrm_bikes_only WHERE dt >= DATE '2025-08-20'", 2),
        ("SELECT sum(bikes) FROM wrm_analytics.wrm_stations_latest", 1),
        ("SELECT sum(bikes) FROM wrm_analytics.wrm_stations_enhanced_data", 4),
    ],
)
def test_a_query_reads_the_files_of_its_days_only(lake, database, sql, read):
    for day in (18, 19, 20, 21):
        publish_day(lake, date(2025, 8, day), snapshots=1)
    refresh_views(lake, database)
    plan = query(database, f"EXPLAIN ANALYZE {sql}")[0][1]
    assert f"Total Files Read: {read} " in plan, plan


def test_a_folder_name_with_a_quote_is_no_sql(monkeypatch, environment, tmp_path):
    monkeypatch.setenv("WRM_DATA_DIR", str(tmp_path / "it's"))
    from wrm_pipeline.settings import load_settings

    lake = Lake(load_settings())
    publish_day(lake, DAY, snapshots=1)
    database = AnalyticsDatabase(lake.settings.database_path)
    refresh_views(lake, database)
    assert query(database, "SELECT count(*) FROM wrm_analytics.wrm_stations_latest") == [(10,)]


def test_definitions_are_remembered(lake, database):
    with database.refresh() as connection:
        assert stored_views(connection) == {}
    refresh_views(lake, database)
    with database.reading() as connection:
        assert stored_views(connection) == enhanced_views("", None).definitions
    assert query(database, "SELECT DISTINCT refreshed_at FROM wrm_analytics.view_definitions") == [(NOW,)]


# --- one writer, many readers ---


def test_there_is_no_database_yet(database):
    with (
        pytest.raises(AnalyticsDatabaseError, match="Materialize create_duckdb_enhanced_views first"),
        database.reading(),
    ):
        pass
    assert not database.path.parent.exists()


def test_a_refresh_keeps_what_it_does_not_touch_and_leaves_no_other_file(database):
    put_number(database, 1)
    with database.refresh() as connection:
        write_table(connection, "letters", pa.table({"x": ["a"]}))
    assert number(database) == 1
    assert files(database) == ["analytics.duckdb"]


@contextmanager
def reader_process(path: Path):
    """Another process with the database open; each line it is sent is a query, each line it answers a result."""
    script = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
for line in sys.stdin:
    print(connection.execute(line).fetchone()[0], flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )

    def ask() -> int:
        process.stdin.write("SELECT n FROM wrm_analytics.numbers\n")
        return int(process.stdout.readline())

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def test_a_reader_that_stays_open_sees_the_old_and_a_new_one_the_new(database):
    put_number(database, 1)
    with reader_process(database.path) as old:
        assert old() == 1
        for refreshed in (2, 3, 4):
            put_number(database, refreshed)
            assert old() == 1
            with reader_process(database.path) as new:
                assert new() == refreshed
        with database.reading() as one, database.reading() as other:
            assert one.execute("SELECT n FROM wrm_analytics.numbers").fetchone() == (4,)
            assert other.execute("SELECT n FROM wrm_analytics.numbers").fetchone() == (4,)


def test_while_a_refresh_is_under_way_the_old_is_there_for_all(database):
    put_number(database, 1)
    with database.refresh() as connection:
        write_table(connection, "numbers", pa.table({"n": [2]}))
        assert number(database) == 1
        with reader_process(database.path) as ask:
            assert ask() == 1
    assert number(database) == 2


def test_a_refresh_never_writes_into_the_file_that_readers_have_open(database):
    put_number(database, 1)
    with database.path.open("rb") as held:
        before = held.read()
        put_number(database, 2)
        held.seek(0)
        assert held.read() == before
    assert database.path.read_bytes() != before


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), duckdb.Error("in a query")])
def test_an_exception_in_a_refresh_leaves_the_old_database_and_no_lock(database, error):
    put_number(database, 1)
    before = database.path.read_bytes()

    def fail() -> None:
        with database.refresh() as connection:
            write_table(connection, "numbers", pa.table({"n": [2]}))
            raise error

    with pytest.raises(type(error)):
        fail()
    assert database.path.read_bytes() == before
    assert files(database) == ["analytics.duckdb"]
    put_number(database, 3)
    assert number(database) == 3


def test_a_first_refresh_that_fails_leaves_no_database(database):
    with pytest.raises(RuntimeError), database.refresh():
        raise RuntimeError
    assert files(database) == []


def test_views_are_replaced_all_or_none(lake, database):
    publish_day(lake, DAY)
    refresh_views(lake, database)
    broken = enhanced_views("/no/such/*.parquet", DAY)
    with pytest.raises(duckdb.Error), database.refresh() as connection:
        create_views(connection, broken, refreshed_at=NOW)
    assert query(database, "SELECT count(*) FROM wrm_analytics.wrm_stations_only") == [(20,)]


def test_a_writer_that_was_killed_leaves_nothing_after_the_next_refresh(database):
    put_number(database, 1)
    script = f"""
import time
from pathlib import Path
from wrm_pipeline.analytics.database import AnalyticsDatabase
with AnalyticsDatabase(Path({str(database.path)!r})).refresh() as connection:
    connection.execute("CREATE OR REPLACE TABLE wrm_analytics.numbers AS SELECT 2 AS n")
    connection.execute({SPILL!r})
    print("ready", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    left = [name.split("-")[0] for name in files(database)]
    assert {"analytics.duckdb.new", "analytics.duckdb.spill"} <= set(left)
    assert number(database) == 1

    put_number(database, 3)
    assert number(database) == 3
    assert files(database) == ["analytics.duckdb"]


def test_two_processes_that_need_more_than_their_memory_do_not_meet(database):
    put_number(database, 1)
    script = f"""
from pathlib import Path
from wrm_pipeline.analytics.database import AnalyticsDatabase
with AnalyticsDatabase(Path({str(database.path)!r})).reading() as connection:
    connection.execute({SPILL!r})
    print("ready", flush=True)
    input()
    print(connection.execute("SELECT count(*) FROM big WHERE b = md5(a::VARCHAR)").fetchone()[0])
"""
    arguments = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, **pipes) as one, subprocess.Popen(arguments, **pipes) as other:
        assert (one.stdout.readline(), other.stdout.readline()) == ("ready\n", "ready\n")
        answers = [process.communicate("\n", timeout=120)[0] for process in (one, other)]
    assert answers == [f"{SPILLED_ROWS}\n"] * 2
    assert files(database) == ["analytics.duckdb"]


def test_two_refreshes_at_once_come_one_after_the_other_and_none_is_lost(database):
    put_number(database, 0)

    def add(name: str) -> None:
        for _ in range(3):
            with database.refresh() as connection:
                write_table(connection, name, pa.table({"n": [1]}))
                connection.execute("UPDATE wrm_analytics.numbers SET n = n + 1")

    with ThreadPoolExecutor(3) as executor:
        for done in [executor.submit(add, name) for name in ("a", "b", "c")]:
            done.result()
    assert number(database) == 9
    assert files(database) == ["analytics.duckdb"]


def test_a_database_that_someone_opened_for_writing_and_left_is_no_trouble(database):
    put_number(database, 1)
    script = """
import os, sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE mine AS SELECT 1")
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", script, str(database.path)], check=False)
    assert "analytics.duckdb.wal" in files(database)
    put_number(database, 2)
    assert number(database) == 2
    put_number(database, 3)
    assert number(database) == 3


def test_no_extension_is_looked_for_and_no_secret_stored(database):
    put_number(database, 1)
    sql = "SELECT name, value FROM duckdb_settings() WHERE name IN "
    names = "('autoinstall_known_extensions', 'autoload_known_extensions', 'allow_persistent_secrets')"
    assert {value for _, value in query(database, sql + names)} == {"false"}
    assert query(database, "SELECT current_setting('TimeZone')") == [("UTC",)]


def test_without_a_home_and_a_network_it_works_with_httpfs_too(lake, database):
    publish_day(lake, DAY)
    script = f"""
import sys
import threading
def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(event)
sys.addaudithook(no_network)
from datetime import date, datetime, UTC
from pathlib import Path
from wrm_pipeline.analytics.database import AnalyticsDatabase, S3Access, create_views, enhanced_views
access = S3Access("bucket", "http://127.0.0.1:9", "key", "sec'ret", None)
database = AnalyticsDatabase(Path({str(database.path)!r}), access)
views = enhanced_views({lake.store.url(lake.layout.partition_glob("enhanced"))!r}, date(2025, 8, 21))
with database.refresh() as connection:
    create_views(connection, views, refreshed_at=datetime.now(UTC))
with database.reading() as connection:
    print(connection.execute("SELECT count(*) FROM wrm_analytics.wrm_stations_latest").fetchone()[0])
    print(connection.execute("SELECT count(*) FROM duckdb_secrets() WHERE NOT persistent").fetchone()[0])
    loaded = "SELECT count(*) FROM duckdb_extensions() WHERE loaded AND extension_name = 'httpfs'"
    print(connection.execute(loaded).fetchone()[0])
"""
    environment = {"HOME": "/nonexistent", "PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["10", "1", "1"], done.stderr
    assert not Path("/nonexistent").exists()


def test_credentials_are_in_no_repr_and_in_no_file(database):
    canary = "CANARY's3cr3t"
    access = S3Access("bucket", "https://s3.example.org", "key-id", canary, "eu")
    secured = AnalyticsDatabase(database.path, access)
    put_number(secured, 1)
    assert canary not in repr(secured)
    assert canary.encode() not in secured.path.read_bytes()
    with secured.reading() as connection:
        assert canary not in str(connection.execute("FROM duckdb_secrets()").fetchall())


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://127.0.0.1:8333", {"endpoint=127.0.0.1:8333", "use_ssl=false"}),
        ("https://fsn1.your-objectstorage.com/", {"endpoint=fsn1.your-objectstorage.com", "use_ssl=true"}),
        (None, {"endpoint=s3.eu-central-1.amazonaws.com", "use_ssl=true"}),
    ],
)
def test_an_endpoint_becomes_a_secret_for_one_bucket(endpoint, expected):
    with duckdb.connect() as connection:
        give_s3_access(connection, S3Access("bikes", endpoint, "key", "secret", "eu-central-1"))
        ((scope, text),) = connection.execute("SELECT scope, secret_string FROM duckdb_secrets()").fetchall()
    assert scope == ["s3://bikes"]
    assert expected | {"url_style=path", "region=eu-central-1"} <= set(text.split(";"))


# --- a Parquet object that is replaced while it is read ---


class Replaced:
    """A connection whose first query meets a replaced object."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.real = duckdb.connect()
        self.asked = 0

    def execute(self, sql: str, parameters: list) -> duckdb.DuckDBPyConnection:
        self.asked += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.real.execute(sql, parameters)


def test_a_query_is_made_again_when_an_object_was_replaced_under_it():
    connection = Replaced(duckdb.HTTPException('ETag on reading file "x" was initially "a" and now it returned "b"'))
    assert query_arrow(connection, "SELECT ? AS n", [7]).to_pylist() == [{"n": 7}]
    assert connection.asked == 2


def test_another_error_of_a_query_is_reported_at_once():
    connection = Replaced(duckdb.IOException("No files found"))
    with pytest.raises(duckdb.IOException, match="No files found"):
        query_arrow(connection, "SELECT 1")
    assert connection.asked == 1


@pytest.mark.parametrize(
    "error",
    [
        duckdb.Error("don't know what type: \x0f"),
        duckdb.IOException('Cannot open file "x": No such file or directory'),
        duckdb.InternalException("Attempted to access index 7 within vector of size 3"),
    ],
)
def test_a_local_file_that_was_replaced_is_read_again(error):
    connection = Replaced(error)
    assert query_arrow(connection, "SELECT ? AS n", [7]).to_pylist() == [{"n": 7}]
    assert connection.asked == 2


@pytest.mark.parametrize("error", [duckdb.BinderException("no such column"), duckdb.InterruptException("INTERRUPT")])
def test_a_query_that_is_at_fault_itself_is_not_made_again(error):
    connection = Replaced(error)
    with pytest.raises(type(error)):
        query_arrow(connection, "SELECT 1")
    assert connection.asked == 1


def test_a_partition_may_be_replaced_all_the_time_while_it_is_read(lake, database):
    """Of two versions each answer is about one; DuckDB opens a local file twice, for footer and rows."""
    publish_day(lake, DAY, snapshots=300)
    refresh_views(lake, database)
    path = lake.settings.lake_dir / lake.partition_key("enhanced")
    versions = [path.read_bytes()]
    publish_day(lake, DAY, snapshots=400)
    versions.append(path.read_bytes())
    stop = threading.Event()

    def replace() -> None:
        for turn in itertools.count():
            path.with_suffix(".tmp").write_bytes(versions[turn % 2])
            path.with_suffix(".tmp").replace(path)
            if stop.wait(0.02):
                return

    with ThreadPoolExecutor(1) as executor, database.reading() as connection:
        done = executor.submit(replace)
        sql = "SELECT count(*) AS n, count(DISTINCT file_timestamp) AS t FROM wrm_analytics.wrm_stations_enhanced_data"
        try:
            found = [query_arrow(connection, sql).to_pylist()[0] for _ in range(100)]
        finally:
            stop.set()
        done.result()
    assert {(row["n"], row["t"]) for row in found} == {(3300, 300), (4400, 400)}


# --- the newest file in a process that has an older one open ---


def test_an_open_database_is_the_newest_whatever_else_is_open(database, monkeypatch):
    put_number(database, 1)
    oldest = duckdb.connect(str(database.path), read_only=True)
    opened = [oldest]
    for newer in (2, 3):
        put_number(database, newer)
        opened += [open_database(database.path), open_database()]
        assert [c.execute("SELECT n FROM wrm_analytics.numbers").fetchone()[0] for c in opened[-2:]] == [newer, newer]
        assert number(database) == newer
    assert [c.execute("SELECT n FROM wrm_analytics.numbers").fetchone()[0] for c in opened] == [1, 2, 2, 3, 3]
    with pytest.raises(duckdb.InvalidInputException, match="read-only"):
        opened[-1].execute("DROP TABLE wrm_analytics.numbers")
    opened[-1].execute("CREATE TEMP TABLE mine AS FROM wrm_analytics.numbers")
    for connection in opened:
        connection.close()


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, wrm_pipeline; print([m for m in ('duckdb', 'dagster', 'pyarrow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_opening_the_database_loads_no_dagster(database):
    put_number(database, 1)
    script = (
        "import sys, wrm_pipeline; wrm_pipeline.open_database().close(); "
        "print([m for m in ('dagster', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_there_is_nothing_to_open_yet(database):
    with pytest.raises(AnalyticsDatabaseError, match="There is no database"):
        open_database()
