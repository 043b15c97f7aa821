"""The local analytics database (DuckDB): one writer builds a new file and renames it over the old one.

DuckDB locks a file that is open for writing against every other process, and one that is open for reading
against writers. So nobody ever opens the published file for writing: a reader keeps the file that it has opened,
and the next one sees the new file.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema
from wrm_pipeline.masking import publish, redact, remember_credentials, remember_secret, scrub

if TYPE_CHECKING:
    import duckdb

SCHEMA = "wrm_analytics"

# Of a VPS with 4 GB; DuckDB's own default is 80 % of the machine, whatever else runs on it.
MEMORY_LIMIT = "1GB"


@dataclass(frozen=True, slots=True)
class S3Access:
    """What DuckDB needs to read a bucket itself. Secrets stay in memory, in no repr, and are masked from here on."""

    bucket: str
    endpoint_url: str | None
    access_key_id: str
    secret_access_key: str
    region_name: str | None

    def __post_init__(self) -> None:
        publish(self.bucket)
        remember_credentials(self.endpoint_url or "")
        remember_secret(self.access_key_id)
        remember_secret(self.secret_access_key)

    def __repr__(self) -> str:
        return redact(f"S3Access({self.bucket!r}, {self.endpoint_url!r})")


class AnalyticsDatabaseError(RuntimeError):
    """The database cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class AnalyticsDatabase:
    """The database file at `path`; `s3` lets its views read a bucket."""

    path: Path
    s3: S3Access | None = None

    @contextmanager
    def refresh(self) -> "Iterator[duckdb.DuckDBPyConnection]":
        """A connection to a copy of the database, which takes the original's place when the block ends well.

        After an exception the old file is still there, unchanged. One refresh at a time, whoever asks: Dagster's pool
        `duckdb` holds runs of one instance apart, a lock all others.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.new-{os.getpid()}")
        with _locked(self.path.parent), _without_secrets():
            self._sweep()
            yield from self._build(new)

    def _build(self, new: Path) -> "Iterator[duckdb.DuckDBPyConnection]":
        try:
            if self.path.exists():
                shutil.copyfile(self.path, new)
            connection = self._connect(new, read_only=False)
            try:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
                yield connection
                connection.execute("CHECKPOINT")
            finally:
                connection.close()
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            new.replace(self.path)
        finally:
            _remove_database(new)

    def _sweep(self) -> None:
        """Remove what killed processes left; the caller holds the lock, so nobody builds a new file now."""
        for orphan in self.path.parent.glob(f"{self.path.name}.new-*"):
            _remove_database(orphan)
        for folder in self.path.parent.glob(f"{self.path.name}.spill-*"):
            if not Path(f"/proc/{folder.name.split('-')[-2]}").exists():
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def reading(self) -> "Iterator[duckdb.DuckDBPyConnection]":
        """A read-only connection to the published file as it is now.

        Raises:
            AnalyticsDatabaseError: there is no database yet.
        """
        if not self.path.exists():
            raise AnalyticsDatabaseError(
                f"There is no database at {self.path} yet. Materialize create_duckdb_enhanced_views first."
            )
        connection = self._connect(self.path, read_only=True)
        try:
            with _without_secrets():
                yield connection
        finally:
            connection.close()

    def _connect(self, path: Path, *, read_only: bool) -> "duckdb.DuckDBPyConnection":
        import duckdb

        connection = duckdb.connect(
            str(path),
            read_only=read_only,
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_persistent_secrets": "false",
                "memory_limit": MEMORY_LIMIT,
                # Two databases that share a folder use the same file names in it, and crash (1.5.5).
                "temp_directory": f"{self.path}.spill-{os.getpid()}-{'reading' if read_only else 'writing'}",
            },
        )
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")  # it would draw into a run's log
        if self.s3 is not None:
            try:
                give_s3_access(connection, self.s3)
            except BaseException:
                connection.close()
                raise
        return connection


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Mask DuckDB's messages: it quotes what a service answers, such as an access key that is not known there."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        scrub(error)
        raise


def give_s3_access(connection: "duckdb.DuckDBPyConnection", s3: S3Access) -> None:
    """Load httpfs from its wheel and create a secret for one bucket, in this connection's memory only."""
    connection.execute(f"LOAD '{_quoted(str(httpfs_path()))}'")
    endpoint = s3.endpoint_url or f"https://s3.{s3.region_name or 'us-east-1'}.amazonaws.com"
    scheme, _, host = endpoint.partition("://")
    options = {
        "KEY_ID": s3.access_key_id,
        "SECRET": s3.secret_access_key,
        "REGION": s3.region_name or "us-east-1",
        "ENDPOINT": host.rstrip("/"),
        "URL_STYLE": "path",
        "SCOPE": f"s3://{s3.bucket}",
    }
    values = ", ".join(f"{name} '{_quoted(value)}'" for name, value in options.items())
    use_ssl = "true" if scheme == "https" else "false"
    connection.execute(f"CREATE OR REPLACE TEMPORARY SECRET wrm (TYPE s3, {values}, USE_SSL {use_ssl})")


def httpfs_path() -> Path:
    """The httpfs extension in its wheel.

    Raises:
        AnalyticsDatabaseError: the wheel is missing or of another DuckDB version.
    """
    import duckdb
    import duckdb_extension_httpfs

    folder = Path(duckdb_extension_httpfs.__file__).parent
    found = sorted(folder.rglob(f"v{duckdb.__version__}/**/httpfs.duckdb_extension"))
    if not found:
        raise AnalyticsDatabaseError(
            f"There is no httpfs extension for DuckDB {duckdb.__version__} in {folder}. Install "
            f"duckdb-extension-httpfs=={duckdb.__version__}."
        )
    return found[0]


@dataclass(frozen=True, slots=True)
class ViewSet:
    """The views over the enhanced Parquet, as SQL by name; `newest` is the date that `latest` is about."""

    definitions: Mapping[str, str]
    newest: date | None


def enhanced_views(files: str, newest: date | None) -> ViewSet:
    """The four views of the data contract.

    `files` is the pattern of the partitions' paths or s3:// URLs. Without any published partition the views are
    empty, with all columns: a view over a pattern that matches no file would fail at each query.
    """
    if newest is None:
        columns = [f"NULL::{_sql_type(field.type)} AS {field.name}" for field in arrow_schema(ENHANCED)]
        everything = f"SELECT {', '.join(columns)}, NULL::DATE AS dt WHERE false"
    else:
        everything = (
            f"SELECT * FROM read_parquet('{_quoted(files)}', hive_partitioning = true, hive_types = {{'dt': DATE}})"
        )
    name = f"{SCHEMA}.wrm_stations_enhanced_data"
    literal = f"DATE '{newest or date(1970, 1, 1)}'"
    return ViewSet(
        {
            "wrm_stations_enhanced_data": everything,
            "wrm_stations_only": f"SELECT * FROM {name} WHERE record_type = 'station'",
            "wrm_bikes_only": f"SELECT * FROM {name} WHERE record_type = 'bike'",
            # A literal date: DuckDB reads every file for max(dt) or current_date, and one file for this.
            "wrm_stations_latest": (
                f"SELECT * FROM {name} WHERE dt = {literal} AND record_type = 'station' "
                "QUALIFY row_number() OVER (PARTITION BY station_id ORDER BY file_timestamp DESC) = 1 "
                "ORDER BY station_id"  # else in no order, and the catalog's samples are others each time
            ),
        },
        newest,
    )


def stored_views(connection: "duckdb.DuckDBPyConnection") -> dict[str, str]:
    """The definitions that `create_views` has stored, by name; empty for a new database."""
    found = connection.execute(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = 'view_definitions'", [SCHEMA]
    ).fetchone()
    if found is None:
        return {}
    rows: Sequence[tuple[str, str]] = connection.execute(
        f"SELECT view_name, definition FROM {SCHEMA}.view_definitions"
    ).fetchall()
    return dict(rows)


def create_views(connection: "duckdb.DuckDBPyConnection", views: ViewSet, *, refreshed_at: datetime) -> None:
    """Create or replace the views and remember their definitions, in one transaction."""
    connection.begin()
    for name, definition in views.definitions.items():
        connection.execute(f"CREATE OR REPLACE VIEW {SCHEMA}.{name} AS {definition}")
    connection.execute(
        f"CREATE OR REPLACE TABLE {SCHEMA}.view_definitions "
        "(view_name VARCHAR, definition VARCHAR, refreshed_at TIMESTAMPTZ)"
    )
    connection.executemany(
        f"INSERT INTO {SCHEMA}.view_definitions VALUES (?, ?, ?)",
        [[name, definition, refreshed_at] for name, definition in views.definitions.items()],
    )
    connection.commit()


def write_table(connection: "duckdb.DuckDBPyConnection", name: str, rows: pa.Table) -> None:
    """Create or replace a table of the analytics schema from Arrow data."""
    connection.register("incoming_rows", rows)
    connection.execute(f'CREATE OR REPLACE TABLE {SCHEMA}."{name}" AS FROM incoming_rows')
    connection.unregister("incoming_rows")


def query_arrow(connection: "duckdb.DuckDBPyConnection", sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
    """Run a query; once more if a Parquet object was replaced while it was read.

    httpfs notices a changed ETag and fails rather than mix two versions; the second try reads the new one.
    """
    import duckdb

    try:
        return connection.execute(sql, list(parameters)).to_arrow_table()
    except (duckdb.HTTPException, duckdb.IOException) as error:
        if "ETag" not in str(error):
            raise
        return connection.execute(sql, list(parameters)).to_arrow_table()


def _sql_type(arrow_type: pa.DataType) -> str:
    names = {
        "string": "VARCHAR",
        "timestamp[us, tz=UTC]": "TIMESTAMPTZ",
        "int32": "INTEGER",
        "int16": "SMALLINT",
        "double": "DOUBLE",
        "bool": "BOOLEAN",
        "date32[day]": "DATE",
    }
    return names[str(arrow_type)]


def _quoted(text: str) -> str:
    return text.replace("'", "''")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which the kernel frees if this process dies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_database(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
