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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from wrm_pipeline.analytics.database_files import (
    LOCK_WAIT_S,
    AnalyticsDatabaseError,
    DamagedDatabaseError,
    DatabaseLockedError,
    copy_database,
    home_of,
    locked,
    logs_beside,
    new_file,
    problem_of,
    set_aside,
    set_aside_logs,
    take_over_rights,
)
from wrm_pipeline.analytics.database_objects import (
    create_views,
    is_ours,
    make_way,
    query_arrow,
    set_table_aside,
    sign,
    stored_views,
    write_table,
)
from wrm_pipeline.analytics.enhanced_views import ViewSet, enhanced_views
from wrm_pipeline.analytics.httpfs import S3Access, give_s3_access, httpfs_path
from wrm_pipeline.analytics.registry.model import SCHEMA
from wrm_pipeline.analytics.sql_text import identifier, literal
from wrm_pipeline.clients.interruptible import interruptible
from wrm_pipeline.domain.masking import scrub

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
    "is_ours",
    "make_way",
    "query_arrow",
    "set_table_aside",
    "stored_views",
    "write_table",
]

# For a VPS with 4 GB; DuckDB's own default is 80 % of the machine, regardless of other processes.
MEMORY_LIMIT = "1GB"


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
        for orphan in home.parent.glob(f"{escape(home.name)}.new-*"):
            _remove_database(orphan)
        for folder in self.path.parent.glob(f"{escape(self.path.name)}.spill-*"):
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
            name = identifier(self.path.stem)
            try:
                connection.execute(f"ATTACH {literal(str(home))} AS {name} (TYPE duckdb, READ_ONLY)")
                connection.execute(f"USE {name}")
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


def _remove_database(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
