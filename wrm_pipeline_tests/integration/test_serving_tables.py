"""`serving_tables` on a real PostgreSQL: the rows, their types, and readers who look while tables are replaced."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from wrm_pipeline.analytics import serving
from wrm_pipeline.analytics.quality_tables import refresh_quality_tables
from wrm_pipeline.analytics.registry import Column, Refreshed, Table
from wrm_pipeline.analytics.serving import LEDGER, Serving, publish, served_tables
from wrm_pipeline.clients import retry
from wrm_pipeline.clients.errors import PermanentError, TransientError
from wrm_pipeline.clients.postgres import PostgresLogin
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake, failure_of, materialize, metadata_of
from wrm_pipeline_tests.fixtures.markdown import ROOT
from wrm_pipeline_tests.integration.conftest import wait_until
from wrm_pipeline_tests.integration.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.integration

PASSWORD = "p-of-the-superuser"  # pragma: allowlist secret
CANARY = "s3cr3t-canary-of-a-role"  # pragma: allowlist secret
NOW = datetime(2025, 8, 21, 12, tzinfo=UTC)
SCHEMA = "wrm_analytics"
STATIONS = 2_000


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres(PASSWORD) as started:
        superuser(started, f"CREATE ROLE serving LOGIN PASSWORD '{CANARY}'")
        for role in ("grafana", "somebody"):
            superuser(started, f"CREATE ROLE {role} LOGIN PASSWORD '{CANARY}'")
        yield started


def superuser(server: PostgresServer, sql: str, database: str = "postgres") -> None:
    with psycopg.connect(
        host="127.0.0.1", port=server.port, user="wrm", password=PASSWORD, dbname=database, autocommit=True
    ) as connection:
        connection.execute(sql)


@dataclass(frozen=True)
class Site:
    """A database of its own, which the role `serving` owns."""

    server: PostgresServer
    dbname: str

    def login(self, user: str = "serving") -> PostgresLogin:
        return PostgresLogin("127.0.0.1", self.server.port, self.dbname, user, CANARY)

    def sql(self, sql: str, user: str = "serving") -> list[tuple[Any, ...]]:
        with self.login(user).connect() as connection:
            found = connection.execute(sql)
            return found.fetchall() if found.description else []

    def publish(self, source: duckdb.DuckDBPyConnection, tables: Sequence[Table], *readers: str) -> dict[str, int]:
        with self.login().connect() as target:
            return dict(publish(source, target, Serving(SCHEMA, readers), published_at=NOW, tables=tables))

    def names(self) -> set[str]:
        sql = f"SELECT relname FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind IN ('r', 'v')"
        return {name for (name,) in self.sql(sql)}


@pytest.fixture
def site(server: PostgresServer) -> Site:
    name = server.create_database(f"d{uuid.uuid4().hex[:12]}")
    superuser(server, f"ALTER DATABASE {name} OWNER TO serving")
    return Site(server, name)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a lake with two days and all tables."""
    folder = tmp_path_factory.mktemp("serving") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRM_DATA_DIR", str(folder))
        history = History(Lake(load_settings()), stations=8, bikes=6)
        for dt in (date(2025, 8, 20), date(2025, 8, 21)):
            history.put(dt, history.times(dt, 60))
        history.create_views()
        history.refresh()
        refresh_quality_tables(history.database, history.partitions, area=DEFAULT_SERVICE_AREA, refreshed_at=NOW)
        history.forecast()
    return folder


def table(*columns: Column, name: str = "mv_numbers", key: tuple[str, ...] = ("n",)) -> Table:
    return Table(name, "create_materialized_views", "Numbers, 100 % o'clock.", columns, Refreshed.LATEST, key=key)


NUMBERS = table(Column("n", "INTEGER", "A number"), Column("version", "INTEGER", "Of the publication", "times"))


@contextmanager
def numbers(version: int, rows: int = STATIONS, name: str = "mv_numbers") -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as source:
        source.execute(f"CREATE SCHEMA {SCHEMA}")
        source.execute(f"CREATE TABLE {SCHEMA}.{name} AS SELECT range AS n, {version} AS version FROM range({rows})")
        yield source


def version_of(site: Site) -> tuple[Any, ...]:
    (row,) = site.sql(f"SELECT count(*), min(version), max(version) FROM {SCHEMA}.mv_numbers")
    return row


# --- what is published ---


def test_all_tables_are_there_row_for_row_with_comments_and_keys(filled, site, monkeypatch):
    monkeypatch.setenv("WRM_DATA_DIR", str(filled))
    given = {"HOST": "127.0.0.1", "PORT": str(site.server.port), "DB": site.dbname, "USER": "serving"}
    for name, value in {**given, "PASSWORD": CANARY, "READERS": "grafana"}.items():
        monkeypatch.setenv(f"POSTGRES_SERVING_{name}", value)
    metadata = metadata_of(materialize("serving_tables"), "serving_tables")
    assert CANARY not in str(metadata)
    assert metadata["dagster/row_count"] == sum(metadata["rows_by_table"].values())
    with duckdb.connect() as source, site.login("grafana").connect(read_only=True) as target:
        source.execute(f"ATTACH '{filled / 'analytics.duckdb'}' AS db (READ_ONLY)")
        source.execute("SET TimeZone = 'UTC'")
        filled_tables = 0
        for one in served_tables():
            ours = comparable(source.execute(f'FROM db.{SCHEMA}."{one.name}"').fetchall(), one)
            theirs = comparable(target.execute(f'SELECT * FROM {SCHEMA}."{one.name}"').fetchall(), one)
            assert theirs == ours, one.name
            assert len(ours) == metadata["rows_by_table"][one.name]
            filled_tables += bool(ours)
            ((comment,),) = target.execute("SELECT obj_description(%s::regclass)", [f"{SCHEMA}.{one.name}"]).fetchall()
            assert comment == one.explained
            key = target.execute(
                "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey) "
                "WHERE indisprimary AND indrelid = %s::regclass", [f"{SCHEMA}.{one.name}"]
            ).fetchall()  # fmt: skip
            assert {column for (column,) in key} == set(one.key)
        assert filled_tables > 10
        ((about,),) = target.execute(f"SELECT col_description('{SCHEMA}.mv_flows'::regclass, 1)").fetchall()
        assert about == "The partition: the city's calendar date of the fetch"
        published = target.execute(f"SELECT table_name, rows FROM {SCHEMA}.{LEDGER}").fetchall()
        for title, sql in dashboard_queries():
            assert target.execute(sql).description, title
    assert dict(published) == metadata["rows_by_table"]


def dashboard_queries() -> list[tuple[str, str]]:
    """What Grafana's dashboard over the tables asks, for all times."""
    panels = json.loads((ROOT / "deploy/monitoring/grafana/serving/city-tables.json").read_text())["panels"]
    found = [(panel["title"], target["rawSql"]) for panel in panels for target in panel["targets"]]
    assert len(found) >= 10
    return [(title, re.sub(r"\$__timeFilter\(([^()]*)\)", r"\1 < now()", sql)) for title, sql in found]


def comparable(rows: list[tuple[Any, ...]], one: Table) -> list[str]:
    """Rows in an order of their own: instants in UTC, and JSON as what it says."""
    as_json = [column.unit == "JSON" for column in one.columns]

    def plain(value: Any, is_text: bool) -> Any:
        if isinstance(value, datetime):
            return value.astimezone(UTC).isoformat()
        value = json.loads(value) if is_text and isinstance(value, str) else value
        return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value

    return sorted(repr([plain(*pair) for pair in zip(row, as_json, strict=True)]) for row in rows)


def test_values_of_every_type_are_the_same(site):
    columns = {
        "n": ("INTEGER", "1", 1),
        "flag": ("BOOLEAN", "true", True),
        "u8": ("UTINYINT", "255", 255),
        "u32": ("UINTEGER", "4294967295", 4294967295),
        "u64": ("UBIGINT", "18446744073709551615", Decimal(18446744073709551615)),
        "huge": ("HUGEINT", "170141183460469231731687303715884105727", Decimal(2**127 - 1)),
        "money": ("DECIMAL(9,3)", "12.345", Decimal("12.345")),
        "f": ("FLOAT", "0.1", 0.1),
        "tiny": ("DOUBLE", "1e-300", 1e-300),
        "above": ("DOUBLE", "'inf'", float("inf")),
        "empty": ("VARCHAR", "''", ""),
        "unknown": ("VARCHAR", "NULL", None),
        "odd": ("VARCHAR", "e'a,\"b\"\\n\\\\N\\t%s \\\\. Żółć'", 'a,"b"\n\\N\t%s \\. Żółć'),
        "nul": ("VARCHAR", "'a' || chr(0) || 'b'", "ab"),
        "day": ("DATE", "'2024-02-29'", date(2024, 2, 29)),
        "at": ("TIMESTAMPTZ", "'2025-10-26 02:30:00.123456+01'", datetime(2025, 10, 26, 1, 30, 0, 123456, UTC)),
        "levels": ("DOUBLE[]", "[1.5, 'nan'::DOUBLE, NULL]", [1.5, None, None]),
        "pair": ("STRUCT(a INTEGER, b VARCHAR[])", "{'a': 1, 'b': ['x', NULL]}", {"a": 1, "b": ["x", None]}),
        "id": ("UUID", "'9acb3312-a46d-429e-ba97-ce7820e500d2'", uuid.UUID("9acb3312-a46d-429e-ba97-ce7820e500d2")),
        "raw": ("BLOB", "'\\x00\\xFF'::BLOB", b"\x00\xff"),
        "lasts": ("INTERVAL", "INTERVAL 3 DAY", timedelta(days=3)),
    }
    one = table(*(Column(name, kind, name) for name, (kind, _, _) in columns.items()))
    samples = replace(one, columns=(*one.columns, Column("samples", "VARCHAR", "Objects", "JSON")))
    with duckdb.connect() as source:
        source.execute(f"CREATE SCHEMA {SCHEMA}")
        source.execute(f"CREATE TABLE {SCHEMA}.mv_numbers ({samples.columns_sql})")
        values = ", ".join(f"{sql}::{kind}" for kind, sql, _ in columns.values())
        source.execute(f'INSERT INTO {SCHEMA}.mv_numbers SELECT {values}, \'[{{"a": "x\\u0000y"}}]\'')
        site.publish(source, [samples])
    (row,) = site.sql(f"SELECT * FROM {SCHEMA}.mv_numbers")
    found = dict(zip(columns, row, strict=False))
    assert found.pop("f") == pytest.approx(0.1)
    assert found == {name: value for name, (_, _, value) in columns.items() if name != "f"}
    assert row[-1] == [{"a": "x\ufffdy"}]
    (types,) = site.sql(
        f"SELECT pg_typeof(at), pg_typeof(levels), pg_typeof(u64), pg_typeof(u8) FROM {SCHEMA}.mv_numbers"
    )
    assert types == ("timestamp with time zone", "jsonb", "numeric", "smallint")


def test_a_number_that_is_none_stays_one(site):
    one = table(Column("n", "INTEGER", ""), Column("x", "DOUBLE", "Not a number"))
    with duckdb.connect() as source:
        source.execute(f"CREATE SCHEMA {SCHEMA}")
        source.execute(f"CREATE TABLE {SCHEMA}.mv_numbers AS SELECT 1 AS n, 'nan'::DOUBLE AS x")
        site.publish(source, [one])
    assert site.sql(f"SELECT x = 'NaN' FROM {SCHEMA}.mv_numbers") == [(True,)]


# --- readers meanwhile ---


class Reader(threading.Thread):
    """Asks the same question again and again; what it got, and how long the longest took."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.site, self.stop = site, threading.Event()
        self.found: list[tuple[Any, ...]] = []
        self.longest_s = 0.0
        self.problem: BaseException | None = None

    def run(self) -> None:
        sql = f"SELECT count(*), min(version), max(version) FROM {SCHEMA}.mv_numbers"
        try:
            with psycopg.connect(
                host="127.0.0.1", port=self.site.server.port, user="grafana", password=CANARY,
                dbname=self.site.dbname, autocommit=True,
            ) as connection:  # fmt: skip
                while not self.stop.is_set():
                    started = time.monotonic()
                    self.found += connection.execute(sql).fetchall()
                    self.longest_s = max(self.longest_s, time.monotonic() - started)
        except BaseException as error:  # noqa: BLE001 - it is looked at by the test
            self.problem = error

    def __enter__(self) -> Reader:
        self.start()
        wait_until(lambda: bool(self.found or self.problem), timeout_s=20, what="the reader must read")
        return self

    def reads_on(self) -> None:
        seen = len(self.found)
        wait_until(lambda: len(self.found) > seen or bool(self.problem), timeout_s=20, what="the reader must read on")

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join(20)


def test_a_reader_in_a_loop_meets_whole_tables_only_and_hardly_waits(site):
    with numbers(0) as source:
        site.publish(source, [NUMBERS], "grafana")
    with Reader(site) as reader:
        for version in range(1, 13):
            with numbers(version) as source:
                site.publish(source, [NUMBERS], "grafana")
            seen = len(reader.found)
            wait_until(
                lambda seen=seen: len(reader.found) > seen or reader.problem is not None, timeout_s=20, what="go on"
            )
    assert reader.problem is None
    assert {count for count, _, _ in reader.found} == {STATIONS}
    assert all(low == high for _, low, high in reader.found)
    versions = [low for _, low, _ in reader.found]
    assert versions == sorted(versions)
    assert versions[-1] >= 11
    assert reader.longest_s < 1


def test_a_long_query_holds_up_the_publication_and_no_other_reader(site):
    with numbers(1) as source:
        site.publish(source, [NUMBERS], "grafana")
    done: list[float] = []

    def publish_the_next() -> None:
        with numbers(2) as source:
            site.publish(source, [NUMBERS], "grafana")
        done.append(time.monotonic())

    with site.login("grafana").connect() as long_one:
        long_one.execute(f"SELECT count(*) FROM {SCHEMA}.mv_numbers")  # holds its lock to the transaction's end
        thread = threading.Thread(target=publish_the_next, daemon=True)
        thread.start()
        waiting = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        tried = 0
        with Reader(site) as reader:
            while tried < 3:
                wait_until(lambda: bool(site.sql(waiting)), timeout_s=20, what="the publication must want the lock")
                tried += 1
        assert (done, reader.problem) == ([], None)
        assert len(reader.found) > 5
        assert reader.longest_s < 1
        assert {low for _, low, _ in reader.found} == {1}
    thread.join(30)
    assert done
    assert version_of(site) == (STATIONS, 2, 2)


def test_one_that_never_ends_leaves_the_old_tables(site, monkeypatch):
    monkeypatch.setattr(serving, "LOCK_PATIENCE_S", 0.1)
    with numbers(1) as source:
        site.publish(source, [NUMBERS])
    with site.login().connect() as long_one, numbers(2) as source:
        long_one.execute(f"SELECT count(*) FROM {SCHEMA}.mv_numbers")
        with pytest.raises(TransientError, match=r"readers have held the tables for 0.1 s\. See pg_stat_activity"):
            site.publish(source, [NUMBERS])
    assert version_of(site) == (STATIONS, 1, 1)


# --- what fails, and what is not ours ---


def test_a_publication_that_fails_changes_nothing(site):
    with numbers(1) as source:
        site.publish(source, [NUMBERS])
    before = site.sql(f"SELECT * FROM {SCHEMA}.{LEDGER}")
    other = replace(NUMBERS, name="mv_other", columns=(*NUMBERS.columns, Column("gone", "BIGINT", "Not there")))
    with numbers(2) as source:
        source.execute(f"CREATE TABLE {SCHEMA}.mv_other AS FROM {SCHEMA}.mv_numbers")
        with pytest.raises(duckdb.BinderException):
            site.publish(source, [NUMBERS, other])
    with numbers(2) as source:
        source.execute(f"INSERT INTO {SCHEMA}.mv_numbers VALUES (0, 2)")
        with pytest.raises(PermanentError, match="could not create unique index"):
            site.publish(source, [NUMBERS])
    assert version_of(site) == (STATIONS, 1, 1)
    assert site.sql(f"SELECT * FROM {SCHEMA}.{LEDGER}") == before
    assert site.names() == {"mv_numbers", LEDGER}


def test_what_others_made_in_the_schema_stays_and_a_name_of_theirs_is_refused(site):
    with numbers(1) as source:
        site.publish(source, [NUMBERS])
    site.sql(f"GRANT CREATE, USAGE ON SCHEMA {SCHEMA} TO somebody")
    site.sql(f"CREATE TABLE {SCHEMA}.mv_mine AS SELECT 7 AS n", "somebody")
    site.sql(f"CREATE VIEW {SCHEMA}.a_view AS SELECT 1 AS n")
    with numbers(2) as source:
        site.publish(source, [NUMBERS])
    assert site.names() == {"mv_numbers", LEDGER, "mv_mine", "a_view"}
    assert site.sql(f"SELECT n FROM {SCHEMA}.mv_mine", "somebody") == [(7,)]
    with numbers(3, name="mv_mine") as source, pytest.raises(PermanentError, match=r"mv_mine: is there, and was not"):
        site.publish(source, [replace(NUMBERS, name="mv_mine")])
    assert version_of(site) == (STATIONS, 2, 2)


def test_a_table_that_nobody_makes_any_more_is_dropped_if_it_is_ours(site):
    both = [NUMBERS, replace(NUMBERS, name="mv_gone"), replace(NUMBERS, name="mv_taken")]
    with numbers(1) as source:
        for name in ("mv_gone", "mv_taken"):
            source.execute(f"CREATE TABLE {SCHEMA}.{name} AS FROM {SCHEMA}.mv_numbers")
        site.publish(source, both)
        # Somebody dropped ours, and made one of that name.
        site.sql(f"DROP TABLE {SCHEMA}.mv_taken")
        site.sql(f"CREATE TABLE {SCHEMA}.mv_taken AS SELECT 7 AS n")
        site.publish(source, [NUMBERS])
    assert site.names() == {"mv_numbers", LEDGER, "mv_taken"}
    assert site.sql(f"SELECT n FROM {SCHEMA}.mv_taken") == [(7,)]


def test_a_ledger_that_is_not_ours_is_refused(site):
    site.sql(f"CREATE SCHEMA {SCHEMA}")
    site.sql(f"CREATE TABLE {SCHEMA}.{LEDGER} (x int)")
    with numbers(1) as source, pytest.raises(PermanentError, match=f"{LEDGER}: is there, and was not published by"):
        site.publish(source, [NUMBERS])


def test_readers_keep_their_rights(site):
    with numbers(1) as source:
        site.publish(source, [NUMBERS], "grafana")
        site.sql(f"GRANT USAGE ON SCHEMA {SCHEMA} TO somebody")
        site.sql(f"GRANT SELECT ON {SCHEMA}.mv_numbers TO somebody")
        site.publish(source, [NUMBERS], "grafana")
    for role in ("grafana", "somebody"):
        assert site.sql(f"SELECT count(*) FROM {SCHEMA}.mv_numbers", role) == [(STATIONS,)]
        with pytest.raises(PermanentError, match="permission denied"):
            site.sql(f"DELETE FROM {SCHEMA}.mv_numbers", role)
    with pytest.raises(PermanentError, match="permission denied"):
        site.sql(f"SELECT * FROM {SCHEMA}.{LEDGER}", "somebody")


def test_default_privileges_count(site):
    site.sql(f"CREATE SCHEMA {SCHEMA}")
    site.sql(f"GRANT USAGE ON SCHEMA {SCHEMA} TO somebody")
    site.sql(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {SCHEMA} GRANT SELECT ON TABLES TO somebody")
    with numbers(1) as source:
        for _ in range(2):
            site.publish(source, [NUMBERS])
            assert site.sql(f"SELECT count(*) FROM {SCHEMA}.mv_numbers", "somebody") == [(STATIONS,)]


def test_a_view_over_a_published_table_is_named(site):
    with numbers(1) as source:
        site.publish(source, [NUMBERS])
        site.sql(f"CREATE VIEW {SCHEMA}.my_view AS SELECT n FROM {SCHEMA}.mv_numbers")
        with pytest.raises(PermanentError, match=r"depends on a published table: view \S*my_view depends"):
            site.publish(source, [NUMBERS])


def test_a_reader_that_does_not_exist_is_named(site):
    with numbers(1) as source, pytest.raises(PermanentError, match=r'role "nobody" does not exist\. Create the role'):
        site.publish(source, [NUMBERS], "nobody")


# --- the login ---


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"password": "wrong-canary"}, PermanentError, "password authentication failed"),  # pragma: allowlist secret
        ({"dbname": "nowhere"}, PermanentError, 'database "nowhere" does not exist'),
        ({"port": 1}, TransientError, "connection refused by"),
        ({"sslmode": "require"}, PermanentError, "server does not support SSL"),
    ],
)
def test_a_login_that_fails_says_why_and_no_password(site, changed, kind, words):
    with pytest.raises(kind) as caught, replace(site.login(), **changed).connect():
        pass
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)
    assert CANARY not in repr(site.login())


def test_a_statement_that_takes_too_long_ends(site):
    with (
        pytest.raises(TransientError, match="statement timeout"),
        replace(site.login(), statement_timeout_s=0.05).connect() as connection,
    ):
        connection.execute("SELECT pg_sleep(20)")


def test_the_user_of_dagsters_own_storage_is_refused(site, monkeypatch):
    given = {"HOST": "127.0.0.1", "PORT": str(site.server.port), "DB": site.dbname, "PASSWORD": CANARY}
    for name, value in given.items():
        monkeypatch.setenv(f"POSTGRES_SERVING_{name}", value)
        monkeypatch.setenv(f"POSTGRES_{name}", value)
    monkeypatch.setenv("POSTGRES_USER", "serving")
    monkeypatch.setenv("POSTGRES_SERVING_USER", "other")
    assert load_settings().postgres_serving_user == "other"
    monkeypatch.setenv("POSTGRES_SERVING_USER", "serving")
    with pytest.raises(ValueError, match="POSTGRES_SERVING_USER is 'serving', the user of Dagster's own storage"):
        load_settings()


def test_a_server_that_is_down_fails_the_run_and_is_named(filled, monkeypatch):
    monkeypatch.setenv("WRM_DATA_DIR", str(filled))
    for name, value in {"HOST": "127.0.0.1", "PORT": "1", "DB": "d", "USER": "u", "PASSWORD": CANARY}.items():
        monkeypatch.setenv(f"POSTGRES_SERVING_{name}", value)
    monkeypatch.setattr(retry, "SERVING_POLICY", replace(retry.SERVING_POLICY, attempts=1))
    message = failure_of(materialize("serving_tables", raise_on_error=False))
    assert "postgres connect 127.0.0.1:1/d" in message
    assert CANARY not in message
