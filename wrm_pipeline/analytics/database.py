"""The local analytics database (DuckDB): one writer builds a new file and renames it over the old one.

DuckDB locks a file that is open for writing against every other process, and one that is open for reading against
writers. So nobody ever opens the published file for writing: a reader keeps the file that it has opened, and the next
reader sees the new one.
"""

import errno
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from wrm_pipeline.analytics.database_files import (
    LOCK_WAIT_S,
    AnalyticsDatabaseError,
    DatabaseLockedError,
    copy_database,
    home_of,
    literal,
    locked,
    logs_beside,
    new_file,
    problem_of,
    reported,
    set_aside,
    set_aside_logs,
    take_over_rights,
)
from wrm_pipeline.analytics.enhanced_views import ViewSet, enhanced_views
from wrm_pipeline.analytics.httpfs import way_to
from wrm_pipeline.analytics.registry.model import SCHEMA
from wrm_pipeline.analytics.registry.views import VIEW_DEFINITIONS
from wrm_pipeline.clients.interruptible import interruptible
from wrm_pipeline.domain.masking import publish, redact, remember_credentials, remember_secret, scrub

if TYPE_CHECKING:
    import duckdb

__all__ = [
    "MEMORY_LIMIT",
    "SCHEMA",
    "AnalyticsDatabase",
    "AnalyticsDatabaseError",
    "DamagedDatabaseError",
    "DatabaseLockedError",
    "S3Access",
    "ViewSet",
    "create_views",
    "enhanced_views",
    "give_s3_access",
    "httpfs_path",
    "make_way",
    "query_arrow",
    "set_table_aside",
    "stored_views",
    "write_table",
]

# A macro that identifies a database of this pipeline.
_SIGNATURE = "written_by"
# The table of the views' SQL.
_DEFINITIONS = VIEW_DEFINITIONS.name

# For a VPS with 4 GB; DuckDB's own default is 80 % of the machine, regardless of other processes.
MEMORY_LIMIT = "1GB"


@dataclass(frozen=True, slots=True)
class S3Access:
    """What DuckDB needs to read a bucket directly. Secrets stay in memory, are in no repr, and are masked."""

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


class DamagedDatabaseError(AnalyticsDatabaseError):
    """The file at the database's path is not a readable database."""


# Two databases with a shared spill folder use the same file names in it, and crash (1.5.5).
_spill_numbers = itertools.count(1)

_OF_THE_MACHINE = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EIO)

# Errors about the database's own file; those about Parquet have other texts.
_DAMAGE = re.compile(r'Corrupt database file|not a valid DuckDB database|Could not read enough bytes from file "(.*?)"')


@dataclass(frozen=True, slots=True)
class AnalyticsDatabase:
    """The database file at `path`, or at the target of a symlink there; `s3` lets its views read a bucket.

    `lock_wait_s` is how long a refresh waits for another one. A database that holds tables and was not made by this
    pipeline is moved aside, unless it is `of_anyone`.
    """

    path: Path
    s3: S3Access | None = None
    lock_wait_s: float = LOCK_WAIT_S
    of_anyone: bool = False

    @contextmanager
    def refresh(self) -> "Iterator[duckdb.DuckDBPyConnection]":
        """A connection to a copy of the database, which replaces the original when the block succeeds.

        After an exception the old file is unchanged. There is one refresh at a time: Dagster's pool `duckdb` serializes
        runs of one instance, a lock all others. An obstacle (a file that is not a database or not ours, a directory, a
        write-ahead log) is moved aside.

        Raises:
            DatabaseLockedError: another refresh did not end in time; the message names its process.
            DamagedDatabaseError: the old database turned out to be damaged; it was moved aside for the next refresh.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path, self.lock_wait_s), _without_secrets():
            home = home_of(self.path)
            self._sweep(home)
            for place in {self.path, home}:
                set_aside_logs(place)
            model = None
            if home.exists():
                problem = problem_of(home)
                model = set_aside(home, problem) if problem else home
            yield from self._build(home, model)

    def _build(self, home: Path, model: Path | None) -> "Iterator[duckdb.DuckDBPyConnection]":
        import duckdb

        new = new_file(home)
        try:
            connection, model = self._open_copy(home, new, model)
            try:
                if model is not None:
                    new.chmod(0o600)
                yield connection
                connection.execute("CHECKPOINT")
            except BaseException as error:
                with suppress(Exception):  # otherwise everything is written again, only to be removed
                    connection.execute("PRAGMA disable_checkpoint_on_shutdown")
                in_the_way = isinstance(error, DamagedDatabaseError)
                if in_the_way or (isinstance(error, duckdb.Error) and _is_damage(error, new)):
                    raise self._damaged(home, error) from error
                raise
            finally:
                connection.close()
            if model is not None:
                take_over_rights(model, new)
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            new.replace(home)
        finally:
            _remove_database(new)

    def _open_copy(self, home: Path, new: Path, model: Path | None) -> "tuple[duckdb.DuckDBPyConnection, Path | None]":
        """Open a copy of the database at `home`, or an empty one if there is none that is usable.

        The second value is the file whose owner, mode and attributes the new one gets: the old one, wherever it is now.
        """
        import duckdb

        if home.exists():
            copy_database(home, new)
            try:
                connection = self._connect_for_writing(new)
            except duckdb.Error as error:
                if not _cannot_be_opened(new):
                    raise
                # From a newer DuckDB, encrypted, or damaged in its list of tables.
                model = set_aside(home, f"DuckDB {duckdb.__version__} cannot open it: {_first_line(error)}")
            else:
                if self.of_anyone or is_ours(connection):
                    return connection, home
                connection.close()
                model = set_aside(home, "it contains tables and was not created by this pipeline")
            _remove_database(new)
        return self._connect_for_writing(new), model

    def _connect_for_writing(self, new: Path) -> "duckdb.DuckDBPyConnection":
        connection = interruptible(lambda: self._connect(str(new), "writing"))
        try:
            sign(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _damaged(self, home: Path, error: BaseException) -> DamagedDatabaseError:
        where = f"It is now {set_aside(home, _first_line(error)).name}. " if home.exists() else ""
        return DamagedDatabaseError(
            f"The database {home} cannot be used: {_first_line(error)}. {where}Materialize "
            "create_duckdb_enhanced_views and the other tables again: they are made from the Parquet."
        )

    def _sweep(self, home: Path) -> None:
        """Remove files of killed processes; the caller holds the lock, so nobody is building a new file."""
        for orphan in home.parent.glob(f"{literal(home.name)}.new-*"):
            _remove_database(orphan)
        for folder in self.path.parent.glob(f"{literal(self.path.name)}.spill-*"):
            if not Path(f"/proc/{folder.name.split('-')[-2]}").exists():
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def reading(self, *, heal: bool = True) -> "Iterator[duckdb.DuckDBPyConnection]":
        """A read-only connection to the currently published file.

        With `heal`, a file that a query finds to be damaged is moved aside for the next refresh.

        Raises:
            AnalyticsDatabaseError: there is no database yet.
            DamagedDatabaseError: it cannot be opened.
        """
        import duckdb

        with _without_secrets():
            home = Path(os.path.realpath(self.path))
            opened = home.stat().st_ino if home.exists() else None
            connection = interruptible(self.open)
            try:
                yield connection
            except duckdb.Error as error:
                if not (heal and _is_damage(error, home)):
                    raise
                with suppress(OSError, DatabaseLockedError), locked(self.path, wait_s=0):
                    if home.stat().st_ino == opened:
                        raise self._damaged(home, error) from error
                raise
            finally:
                connection.close()

    @contextmanager
    def reading_if_any(self) -> "Iterator[duckdb.DuckDBPyConnection | None]":
        """As `reading`; None if only a refresh can provide a readable database."""
        import duckdb

        home = Path(os.path.realpath(self.path))
        if not home.is_file() or logs_beside(home):
            yield None
            return
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self.reading())
            # Damaged; or someone has it open for writing, which locks readers out of this file, but not of the next.
            except (DamagedDatabaseError, duckdb.IOException):
                connection = None
            yield connection

    def open(self) -> "duckdb.DuckDBPyConnection":
        """A read-only connection to the newest file, for the caller to close.

        In memory, with the file attached: for a second `connect()` to the same path, DuckDB returns the database that
        this process already has open, which may be an older one.

        Raises:
            AnalyticsDatabaseError: there is no database yet.
            DamagedDatabaseError: it cannot be opened.
        """
        import duckdb

        home = Path(os.path.realpath(self.path))
        if not home.exists():
            raise AnalyticsDatabaseError(
                f"There is no database at {self.path} yet. Materialize create_duckdb_enhanced_views first."
            )
        problem = problem_of(home) if home.is_file() else "it is not a regular file"
        if not problem:
            connection = self.scratch()
            name = self.path.stem.replace('"', '""')
            try:
                connection.execute(f"ATTACH '{_quoted(str(home))}' AS \"{name}\" (TYPE duckdb, READ_ONLY)")
                connection.execute(f'USE "{name}"')
            except duckdb.Error as error:
                connection.close()
                if "Could not set lock" in str(error):
                    raise
                problem = _first_line(error)
            else:
                return connection
        raise DamagedDatabaseError(
            f"{self.path} cannot be read: {problem}. Materialize create_duckdb_enhanced_views: it moves the file aside "
            "and makes a new one."
        )

    def scratch(self) -> "duckdb.DuckDBPyConnection":
        """An empty in-memory database that can read the bucket, for the caller to close."""
        return self._connect(":memory:", "reading")

    def _connect(self, place: str, purpose: str) -> "duckdb.DuckDBPyConnection":
        import duckdb

        folder = self.path.parent if os.access(self.path.parent, os.W_OK) else Path(tempfile.gettempdir())
        number = next(_spill_numbers)
        connection = duckdb.connect(
            place,
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_persistent_secrets": "false",
                "memory_limit": MEMORY_LIMIT,
                # A Parquet file that is replaced while it is read can cause an internal error, after which DuckDB by
                # default answers no further query.
                "disable_database_invalidation": "true" if purpose == "reading" else "false",
                "temp_directory": str(folder / f"{self.path.name}.spill-{os.getpid()}-{number}{purpose}"),
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


def sign(connection: "duckdb.DuckDBPyConnection") -> None:
    """Mark an empty database as one of this pipeline; others are not changed."""
    if not _holds_tables(connection):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        connection.execute(f"CREATE MACRO IF NOT EXISTS {SCHEMA}.{_SIGNATURE}() AS 'wrm_pipeline'")


def is_ours(connection: "duckdb.DuckDBPyConnection") -> bool:
    """Whether a database was created by this pipeline, or is empty.

    Databases from before the signature are recognized by the pipeline's bookkeeping tables.
    """
    signed = connection.execute(
        "SELECT 1 FROM duckdb_functions() WHERE schema_name = ? AND function_name = ?", [SCHEMA, _SIGNATURE]
    ).fetchone()
    return signed is not None or not _holds_tables(connection) or stored_views(connection) != {}


def _holds_tables(connection: "duckdb.DuckDBPyConnection") -> bool:
    return connection.execute("SELECT 1 FROM information_schema.tables LIMIT 1").fetchone() is not None


def _is_damage(error: Exception, path: Path) -> bool:
    found = _DAMAGE.search(str(error))
    return found is not None and found[1] in (None, str(path))


def _cannot_be_opened(path: Path) -> bool:
    """Whether DuckDB refuses a file because of its content, rather than for lack of memory, files or permissions."""
    import duckdb

    try:
        duckdb.connect(str(path), read_only=True).close()
    except duckdb.OutOfMemoryException:
        return False
    except duckdb.Error as error:
        return not any(os.strerror(number) in str(error) for number in _OF_THE_MACHINE)
    return False


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Mask DuckDB's messages: they quote the service's answers, such as an unknown access key."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        scrub(error)
        raise


def give_s3_access(connection: "duckdb.DuckDBPyConnection", s3: S3Access) -> None:
    """Load httpfs from its wheel and create a secret for one bucket, in this connection's memory only.

    It uses a proxy that connects to the endpoint only, since httpfs follows redirects anywhere.
    """
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
    for name, value in way_to(endpoint).items():
        connection.execute(f"SET {name} = '{_quoted(value)}'")


def httpfs_path() -> Path:
    """The httpfs extension in its wheel.

    Raises:
        AnalyticsDatabaseError: the wheel is missing or for another DuckDB version.
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


def stored_views(connection: "duckdb.DuckDBPyConnection") -> dict[str, str]:
    """The definitions that `create_views` has stored, by name; empty for a database without ours."""
    columns = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = ? AND table_name = ?",
        [SCHEMA, _DEFINITIONS],
    ).fetchall()
    if not {("view_name",), ("definition",)} <= set(columns):
        return {}
    rows: Sequence[tuple[str, str]] = connection.execute(
        f"SELECT view_name, definition FROM {SCHEMA}.{_DEFINITIONS}"
    ).fetchall()
    return dict(rows)


def make_way(
    connection: "duckdb.DuckDBPyConnection",
    name: str,
    kind: Literal["VIEW", "BASE TABLE"],
    columns: Sequence[str] | None = None,
    schema: str = SCHEMA,
) -> None:
    """Rename an object with the name of one of ours but of another kind, or without these columns (None: any).

    Raises:
        DamagedDatabaseError: it cannot be renamed, as other objects depend on it.
    """
    rows = connection.execute(
        "SELECT table_type, column_name FROM information_schema.tables JOIN information_schema.columns "
        "USING (table_catalog, table_schema, table_name) WHERE table_schema = ? AND lower(table_name) = lower(?)",
        [schema, name],
    ).fetchall()
    if not rows or (rows[0][0] == kind and columns is None):
        return
    if rows[0][0] == kind and {column for _, column in rows} == set(columns or ()):
        return
    reason = f"it was not the pipeline's {kind.lower()} of that name"
    set_table_aside(connection, schema, name, reason, is_view=rows[0][0] == "VIEW")


def set_table_aside(
    connection: "duckdb.DuckDBPyConnection", schema: str, name: str, reason: str, *, is_view: bool = False
) -> None:
    """Rename a table or view to `…_before_<time>`.

    Raises:
        DamagedDatabaseError: other objects depend on it.
    """
    import duckdb

    other = "VIEW" if is_view else "TABLE"
    aside = f"{name}_before_{datetime.now(UTC):%Y%m%d_%H%M%S_%f}"
    try:
        connection.execute(f'ALTER {other} "{schema}"."{name}" RENAME TO "{aside}"')
    except duckdb.Error as error:
        raise DamagedDatabaseError(
            f"{schema}.{name} is another {other.lower()} than this pipeline makes and cannot be renamed: "
            f"{_first_line(error)}"
        ) from error
    reported(f"{schema}.{name} is now {schema}.{aside}: {reason}")


def create_views(connection: "duckdb.DuckDBPyConnection", views: ViewSet, *, refreshed_at: datetime) -> None:
    """Create or replace the views and store their definitions, in one transaction."""
    connection.begin()
    ours = stored_views(connection)
    for name, definition in views.definitions.items():
        make_way(connection, name, "VIEW", None if name in ours else ())
        connection.execute(f"CREATE OR REPLACE VIEW {SCHEMA}.{name} AS {definition}")
    make_way(connection, _DEFINITIONS, "BASE TABLE")
    connection.execute(f"CREATE OR REPLACE TABLE {SCHEMA}.{_DEFINITIONS} ({VIEW_DEFINITIONS.columns_sql})")
    connection.executemany(
        f"INSERT INTO {SCHEMA}.{_DEFINITIONS} VALUES (?, ?, ?)",
        [[name, definition, refreshed_at] for name, definition in views.definitions.items()],
    )
    connection.commit()


def write_table(connection: "duckdb.DuckDBPyConnection", name: str, rows: pa.Table) -> None:
    """Create or replace a table of the analytics schema from Arrow data."""
    make_way(connection, name, "BASE TABLE")
    connection.register("incoming_rows", rows)
    connection.execute(f'CREATE OR REPLACE TABLE {SCHEMA}."{name}" AS FROM incoming_rows')
    connection.unregister("incoming_rows")


def query_arrow(connection: "duckdb.DuckDBPyConnection", sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
    """Run a query, and again if a Parquet object was replaced while it was read.

    httpfs notices a changed ETag and fails rather than mix two versions. For a local file DuckDB reads the footer, and
    opens the file again for the rows: what it then finds at the old offsets is garbage.
    """
    import duckdb

    for wait_s in _READ_AGAIN_AFTER_S:
        try:
            return connection.execute(sql, list(parameters)).to_arrow_table()
        except duckdb.Error as error:
            if not _was_replaced(error):
                raise
        time.sleep(wait_s)
    return connection.execute(sql, list(parameters)).to_arrow_table()


# A build replaces a day's file once a minute, or one file after another while old days are built again.
_READ_AGAIN_AFTER_S = (0.0, 0.02, 0.1, 0.5)


def _was_replaced(error: "duckdb.Error") -> bool:
    """Whether an error may come from a Parquet object that was replaced, or removed, while it was read.

    Locally it shows in many ways (a read outside the file, an unknown page type, a checksum), so this is any error that
    is neither the query's own fault nor an answer of the store.
    """
    import duckdb

    text = str(error)
    if isinstance(error, duckdb.HTTPException):
        return "ETag" in text
    if isinstance(error, duckdb.IOException):
        return not any(known in text for known in ("No files found", "Could not set lock", "Corrupt database file"))
    # ProgrammingError: parser, binder, catalog; the others are about values, memory, permissions, and cancellation.
    others = (duckdb.ProgrammingError, duckdb.DataError, duckdb.OutOfMemoryException, duckdb.PermissionException)
    return not isinstance(error, (*others, duckdb.InterruptException, duckdb.NotSupportedError, duckdb.IntegrityError))


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _remove_database(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
