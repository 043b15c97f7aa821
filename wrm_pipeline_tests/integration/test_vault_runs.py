"""Runs in processes of their own with secrets in a fake Vault: what still works, and where no secret ends up."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import boto3
import duckdb
import psycopg2
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
from moto.server import ThreadedMotoServer

from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.fake_vault import ROLE_ID, FakeVault
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.lake import snapshot
from wrm_pipeline_tests.integration.conftest import free_ports
from wrm_pipeline_tests.integration.postgres_server import running_postgres

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CANARIES = {
    name: f"cAnArY-{name}-5e1f"
    for name in (
        "secret-id",
        "token",
        "s3-key",
        "s3-secret",
        "redis",
        "webhook",
        "postgres",
        "variable-s3-key",
        "variable-s3-secret",
        "variable-redis",
        "variable-webhook",
        "variable-postgres",
    )
}

# What a service says of a key that it does not know, with the key in it.
S3_DENIES = Answer(
    403,
    f"<Error><Code>InvalidAccessKeyId</Code><Message>The key does not exist.</Message>"
    f"<AWSAccessKeyId>{CANARIES['s3-key']}</AWSAccessKeyId></Error>".encode(),
    {"Content-Type": "application/xml"},
)


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
        command_lines: Of all processes that were seen while they ran.
    """

    vault: FakeVault
    s3: str
    bucket: str
    environment: dict[str, str]
    home: Path
    data: Path
    said: list[str] = field(default_factory=list)
    command_lines: set[str] = field(default_factory=set)

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
        watching = threading.Event()

        def watch() -> None:
            while not watching.wait(0.3):
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        if os.getpgid(int(path.parent.name)) == os.getpgrp():
                            self.command_lines.add(path.read_text())
                    except OSError:
                        continue

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            out, err = process.communicate(timeout=120)
        finally:
            watching.set()
            thread.join()
        self.said += [out, err]
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def job(self, name: str) -> bool:
        return self.run("dagster", "job", "execute", "-m", "wrm_pipeline.definitions", "-j", name).returncode == 0

    def build(self, day: str) -> bool:
        assets = "wrm_stations_processed_data_all,wrm_stations_enhanced_data_all"
        module = ("-m", "wrm_pipeline.definitions")
        return (
            self.run("dagster", "asset", "materialize", *module, "--select", assets, "--partition", day).returncode == 0
        )

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
from wrm_pipeline.resources.lake import FeedResource, LakeResource
from wrm_pipeline.flows.ingest import take_snapshot
from wrm_pipeline.settings import load_settings
lake, feed = LakeResource.of(load_settings()), FeedResource(url=load_settings().feed_url)
started = time.monotonic()
client = feed.client
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

STORAGE_FROM_VAULT = """
telemetry: {enabled: false}
storage:
  custom: {module: wrm_pipeline.resources.dagster_storage, class: PostgresStorage, config: {}}
"""


@pytest.fixture
def postgres() -> Iterator[int]:
    """Debian's PostgreSQL, which lets nobody in without the password; gives its port."""
    with running_postgres(CANARIES["postgres"]) as server:
        yield server.port


def test_dagster_keeps_its_runs_in_a_database_whose_password_only_vault_has(site, feed, postgres):
    (site.home / "dagster.yaml").write_text(STORAGE_FROM_VAULT)
    login = {"user": "wrm", "password": CANARIES["postgres"], "host": "127.0.0.1"}
    site.vault.put("wrm/postgres", **login, port=postgres, db="postgres")
    assert site.job("wrm_stations_ingest_job"), site.said
    with contextlib.closing(psycopg2.connect(**login, port=postgres, dbname="postgres")) as connection:
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


# --- Canaries -------------------------------------------------------------------------------------------------------

RESOURCES_AND_RUNS = """
{
  repositoriesOrError { ... on RepositoryConnection { nodes { allTopLevelResourceDetails {
    name description resourceType isTopLevel
    configFields { name description defaultValueAsJson }
    configuredValues { key value type }
    nestedResources { name type resource { name configuredValues { key value } } }
  } } } }
  runsOrError { ... on Runs { results {
    runId status runConfigYaml tags { key value }
    eventConnection(limit: 1000) { events { __typename
      ... on MessageEvent { message }
      ... on ExecutionStepFailureEvent { error { message stack errorChain { error { message stack } } } }
    } }
  } } }
}
"""


@pytest.mark.timeout(900)  # a dozen processes, one after the other
def test_no_secret_ends_up_anywhere(site, feed, monkeypatch):
    vault, day = site.vault, local_date(datetime.now(UTC)).isoformat()
    (redis_port,) = free_ports(1)
    vault.put("wrm/redis", url=f"redis://:{CANARIES['redis']}@127.0.0.1:{redis_port}/0")
    vault.put("wrm/alerts", webhook_url=f"http://127.0.0.1:9/{CANARIES['webhook']}")
    vault.put("wrm/postgres", host="127.0.0.1", password=CANARIES["postgres"])
    # Left over from before Vault; not used in production.
    site.environment |= {
        "S3_ACCESS_KEY_ID": CANARIES["variable-s3-key"],
        "S3_SECRET_ACCESS_KEY": CANARIES["variable-s3-secret"],
        "REDIS_URL": f"redis://:{CANARIES['variable-redis']}@127.0.0.1:{redis_port}/0",
        "WRM_ALERT_WEBHOOK_URL": f"http://127.0.0.1:9/{CANARIES['variable-webhook']}",
        "POSTGRES_PASSWORD": CANARIES["variable-postgres"],
    }

    assert site.job("wrm_stations_ingest_job")
    vault.sealed = True
    assert not site.build(day)
    vault.sealed = False
    with FaultServer(then=S3_DENIES) as denying:
        site.s3_is_at(denying.url)
        assert not site.build(day)
        site.s3_is_at(site.s3)
        assert site.build(day)
        assert site.job("wrm_analytics_job")
        site.s3_is_at(denying.url)
        assert not site.job("wrm_analytics_job")
    vault.denied.add("wrm/s3")
    assert site.run("wrm", "dlq", "list").returncode == 1
    vault.denied.clear()
    vault.rotate_secret_id("another")
    assert site.run("wrm", "dlq", "list").returncode == 1
    vault.rotate_secret_id(CANARIES["secret-id"])

    site.run("dagster", "sensor", "preview", "-m", "wrm_pipeline.definitions", "wrm_run_alerts_sensor")
    answer = site.run("dagster-graphql", "-m", "wrm_pipeline.definitions", "-t", RESOURCES_AND_RUNS)
    assert "STEP_FAILURE" in answer.stdout or "ExecutionStepFailureEvent" in answer.stdout
    assert "wrm/alerts" in answer.stdout, "the resources' configuration is in it"
    for command in (["config"], ["doctor"]):
        site.run("wrm", *command, S3_ENDPOINT_URL=site.s3)

    found = places_of(site, monkeypatch)
    assert found.pop("the search itself")
    assert found == {}


def places_of(site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Each canary that is somewhere, and where; `the search itself` says where the bucket's name was found."""
    texts = {f"output of process {number}": text.encode() for number, text in enumerate(site.said)}
    texts["command lines"] = "\n".join(site.command_lines).encode()
    texts |= dict(_files(site))
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    defs = build_defs(settings)
    texts["repository snapshot"] = serialize_value(RepositorySnap.from_def(defs.get_repository_def())).encode()
    texts["reprs"] = repr((settings, defs, dict(defs.resources or {}), settings.model_dump_json())).encode()
    found = {}
    for name, canary in CANARIES.items():
        places = [place for place, text in texts.items() if canary.encode() in text]
        if places:
            found[name] = places
    kinds = {place.split(" ")[0] for place, text in texts.items() if site.bucket.encode() in text}
    assert {"SQLite", "output", "log", "compute"} <= kinds, kinds
    assert texts["command lines"]
    found["the search itself"] = sorted(kinds)
    return found


def _files(site: Site) -> Iterator[tuple[str, bytes]]:
    for root in (site.home, site.data):
        for path in root.rglob("*"):
            if not path.is_file():
                continue
            content, name = path.read_bytes(), path.relative_to(root)
            if path.suffix == ".db":
                with sqlite3.connect(path) as connection:  # long values are spread over pages
                    dump = "\n".join(connection.iterdump()).encode()
                yield f"SQLite {name}", content + dump
            elif path.suffix == ".duckdb":
                yield f"DuckDB {name}", content + _of_duckdb(path)
            elif path.suffix in {".out", ".err"} or "logs" in name.parts:
                yield f"{'compute log' if root == site.home else 'log'} {name}", content
            else:
                yield f"file {name}", content
    client = client_of(site.s3)
    for key in site.objects():
        content = client.get_object(Bucket=site.bucket, Key=key)["Body"].read()
        yield f"object {key}", content
        if key.endswith(".parquet"):
            local = site.home / "object.parquet"
            local.write_bytes(content)
            yield f"rows of {key}", json.dumps(pq.read_table(local).to_pylist(), default=str).encode()
            yield f"metadata of {key}", str(pq.read_metadata(local).metadata).encode()


def _of_duckdb(path: Path) -> bytes:
    with duckdb.connect(str(path), read_only=True, config={"allow_persistent_secrets": "false"}) as connection:
        assert connection.execute("SELECT count(*) FROM duckdb_secrets()").fetchone() == (0,)
        views = connection.execute("SELECT sql FROM duckdb_views()").fetchall()
        tables = connection.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall()
        rows = [connection.execute(f'FROM "{schema}"."{name}"').fetchall() for schema, name in tables]
    return str((views, rows)).encode()
