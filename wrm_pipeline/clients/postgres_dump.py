"""PostgreSQL's own pg_dump and pg_restore, run as programs.

The password is passed in a file that only this user can read, and that is removed when the program ends (PGPASSFILE):
not on a command line, and not in an environment, which a crash report or another process of this user would show.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wrm_pipeline.clients.causes import cause_of
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.domain.masking import remember_secret

# A history of 14 days is dumped in seconds; anything longer is waiting for a lock or for a server that hangs.
TIMEOUT_S = 1800.0
_CONNECT_S = 5


class PostgresToolError(ExternalError):
    """pg_dump or pg_restore failed, or is missing."""


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """A database to dump or to restore into. The password shows in no repr."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        remember_secret(self.password)

    def dump(self, target: Path) -> None:
        """Write the whole database in pg_dump's own compressed format: one consistent state, without blocking anyone.

        Raises:
            PostgresToolError: it failed; the file at `target` is unusable.
        """
        self._run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}", self.name)

    def restore(self, source: Path) -> None:
        """Replace the tables in a dump: all of them or, if anything fails, none.

        Raises:
            PostgresToolError: it failed, or somebody uses the database; it is as it was.
        """
        # pg_restore would wait for their locks for ever: a dump switches lock_timeout off.
        others = self._column(
            "SELECT DISTINCT coalesce(nullif(application_name, ''), 'a program without a name') FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        if others:
            raise PostgresToolError(
                f"the database is in use by {', '.join(sorted(others))}",
                "postgresql",
                "pg_restore",
                self._place,
                "Stop Dagster's services (systemctl stop wrm.target) and try again",
            )
        options = ("--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error")
        self._run("pg_restore", *options, f"--dbname={self.name}", str(source))

    def tables(self) -> list[str]:
        """The names of the existing tables.

        Raises:
            PostgresToolError: the database does not answer.
        """
        return self._column("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename")

    def _column(self, query: str) -> list[str]:
        import psycopg2

        try:
            connection = psycopg2.connect(
                host=self.host,
                port=self.port,
                dbname=self.name,
                user=self.user,
                password=self.password,
                connect_timeout=_CONNECT_S,
            )
        except psycopg2.OperationalError as error:
            raise self._failed("connect", cause_of(error, self.host, self.port, waited_s=_CONNECT_S)) from None
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return [value for (value,) in cursor.fetchall()]
        finally:
            connection.close()

    def _run(self, program: str, *arguments: str) -> None:
        command = [
            _find(program),
            f"--host={self.host}",
            f"--port={self.port}",
            f"--username={self.user}",
            "--no-password",
        ]
        with tempfile.TemporaryDirectory(prefix="wrm-postgres-") as folder:
            try:
                done = subprocess.run(  # noqa: S603 - a list of arguments, no shell
                    [*command, *arguments],
                    env=self._environment(Path(folder)),
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise self._failed(program, f"not done within {TIMEOUT_S:g} s") from None
        if done.returncode:
            raise self._failed(program, done.stderr)

    def _environment(self, folder: Path) -> dict[str, str]:
        """For a program: the password is in a file in `folder`; without one, libpq uses `~/.pgpass` as usual."""
        environment = {name: value for name, value in os.environ.items() if name != "PGPASSWORD"}
        environment["PGCONNECT_TIMEOUT"] = "10"
        if self.password:
            file = folder / "pgpass"
            escaped = self.password.replace("\\", "\\\\").replace(":", "\\:")
            file.touch(mode=0o600)
            file.write_text(f"*:*:*:*:{escaped}\n")
            environment["PGPASSFILE"] = str(file)
        return environment

    def _failed(self, program: str, said: str) -> PostgresToolError:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        remedy = "`wrm doctor` tries the connection"
        if "version mismatch" in said:
            remedy = "Install the client programs of the server's version (Debian: postgresql-client-NN)"
        elif "must be owner" in said or "permission denied" in said:
            remedy = "Restore as the user that owns the database"
        what = "; ".join(lines[:3]) or "it gave no reason"
        return PostgresToolError(what, "postgresql", program, self._place, remedy)

    @property
    def _place(self) -> str:
        return f"{self.host}:{self.port}/{self.name}"


def describe(dump: Path) -> str:
    """What a dump holds, in a few words; reading its table of contents shows that it can be read.

    Raises:
        PostgresToolError: it is not a dump.
    """
    done = subprocess.run(  # noqa: S603
        [_find("pg_restore"), "--list", str(dump)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise PostgresToolError(done.stderr.strip() or "no reason given", "postgresql", "pg_restore", str(dump))
    version = re.search(r"Dumped from database version: (\S+)", done.stdout)
    tables = re.findall(r" TABLE DATA ", done.stdout)
    return f"PostgreSQL {version[1] if version else '?'}, {len(tables)} tables"


def read_through(dump: Path) -> None:
    """Unpack all of a dump and keep nothing: its table of contents says nothing about the rows.

    Raises:
        PostgresToolError: it is damaged, or not a dump.
    """
    try:
        done = subprocess.run(  # noqa: S603
            [_find("pg_restore"), "--file=/dev/null", str(dump)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PostgresToolError(
            f"not read within {TIMEOUT_S:g} s", "postgresql", "pg_restore", str(dump), "Try again when it is quieter"
        ) from None
    if done.returncode:
        raise PostgresToolError(
            done.stderr.strip() or "no reason given",
            "postgresql",
            "pg_restore",
            str(dump),
            "Use an older backup (`wrm backup list`)",
        )


def _find(program: str) -> str:
    found = shutil.which(program) or _newest(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}")))
    if found is None:
        remedy = "Install PostgreSQL's client programs (Debian: apt-get install postgresql-client)"
        raise PostgresToolError(f"there is no {program} here", "postgresql", program, "", remedy)
    return found


def _newest(paths: Sequence[Path]) -> str | None:
    """Debian has a folder for each major version."""
    return str(max(paths, key=lambda path: (len(path.parts[-3]), path.parts[-3]))) if paths else None
