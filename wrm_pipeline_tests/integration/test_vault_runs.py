"""Runs in processes of their own with secrets in a fake Vault: what still works, and where no secret ends up."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import boto3
import psycopg2
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from wrm_pipeline_tests.fixtures.canaries import canary
from wrm_pipeline_tests.fixtures.fake_vault import ROLE_ID, FakeVault
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.lake import snapshot
from wrm_pipeline_tests.integration.postgres_server import PostgresServer, running_postgres

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DAY_SNAPSHOTS = 300
PRODUCTION = PROJECT / "deploy" / "dagster" / "dagster.yaml"
CANARIES = {name: canary(name) for name in ("secret-id", "token", "s3-key", "s3-secret", "postgres")}


@pytest.fixture
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def client_of(endpoint: str):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=CANARIES["s3-key"],
        aws_secret_access_key=CANARIES["s3-secret"],
        config=Config(request_checksum_calculation="when_required"),
    )


@dataclass
class Site:
    """A machine in production: its environment, its folders, its Vault, its feed.

    Attributes:
        said: What all processes so far wrote to stdout and stderr.
        command_lines, environs: Of all processes that were seen while they ran.
    """

    vault: FakeVault
    s3: str
    bucket: str
    environment: dict[str, str]
    home: Path
    data: Path
    said: list[str] = field(default_factory=list)
    command_lines: set[str] = field(default_factory=set)
    environs: set[str] = field(default_factory=set)

    def s3_is_at(self, endpoint: str) -> None:
        keys = {"access_key_id": CANARIES["s3-key"], "secret_access_key": CANARIES["s3-secret"]}
        self.vault.put("wrm/s3", endpoint_url=endpoint, bucket_name=self.bucket, region_name="us-east-1", **keys)

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.home,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, err = process.communicate(timeout=240)
        self.said += [out, err]
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Collect the command lines of all processes that have this site's environment."""
        done, ours = threading.Event(), f"DAGSTER_HOME={self.home}\0".encode()

        def watch() -> None:
            while not done.wait(0.5):
                for path in Path("/proc").glob("[0-9]*"):
                    with contextlib.suppress(OSError):
                        environ = (path / "environ").read_bytes()
                        if ours in environ:
                            self.command_lines.add((path / "cmdline").read_text())
                            self.environs.add(environ.decode(errors="replace"))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @contextlib.contextmanager
    def service(self, *command: str) -> Iterator[None]:
        """A process that is there until the block ends, with all that it starts; a failure quotes what it said."""
        with (
            tempfile.TemporaryFile("w+") as output,
            subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=self.home,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield
            except BaseException as failure:
                output.seek(0)
                said = output.read()
                failure.add_note(f"{' '.join(command)} said:\n{said[:3000]}\n[...]\n{said[-3000:]}")
                raise
            finally:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                output.seek(0)
                self.said.append(output.read())

    def job(self, name: str) -> bool:
        return self.run("dagster", "job", "execute", "-m", "wrm_pipeline.definitions", "-j", name).returncode == 0

    def objects(self) -> list[str]:
        return [item["Key"] for item in client_of(self.s3).list_objects_v2(Bucket=self.bucket).get("Contents", [])]


@pytest.fixture
def site(tmp_path: Path, s3: str) -> Iterator[Site]:
    home, data, tls = (tmp_path / name for name in ("home", "data", "tls"))
    for folder in (home, tls):
        folder.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    secret_id = tmp_path / "secret_id"
    secret_id.write_text(CANARIES["secret-id"])
    bucket = f"bucket-{uuid.uuid4()}"  # moto's servers share what they hold
    client_of(s3).create_bucket(Bucket=bucket)
    with FakeVault(CANARIES["secret-id"], tls=tls) as vault:
        vault.token_prefix = CANARIES["token"]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "DAGSTER_HOME": str(home),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "WRM_DATA_DIR": str(data),
            "WRM_ENV": "production",
            "VAULT_ADDR": vault.url,
            "VAULT_CACERT": vault.ca_file,
            "VAULT_ROLE_ID": ROLE_ID,
            "VAULT_SECRET_ID_FILE": str(secret_id),
            "WRM_STATIONS_DATA_URL": "http://127.0.0.1:9/",
        }
        site = Site(vault, s3, bucket, environment, home, data)
        site.s3_is_at(s3)
        with site.watched():
            yield site


@pytest.fixture
def feed(site: Site) -> Iterator[FaultServer]:
    """A new snapshot for each request."""
    answered = []

    def answer(_request: object) -> Answer:
        answered.append(1)
        return Answer(200, snapshot(datetime.now(UTC), bikes=len(answered)))

    with FaultServer(then=answer) as server:
        site.environment["WRM_STATIONS_DATA_URL"] = server.url
        yield server


# --- Import ---------------------------------------------------------------------------------------------------------

WITHOUT_NETWORK = """
import socket, sys
def guard(event, arguments):
    unix = event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], (str, bytes))
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname") and not unix:
        print("TOUCHED THE NETWORK:", event, arguments, file=sys.stderr, flush=True)
        raise OSError("blocked")
sys.addaudithook(guard)
import wrm_pipeline.definitions
from dagster._cli import main
sys.argv = ["dagster", "definitions", "validate", "-m", "wrm_pipeline.definitions"]
main()
"""


def test_loading_and_validating_ask_neither_vault_nor_s3_nor_redis(site):
    with FaultServer() as redis, FaultServer() as s3:
        site.s3_is_at(s3.url)
        done = site.run(
            "python",
            "-c",
            WITHOUT_NETWORK,
            BUCKET_NAME=site.bucket,
            S3_ENDPOINT_URL=s3.url,
            S3_ACCESS_KEY_ID="k",
            S3_SECRET_ACCESS_KEY="s",
            REDIS_URL=redis.url.replace("http", "redis"),
        )
        assert done.returncode == 0, done.stderr
        assert "Validation successful" in done.stderr + done.stdout
        assert "TOUCHED" not in done.stderr
        assert (site.vault.connections, s3.connections, redis.connections) == (0, 0, 0)


@pytest.mark.parametrize("state", ["sealed", "black hole"])
def test_validating_passes_whatever_state_vault_is_in(site, state):
    site.vault.sealed, site.vault.black_hole = state == "sealed", state == "black hole"
    done = site.run("dagster", "definitions", "validate", "-m", "wrm_pipeline.definitions")
    assert done.returncode == 0, done.stderr


# --- Vault away, and secrets that change ----------------------------------------------------------------------------


def test_a_snapshot_is_kept_while_vault_is_sealed_and_delivered_when_it_is_not(site, feed):
    site.vault.sealed = True
    assert site.job("wrm_stations_ingest_job")
    assert [path.suffix for path in (site.data / "spool").rglob("*") if path.is_file()] != []
    assert site.objects() == []
    site.vault.sealed = False
    time.sleep(1)  # names of snapshots have seconds
    assert site.job("wrm_stations_ingest_job")
    assert len(site.objects()) == 2
    assert len(feed.requests) == 2


def test_a_black_hole_costs_a_fetch_ten_seconds_at_most(site, feed):
    site.vault.black_hole = True
    script = """
import time
from wrm_pipeline.resources.feed import FeedResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.flows.ingest import take_snapshot
from wrm_pipeline.settings import load_settings
lake, feed = LakeResource.of(load_settings()), FeedResource.of(load_settings())
started = time.monotonic()
(client,) = feed.clients
before = time.monotonic() - started
result = take_snapshot(client, lambda: lake.store, lake.layout, lake.spool)
print(before, time.monotonic() - started, result.spooled)
"""
    done = site.run("python", "-c", script)
    assert done.returncode == 0, done.stderr
    before_the_fetch, in_all, spooled = done.stdout.splitlines()[-1].split()
    assert float(before_the_fetch) < 0.5
    assert float(in_all) < 10.5
    assert spooled == "True"


ONE_RUN = """
import sys
from wrm_pipeline.resources.lake import connect_store
from wrm_pipeline.settings import load_settings
connect_store(load_settings()).put(sys.argv[1], b"1")
"""


def test_the_secret_id_is_rotated_while_runs_go_on(site):
    """Issue a new one, replace the file, revoke the old one: no run notices."""
    file = Path(site.environment["VAULT_SECRET_ID_FILE"])

    def run(number: int) -> str:
        done = site.run("python", "-c", ONE_RUN, f"run-{number}")
        return done.stderr if done.returncode else ""

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(run, number) for number in range(8)]
        results[2].result()
        new = f"{CANARIES['secret-id']}-next"
        site.vault.secret_ids[new] = None
        replacement = file.with_name("next")
        replacement.write_text(new)
        replacement.replace(file)
        results[4].result()
        del site.vault.secret_ids[CANARIES["secret-id"]]
        problems = [problem for result in results if (problem := result.result())]
    assert problems == []
    assert sorted(site.objects()) == [f"run-{number}" for number in range(8)]
    assert sum(site.vault.logins.values()) == 8
    assert min(site.vault.logins.values()) >= 2


def test_a_run_with_a_secret_id_that_is_no_longer_valid_says_what_to_do(site):
    site.vault.rotate_secret_id("another")
    done = site.run("python", "-c", ONE_RUN, "x")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "VaultLoginError" in last
    assert site.environment["VAULT_SECRET_ID_FILE"] in last
    assert CANARIES["secret-id"] not in done.stderr


# --- Dagster's own database -----------------------------------------------------------------------------------------


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with running_postgres(CANARIES["postgres"]) as server:
        yield server


def test_dagster_keeps_its_runs_in_a_database_whose_password_only_vault_has(site, feed, postgres):
    shutil.copy(PRODUCTION, site.home)
    login = {"user": "wrm", "password": CANARIES["postgres"], "host": "127.0.0.1"}
    site.vault.put("wrm/postgres", **login, port=postgres.port, db="postgres")
    assert site.job("wrm_stations_ingest_job"), site.said
    with contextlib.closing(psycopg2.connect(**login, port=postgres.port, dbname="postgres")) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT status FROM runs")
        assert cursor.fetchall() == [("SUCCESS",)]
        cursor.execute("SELECT count(*) FROM event_logs WHERE event LIKE %s", [f"%{CANARIES['postgres']}%"])
        assert cursor.fetchone() == (0,)
    assert list(site.home.rglob("*.db")) == []
    site.vault.sealed = True
    assert not site.job("wrm_stations_ingest_job")
    assert "vault operator unseal" in site.said[-1]
    shown = "\n".join([*site.said, *site.command_lines])
    assert CANARIES["postgres"] not in shown


def test_with_dagsters_database_behind_a_socket_a_sealed_vault_costs_no_snapshot(site, feed, postgres):
    """Else no run could even start, and a snapshot that is not taken is gone."""
    shutil.copy(PRODUCTION, site.home)
    site.environment |= {
        "POSTGRES_HOST": str(postgres.socket_folder),
        "POSTGRES_PORT": str(postgres.port),
        "POSTGRES_DB": "postgres",
        "POSTGRES_USER": "wrm",
    }
    site.vault.sealed = True
    assert site.job("wrm_stations_ingest_job"), site.said
    assert [path.suffix for path in (site.data / "spool").rglob("*") if path.is_file()] != []
    assert list(site.home.rglob("*.db")) == []
