"""Debian's PostgreSQL, started for a test on a free loopback port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wrm_pipeline_tests.integration.conftest import free_ports, wait_until

POSTGRES_BIN = Path("/usr/lib/postgresql/15/bin")


@dataclass(frozen=True)
class Postgres:
    """A server with the database `postgres` of the user `wrm`.

    Attributes:
        port: On 127.0.0.1, where the password is asked for.
        socket_folder: There everybody gets in, as `peer` would let that user in.
    """

    port: int
    socket_folder: Path


@contextmanager
def postgres_server(password: str) -> Iterator[Postgres]:
    """Started now, thrown away at the end."""
    if not (POSTGRES_BIN / "initdb").exists():
        pytest.skip("PostgreSQL 15 is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="wrm-postgres-"))
    password_file = folder / "password"
    password_file.write_text(password)
    options: dict[str, Any] = {"cwd": folder}
    if os.getuid() == 0:
        for path in (folder, password_file):
            shutil.chown(path, "postgres", "postgres")
        options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    data = ["-D", str(folder / "data")]
    login = ["-U", "wrm", "--auth-host=scram-sha-256", "--auth-local=trust", "--pwfile", str(password_file)]
    subprocess.run(
        [str(POSTGRES_BIN / "initdb"), *data, *login, "--no-sync"], check=True, capture_output=True, **options
    )
    (port,) = free_ports(1)
    where = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([str(POSTGRES_BIN / "postgres"), *data, *where], stdout=log, stderr=log, **options)
    try:
        ready = [str(POSTGRES_BIN / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(
            lambda: subprocess.run(ready, check=False).returncode == 0, timeout_s=30, what="PostgreSQL must be ready"
        )
        yield Postgres(port, folder)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
