"""The tables `mv_…` and `quality_…` of the analytics database -> a schema of a PostgreSQL database.

All in one transaction: each table is built next to the old one under another name, then all are locked together,
dropped and renamed. A reader sees either the old tables or the new ones, never a missing or partial one, and waits for
the lock for at most `LOCK_WAIT_MS`: if a long query holds a table, the attempt is given up, so that others can
continue, and repeated later. Readers in a REPEATABLE READ transaction that began before and read a table for the first
time afterwards see it empty, as with any table that is newer than their snapshot.

Our tables are recorded in `published_tables`, by name and PostgreSQL's oid: anything else in the schema is not touched.
"""

import io
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import csv

from wrm_pipeline.analytics.registry import SCHEMA, TABLES, Column, Table
from wrm_pipeline.analytics.sql_text import identifier, literal
from wrm_pipeline.clients.errors import PermanentError, TransientError
from wrm_pipeline.clients.postgres import TARGET

if TYPE_CHECKING:
    import duckdb
    import psycopg

PREFIXES = ("mv_", "quality_")
LEDGER = "published_tables"
_LEDGER_COLUMNS = {"table_name", "table_oid", "rows", "published_at"}
_NEXT = "__wrm_next"

# For one attempt to lock all tables. Readers that arrive meanwhile wait as long.
LOCK_WAIT_MS = 50
LOCK_PAUSE_S = 0.2
LOCK_PATIENCE_S = 30.0

# 65,536 rows of the widest table are about 10 MB as CSV.
_BATCH_ROWS = 65_536

_TYPES = {
    "BOOLEAN": "boolean",
    "TINYINT": "smallint",
    "SMALLINT": "smallint",
    "INTEGER": "integer",
    "BIGINT": "bigint",
    "HUGEINT": "numeric(39)",
    "UTINYINT": "smallint",
    "USMALLINT": "integer",
    "UINTEGER": "bigint",
    "UBIGINT": "numeric(20)",
    "UHUGEINT": "numeric(39)",
    "FLOAT": "real",
    "DOUBLE": "double precision",
    "VARCHAR": "text",
    "DATE": "date",
    "TIME": "time",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamptz",
    "INTERVAL": "interval",
    "UUID": "uuid",
    "BLOB": "bytea",
    "JSON": "jsonb",
}
_AS_TEXT = ("HUGEINT", "UHUGEINT", "INTERVAL", "UUID")


_MADE_SQL = "SELECT table_name FROM duckdb_tables() WHERE schema_name = ?"


@dataclass(frozen=True, slots=True)
class Serving:
    """Where tables are published.

    Attributes:
        schema: Of the PostgreSQL database; created if missing.
        readers: Roles that may read.
    """

    schema: str
    readers: Sequence[str] = ()


def served_tables() -> list[Table]:
    """The tables that are published."""
    return [table for table in TABLES.values() if table.name.startswith(PREFIXES) and not table.is_view]


def postgres_type(column: Column) -> str:
    """The PostgreSQL type of a column in the registry; nested types become jsonb."""
    if column.unit == "JSON" or column.type.endswith("]") or column.type.startswith(("STRUCT", "MAP", "UNION")):
        return "jsonb"
    if column.type.startswith("DECIMAL"):
        return column.type.lower().replace("decimal", "numeric")
    return _TYPES.get(column.type, "text")


def publish(
    source: "duckdb.DuckDBPyConnection",
    target: "psycopg.Connection",
    serving: Serving,
    *,
    published_at: datetime,
    tables: Sequence[Table] | None = None,
) -> Mapping[str, int]:
    """Replace the published tables by the current ones, in the transaction of `target`; returns rows by table.

    A table that no run has made yet is left out.

    Raises:
        PermanentError: a name is taken by something that is not ours, or a foreign view depends on a table.
        TransientError: readers hold the tables for too long.
        psycopg.Error: PostgreSQL refused; in each case nothing is changed.
    """
    made = {name for (name,) in source.execute(_MADE_SQL, [SCHEMA]).fetchall()}
    chosen = [table for table in (served_tables() if tables is None else tables) if table.name in made]
    schema = _Schema(target, serving)
    schema.prepare()
    ours = schema.ours()
    names = [table.name for table in chosen]
    schema.refuse_strangers(names, ours)
    rows = {table.name: schema.build(source, table) for table in chosen}
    gone = [name for name in ours if name not in names]
    schema.swap(chosen, gone)
    schema.remember(rows, published_at)
    return rows


class _Schema:
    """A schema of PostgreSQL, within one transaction."""

    def __init__(self, target: "psycopg.Connection", serving: Serving) -> None:
        self._target = target
        self._serving = serving
        self.name = serving.schema

    def _query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._target.execute(sql, values).fetchall()

    def _of(self, table: str) -> str:
        return f"{identifier(self.name)}.{identifier(table)}"

    def prepare(self) -> None:
        """Create the schema and the ledger if missing; one publisher at a time."""
        self._target.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"wrm_pipeline {self.name}"])
        if not self._query("SELECT 1 FROM pg_namespace WHERE nspname = %s", self.name):
            self._target.execute(f"CREATE SCHEMA {identifier(self.name)}")
        for role in self._serving.readers:
            if not self._query("SELECT 1 WHERE has_schema_privilege(%s, %s, 'USAGE')", role, self.name):
                self._target.execute(f"GRANT USAGE ON SCHEMA {identifier(self.name)} TO {identifier(role)}")
        if not self._relations([LEDGER]):
            self._target.execute(
                f"CREATE TABLE {self._of(LEDGER)} (table_name text PRIMARY KEY, table_oid oid NOT NULL, "
                "rows bigint NOT NULL, published_at timestamptz NOT NULL)"
            )
            comment = "The tables of this schema that wrm_pipeline publishes, and replaces each time"
            self._target.execute(f"COMMENT ON TABLE {self._of(LEDGER)} IS {literal(comment)}")
        found = self._query(
            "SELECT attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE attnum > 0 "
            "AND relnamespace = %s::regnamespace AND relname = %s AND pg_get_userbyid(relowner) = current_user",
            identifier(self.name),
            LEDGER,
        )
        if {column for (column,) in found} != _LEDGER_COLUMNS:
            raise self._taken(LEDGER)
        self._grant(LEDGER, {})

    def _relations(self, names: Sequence[str]) -> dict[str, int]:
        """The oids of objects with these names."""
        sql = "SELECT relname, oid FROM pg_class WHERE relnamespace = %s::regnamespace AND relname = ANY(%s)"
        return dict(self._query(sql, identifier(self.name), list(names)))

    def ours(self) -> dict[str, int]:
        """Tables that were published before and still exist, with their oids."""
        published = dict(self._query(f"SELECT table_name, table_oid FROM {self._of(LEDGER)}"))
        there = self._relations(list(published))
        return {name: oid for name, oid in published.items() if there.get(name) == oid}

    def refuse_strangers(self, names: Sequence[str], ours: Mapping[str, int]) -> None:
        """Check that no foreign object has a name that we need.

        Raises:
            PermanentError: there is one.
        """
        for name in self._relations([*names, *(f"{name}{_NEXT}" for name in names)]):
            if name not in ours:
                raise self._taken(name)

    def _taken(self, name: str) -> PermanentError:
        return PermanentError(
            "is there, and was not published by this pipeline",
            TARGET,
            "publish",
            f"{self.name}.{name}",
            "Rename or drop it, or set POSTGRES_SERVING_SCHEMA to a schema of its own",
        )

    def build(self, source: "duckdb.DuckDBPyConnection", table: Table) -> int:
        """Create the new table next to the old one, with key, comments and permissions; returns its number of rows."""
        new = self._of(f"{table.name}{_NEXT}")
        columns = ", ".join(f"{identifier(column.name)} {postgres_type(column)}" for column in table.columns)
        self._target.execute(f"CREATE TABLE {new} ({columns})")
        rows = self._copy(source, table, new)
        comments = [f"COMMENT ON TABLE {new} IS {literal(table.explained)}"]
        comments += [
            f"COMMENT ON COLUMN {new}.{identifier(column.name)} IS {literal(column.explained)}"
            for column in table.columns
            if column.explained
        ]
        if table.key:
            key = ", ".join(map(identifier, table.key))
            constraint = identifier(f"{table.name}{_NEXT}_pkey")
            comments.append(f"ALTER TABLE {new} ADD CONSTRAINT {constraint} PRIMARY KEY ({key})")
        self._target.execute("; ".join([*comments, f"ANALYZE {new}"]))
        self._grant(f"{table.name}{_NEXT}", self._readers_of(table.name))
        return rows

    def _copy(self, source: "duckdb.DuckDBPyConnection", table: Table, new: str) -> int:
        selected = ", ".join(map(_selected, table.columns))
        batches = source.execute(f'SELECT {selected} FROM {SCHEMA}."{table.name}"').to_arrow_reader(_BATCH_ROWS)
        rows = 0
        with self._target.cursor() as cursor, cursor.copy(f"COPY {new} FROM STDIN (FORMAT csv)") as copy:
            for batch in batches:
                copy.write(_as_csv(batch))
                rows += batch.num_rows
        return rows

    def _readers_of(self, name: str) -> dict[str, bool]:
        """The roles that may read a table, and whether they may grant that to others."""
        sql = (
            "SELECT CASE grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(grantee) END, is_grantable "
            "FROM pg_class, aclexplode(relacl) WHERE relnamespace = %s::regnamespace AND relname = %s "
            "AND privilege_type = 'SELECT' AND grantee <> relowner"
        )
        return dict(self._query(sql, identifier(self.name), name))

    def _grant(self, name: str, readers: Mapping[str, bool]) -> None:
        for role, passes_on in {**dict.fromkeys(self._serving.readers, False), **readers}.items():
            option = " WITH GRANT OPTION" if passes_on else ""
            grantee = "PUBLIC" if role is None else identifier(role)
            self._target.execute(f"GRANT SELECT ON {self._of(name)} TO {grantee}{option}")

    def swap(self, tables: Sequence[Table], gone: Sequence[str]) -> None:
        """Replace the old tables by the new ones, and drop those that are no longer made."""
        import psycopg

        old = [*self._relations([table.name for table in tables]), *gone]
        self._lock(old)
        statements = [f"DROP TABLE {self._of(name)}" for name in old]
        for table in tables:
            statements.append(f"ALTER TABLE {self._of(table.name + _NEXT)} RENAME TO {identifier(table.name)}")
            if table.key:
                names = f"{identifier(f'{table.name}{_NEXT}_pkey')} TO {identifier(f'{table.name}_pkey')}"
                statements.append(f"ALTER TABLE {self._of(table.name)} RENAME CONSTRAINT {names}")
        try:
            self._target.execute("; ".join(statements))
        except psycopg.errors.DependentObjectsStillExist as error:
            raise PermanentError(
                f"something depends on a published table: {error.diag.message_detail or ''}",
                TARGET,
                "publish",
                self.name,
                "Drop it: a view over them cannot stay, as they are replaced; let it be a query",
            ) from None

    def _lock(self, names: Sequence[str]) -> None:
        """Lock tables against readers, without making later readers wait.

        Raises:
            TransientError: somebody holds one for longer than `LOCK_PATIENCE_S`.
        """
        import psycopg

        if not names:
            return
        listed = ", ".join(map(self._of, names))
        until = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                with self._target.transaction():
                    self._target.execute(f"SET LOCAL statement_timeout = {LOCK_WAIT_MS}")
                    self._target.execute(f"LOCK TABLE {listed} IN ACCESS EXCLUSIVE MODE")
                    self._target.execute("SET LOCAL statement_timeout = DEFAULT")
            except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
                if time.monotonic() > until:
                    raise TransientError(
                        f"readers have held the tables for {LOCK_PATIENCE_S:g} s",
                        TARGET,
                        "publish",
                        self.name,
                        "See pg_stat_activity for a query or transaction that does not end; the old tables stay",
                    ) from None
                time.sleep(LOCK_PAUSE_S * random.uniform(0.5, 1))
            else:
                return

    def remember(self, rows: Mapping[str, int], published_at: datetime) -> None:
        """Write the ledger."""
        there = self._relations(list(rows))
        self._target.execute(f"DELETE FROM {self._of(LEDGER)}")
        with self._target.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {self._of(LEDGER)} VALUES (%s, %s, %s, %s)",
                [[name, there[name], count, published_at] for name, count in rows.items()],
            )


def _selected(column: Column) -> str:
    """A column in COPY's format. PostgreSQL's text and jsonb cannot contain NUL, and jsonb no NaN."""
    name = identifier(column.name)
    if column.type in {"DOUBLE[]", "FLOAT[]"}:
        return f"to_json(list_transform({name}, lambda value: CASE WHEN isfinite(value) THEN value END))::VARCHAR"
    if column.type.endswith("]") or column.type.startswith(("STRUCT", "MAP", "UNION")):
        return f"to_json({name})::VARCHAR"
    if column.unit == "JSON" or column.type == "JSON":
        return f"replace({name}::VARCHAR, '\\u0000', '\\ufffd')"
    if column.type == "BLOB":
        return f"'\\x' || lower(hex({name}))"
    if column.type == "VARCHAR":
        return f"replace({name}, chr(0), '')"
    return f"{name}::VARCHAR" if column.type in _AS_TEXT else name


def _as_csv(batch: pa.RecordBatch) -> bytes:
    """Strings in quotes, so that an empty one is not read as null."""
    sink = io.BytesIO()
    csv.write_csv(batch, sink, csv.WriteOptions(include_header=False))
    return sink.getvalue()
