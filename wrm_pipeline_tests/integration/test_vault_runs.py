"""Runs in processes of their own with secrets in a fake Vault: what still works, and where no secret ends up."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import duckdb
import psycopg2
import pyarrow.parquet as pq
import pytest
import redis
import requests
from botocore.config import Config
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
from moto.server import ThreadedMotoServer

from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.fake_vault import ROLE_ID, FakeVault
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer, Received
from wrm_pipeline_tests.fixtures.lake import snapshot
from wrm_pipeline_tests.fixtures.snapshots import line
from wrm_pipeline_tests.integration.conftest import free_ports, wait_until
from wrm_pipeline_tests.integration.postgres_server import PostgresServer, running_postgres
from wrm_pipeline_tests.integration.redis_server import redis_server

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DAY_SNAPSHOTS = 300
PRODUCTION = PROJECT / "deploy" / "dagster" / "dagster.yaml"
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
                        if ours in (path / "environ").read_bytes():
                            self.command_lines.add((path / "cmdline").read_text())

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
      ... on MaterializationEvent { metadataEntries { label description ... on TextMetadataEntry { text }
        ... on JsonMetadataEntry { jsonString } ... on MarkdownMetadataEntry { mdStr }
        ... on PathMetadataEntry { path } } }
    } }
  } } }
  instance { info executablePath
    daemonHealth { allDaemonStatuses { daemonType lastHeartbeatErrors { message stack } } } }
}
"""
LAUNCH = """
mutation ($job: String!, $tags: [ExecutionTag!]) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "wrm_pipeline", repositoryName: "__repository__", jobName: $job}
    runConfigData: {}
    executionMetadata: {tags: $tags}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
       ... on RunConfigValidationInvalid { errors { message } } }
}
"""
AUTOMATION = """
{
  sensorsOrError(repositorySelector: {repositoryLocationName: "wrm_pipeline", repositoryName: "__repository__"}) {
    ... on Sensors { results { name sensorState { id } } }
  }
  schedulesOrError(repositorySelector: {repositoryLocationName: "wrm_pipeline", repositoryName: "__repository__"}) {
    ... on Schedules { results { name scheduleState { id } } }
  }
}
"""
STOP = {
    "sensor": "mutation ($id: String!) { stopSensor(id: $id) { __typename } }",
    "schedule": "mutation ($id: String!) { stopRunningSchedule(id: $id) { __typename } }",
}
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


@dataclass(frozen=True)
class Dagster:
    """The UI, the daemon and the code server, as a person meets them: over HTTP."""

    port: int

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/graphql"
        return requests.post(url, json={"query": query, "variables": variables}, timeout=60).json()

    def is_up(self) -> bool:
        try:
            answer = self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
        except requests.RequestException:
            return False
        return bool(answer["data"]["repositoriesOrError"].get("nodes"))

    def stop_automation(self) -> None:
        """All but the alerts: the runs are those that the test asks for."""
        found = self.ask(AUTOMATION)["data"]
        for kind, mutation in STOP.items():
            for item in found[f"{kind}sOrError"]["results"]:
                if item["name"] != "wrm_run_alerts_sensor":
                    answer = self.ask(mutation, id=item[f"{kind}State"]["id"])
                    assert "Error" not in str(answer), answer

    def run(self, job: str, day: str = "") -> str:
        """Launch a run, which waits in the queue for the daemon; gives how it ended."""
        tags = [{"key": "dagster/partition", "value": day}] if day else []
        launched = self.ask(LAUNCH, job=job, tags=tags)["data"]["launchRun"]
        run_id, status = launched["run"]["runId"], ""

        def has_ended() -> bool:
            nonlocal status
            time.sleep(1)
            status = self.ask(STATUS, id=run_id)["data"]["runOrError"]["status"]
            return status in {"SUCCESS", "FAILURE", "CANCELED"}

        wait_until(has_ended, timeout_s=400, what=f"a run of {job} must end")
        return status


@pytest.mark.timeout(900)  # many processes, most of them one after the other
def test_no_secret_ends_up_anywhere(site, feed, postgres, tmp_path, monkeypatch):
    """A day in production, with all services and with failures of each of them, that quote what they were given."""
    vault, day = site.vault, local_date(datetime.now(UTC)).isoformat()
    shutil.copy(PRODUCTION, site.home)
    (ui_port, metrics_port) = free_ports(2)

    def not_found(request: Received) -> Answer:
        return Answer(404, f"no hook at {request.path}".encode())

    with (
        FaultServer(then=not_found) as webhook,
        FaultServer(then=S3_DENIES) as denying,
        redis_server(tmp_path, "--requirepass", CANARIES["redis"]) as redis_url,
    ):
        redis_with_password = redis_url.replace("//", f"//:{CANARIES['redis']}@")
        vault.put("wrm/redis", url=redis_with_password)
        vault.put("wrm/alerts", webhook_url=f"{webhook.url}/{CANARIES['webhook']}")
        login = {"user": "wrm", "password": CANARIES["postgres"], "host": "127.0.0.1"}
        vault.put("wrm/postgres", **login, port=postgres.port, db="postgres")
        # Left over from before Vault; not used in production.
        site.environment |= {
            "S3_ACCESS_KEY_ID": CANARIES["variable-s3-key"],
            "S3_SECRET_ACCESS_KEY": CANARIES["variable-s3-secret"],
            "REDIS_URL": f"redis://:{CANARIES['variable-redis']}@127.0.0.1:9/0",
            "WRM_ALERT_WEBHOOK_URL": f"http://127.0.0.1:9/{CANARIES['variable-webhook']}",
            "POSTGRES_PASSWORD": CANARIES["variable-postgres"],
        }
        fill_day(site)
        dagster = Dagster(ui_port)
        workspace = ("--workspace", str(PROJECT / "workspace.yaml"))
        with (
            site.service("dagster", "dev", *workspace, "--port", str(ui_port)),
            site.service("python", "-m", "wrm_pipeline.exporter", "--port", str(metrics_port)),
        ):
            wait_until(dagster.is_up, timeout_s=120, what="the UI must answer")
            dagster.stop_automation()
            assert dagster.run("wrm_stations_ingest_job") == "SUCCESS"
            assert dagster.run("wrm_stations_processing_job", day) == "SUCCESS"
            assert dagster.run("wrm_analytics_job") == "SUCCESS"
            site.s3_is_at(denying.url)
            assert dagster.run("wrm_stations_processing_job", day) == "FAILURE"
            assert dagster.run("wrm_analytics_job") == "FAILURE"
            wait_until(lambda: bool(webhook.requests), timeout_s=120, what="the failures must be told")
            ui = json.dumps(dagster.ask(RESOURCES_AND_RUNS), ensure_ascii=False)
            metrics = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=60).text
        site.s3_is_at(site.s3)
        assert "ExecutionStepFailureEvent" in ui
        assert "wrm/alerts" in ui, "the resources' configuration is in it"
        assert "wrm_cache_requests_total" in metrics

        vault.sealed = True
        assert not site.job("wrm_stations_ingest_job")
        vault.sealed = False
        vault.denied.add("wrm/s3")
        assert site.run("wrm", "dlq", "list").returncode == 1
        vault.denied.clear()
        vault.rotate_secret_id("another")
        assert site.run("wrm", "dlq", "list").returncode == 1
        vault.rotate_secret_id(CANARIES["secret-id"])
        for command in (["config"], ["doctor"]):
            site.run("wrm", *command, S3_ENDPOINT_URL=site.s3)

        more = {"GraphQL": ui.encode(), "metrics": metrics.encode()}
        with redis.Redis.from_url(redis_with_password) as client:
            more["Redis"] = b"\n".join(key + b" " + (client.get(key) or b"") for key in client.scan_iter())
        with contextlib.closing(psycopg2.connect(**login, port=postgres.port, dbname="postgres")) as connection:
            more["PostgreSQL"] = dump(connection)
        found = places_of(site, more, monkeypatch)
    assert {"PostgreSQL", "Redis", "GraphQL", "output", "log", "compute"} <= set(found.pop("the search itself"))
    assert found == {}
    assert any("execute_run" in line or "spawn_main" in line for line in site.command_lines), "workers were seen"
    assert any(key.startswith("bike-data/gen_info/dlq/") for key in site.objects())
    assert any(path.suffix == ".duckdb" for path in site.data.iterdir())


def fill_day(site: Site) -> None:
    """Some hundred snapshots of today, one a second since a while ago, some with rows that cannot be typed."""
    client, layout, now = client_of(site.s3), load_settings().layout, datetime.now(UTC)
    for n in range(DAY_SNAPSHOTS):
        at = now - timedelta(seconds=DAY_SNAPSHOTS + 60 - n)
        spoiled = [line(lat="north")] if n % 20 == 0 else []
        client.put_object(Bucket=site.bucket, Key=layout.raw_key(at), Body=snapshot(at, 40, *spoiled, bikes=n))


def dump(connection: Any) -> bytes:
    """Every row of every table as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        rows = []
        for name in tables:
            cursor.execute(f'SELECT t::text FROM "{name}" t')
            rows += [f"{name} {row}" for (row,) in cursor.fetchall()]
    return "\n".join(rows).encode()


def places_of(site: Site, more: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Each canary that is somewhere, and where; `the search itself` says where the bucket's name was found."""
    texts = {f"output of process {number}": text.encode() for number, text in enumerate(site.said)}
    texts["command lines"] = "\n".join(site.command_lines).encode()
    texts |= dict(_files(site)) | more
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
