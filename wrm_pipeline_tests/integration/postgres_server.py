"""Debian's PostgreSQL, started for tests on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from wrm_pipeline_tests.integration.conftest import free_ports, wait_until

BIN = Path("/usr/lib/postgresql/15/bin")
USER = "wrm"


@dataclass(frozen=True)
class PostgresServer:
    """A server that lets nobody in without the password; its superuser is USER.

    Attributes:
        port: On 127.0.0.1, where the password is asked for.
        password: What lets in there.
        socket_folder: Where everybody gets in, as `peer` would let USER in.
    """

    port: int
    password: str
    socket_folder: Path

    def connect(self, database: str = "postgres") -> Any:
        return psycopg2.connect(host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=database)

    def create_database(self, name: str) -> str:
        with contextlib.closing(self.connect()) as connection:
            connection.autocommit = True
            connection.cursor().execute(f'CREATE DATABASE "{name}"')
        return name

    def environment(self, database: str) -> dict[str, str]:
        """What the pipeline needs to find it."""
        return {
            "POSTGRES_HOST": "127.0.0.1",
            "POSTGRES_PORT": str(self.port),
            "POSTGRES_DB": database,
            "POSTGRES_USER": USER,
            "POSTGRES_PASSWORD": self.password,
        }


@contextlib.contextmanager
def running_postgres(password: str) -> Iterator[PostgresServer]:
    """Up in 2 s; killed and removed at the end. Skips the test where it is not installed."""
    if not (BIN / "initdb").exists():
        pytest.skip("PostgreSQL 15 is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="wrm-postgres-"))
    given = folder / "password"
    given.write_text(password)
    options: dict[str, Any] = {"cwd": folder}
    if os.getuid() == 0:
        for path in (folder, given):
            shutil.chown(path, "postgres", "postgres")
        options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    data = ["-D", str(folder / "data")]
    login = ["-U", USER, "--auth-host=scram-sha-256", "--auth-local=trust", "--pwfile", str(given)]
    subprocess.run([str(BIN / "initdb"), *data, *login, "--no-sync"], check=True, capture_output=True, **options)
    (port,) = free_ports(1)
    where = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([str(BIN / "postgres"), *data, *where], stdout=log, stderr=log, **options)
    try:
        ready = [str(BIN / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(
            lambda: subprocess.run(ready, check=False).returncode == 0, timeout_s=60, what="PostgreSQL must be ready"
        )
        yield PostgresServer(port, password, folder)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
