"""A day in production in which every service and every line of code tells every secret: none is anywhere afterwards.

24 secrets: from Vault, files, systemd credentials, URLs and variables, of ours and of another program. Provoked:

1. S3 that answers with the keys that it was sent; 2. the same to DuckDB; 3. Vault with the token; 4. the feed, with its
credentials in a body that is not a snapshot; 5. in a redirect; 6. in an error; 7. the webhook; 8. the receiver of
lineage; 9. Redis; 10. PostgreSQL; 11. values of two lines; 12. values of a wrong form; 13. an asset that fails, with
causes; 14. a sensor that fails, and one that skips; 15. checks that fail; 16. a code location that does not load; 17. a
run that is terminated; 18. prints, logs and metadata; 19. what an asset gives to `dlq`, `metrics` and `structlog`.

Code and most services tell each secret in several of `SPELLINGS`. Then every place is looked through, and the search
proves itself: others, planted in each place, one for each spelling, are all found by it.
"""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import requests
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value

from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.canaries import SPELLINGS, Hunt, canary, revealed
from wrm_pipeline_tests.fixtures.echo_servers import postgres_echo, redis_echo, tcp_server
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer, Received
from wrm_pipeline_tests.fixtures.lake import snapshot
from wrm_pipeline_tests.fixtures.snapshots import line
from wrm_pipeline_tests.integration.conftest import free_ports, wait_until
from wrm_pipeline_tests.integration.postgres_server import PostgresServer
from wrm_pipeline_tests.integration.redis_server import redis_server
from wrm_pipeline_tests.integration.test_vault_runs import (  # noqa: F401
    PRODUCTION,
    PROJECT,
    Site,
    client_of,
    postgres,
    s3,
    site,
)

pytestmark = pytest.mark.integration

DAY_SNAPSHOTS = 100
LEFT_OVER = ("s3-key", "s3-secret", "redis", "webhook", "postgres", "smtp", "serving")
IN_VARIABLES = [f"variable-{name}" for name in LEFT_OVER] + ["foreign"]
NAMES = [
    *("secret-id", "token", "s3-key", "s3-secret", "redis", "webhook", "webhook-query", "postgres", "smtp"),  # by Vault
    *("feed-token", "feed-password", "feed-path"),  # by credentials, in one URL
    *("openlineage", "backup", "vault-token", "report-password"),  # by credentials
    *IN_VARIABLES,
]
CANARIES = {name: canary(name) for name in NAMES}
PLANTED = {spelling: canary(f"planted {spelling}") for spelling in SPELLINGS}
WORKSPACE = """
load_from:
  - python_module: {module_name: wrm_pipeline.definitions, location_name: wrm_pipeline}
  - python_module: {module_name: wrm_pipeline_tests.integration.canary_location, location_name: canary_location}
  - python_module: {module_name: wrm_pipeline_tests.integration.canary_broken, location_name: canary_broken}
"""

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
      ... on AssetCheckEvaluationEvent { evaluation { description metadataEntries { label
        ... on TextMetadataEntry { text } } } }
      ... on MaterializationEvent { metadataEntries { label description ... on TextMetadataEntry { text }
        ... on JsonMetadataEntry { jsonString } ... on MarkdownMetadataEntry { mdStr }
        ... on PathMetadataEntry { path } } }
    } }
  } } }
  workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
    ... on PythonError { message stack errorChain { error { message stack } } } } } } }
  instance { info executablePath
    daemonHealth { allDaemonStatuses { daemonType lastHeartbeatErrors { message stack } } } }
}
"""
LAUNCH = """
mutation ($location: String!, $job: String!, $tags: [ExecutionTag!]) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: $location, repositoryName: "__repository__", jobName: $job}
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
TICKS = """
{
  sensorsOrError(repositorySelector: {repositoryLocationName: "canary_location", repositoryName: "__repository__"}) {
    ... on Sensors { results { name sensorState { ticks { status skipReason error { message stack } logEvents { events {
      message } } } } } }
  }
}
"""
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
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
        """All but alerts and lineage: the runs are those that the test asks for."""
        found = self.ask(AUTOMATION)["data"]
        for kind, mutation in STOP.items():
            for item in found[f"{kind}sOrError"]["results"]:
                if item["name"] not in {"wrm_run_alerts_sensor", "wrm_lineage_sensor"}:
                    answer = self.ask(mutation, id=item[f"{kind}State"]["id"])
                    assert "Error" not in str(answer), answer

    def launch(self, job: str, day: str = "", *, location: str = "wrm_pipeline") -> str:
        """Put a run in the queue, where the daemon finds it; gives its id."""
        tags = [{"key": "dagster/partition", "value": day}] if day else []
        launched = self.ask(LAUNCH, location=location, job=job, tags=tags)["data"]["launchRun"]
        return str(launched["run"]["runId"])

    def status(self, run_id: str) -> str:
        return str(self.ask(STATUS, id=run_id)["data"]["runOrError"]["status"])

    def ends(self, *run_ids: str) -> list[str]:
        """Wait for the end of runs; gives how each ended."""
        statuses: list[str] = []

        def have_ended() -> bool:
            time.sleep(0.5)
            statuses[:] = [self.status(run_id) for run_id in run_ids]
            return set(statuses) <= {"SUCCESS", "FAILURE", "CANCELED"}

        wait_until(have_ended, timeout_s=400, what="the runs must end")
        return statuses


def echo(status: int, *names: str) -> Answer:
    """An answer with secrets, of which the service knows those that it was sent."""
    text = revealed(*(CANARIES[name] for name in names))
    headers = {"Content-Type": "application/json", "X-Echo": CANARIES[names[0]]}
    return Answer(status, json.dumps({"errors": text.splitlines()}).encode(), headers)


KEYS_REVEALED = escape(revealed(CANARIES["s3-key"], CANARIES["s3-secret"]))
S3_DENIES = Answer(
    403,
    f"<Error><Code>InvalidAccessKeyId</Code><Message>{KEYS_REVEALED}</Message>"
    f"<AWSAccessKeyId>{CANARIES['s3-key']}</AWSAccessKeyId></Error>".encode(),
    {"Content-Type": "application/xml"},
)


def feed_answers() -> Iterator[Answer]:
    """A snapshot; a page, a redirect and an error with what was sent; then snapshots."""
    yield Answer(200, snapshot(datetime.now(UTC)))
    # As wholes: of a body, which is kept for ever, nothing is taken out that may be data.
    page = revealed(*(CANARIES[name] for name in ("feed-token", "feed-password", "feed-path")), in_part=False)
    yield Answer(200, f"<html>{page}</html>".encode())
    yield Answer(302, b"", {"Location": f"http://[::1/{CANARIES['feed-path']}?token={CANARIES['feed-token']}"})
    yield echo(404, "feed-token", "feed-password", "feed-path")
    while True:
        yield Answer(200, snapshot(datetime.now(UTC)))


def give_credentials(site: Site, feed_url: str, lineage_url: str) -> None:
    """What does not come from Vault: files of systemd, and variables that should not be there."""
    folder = site.home / "credentials"
    folder.mkdir()
    host = feed_url.removeprefix("http://")
    given = {
        "wrm_stations_data_url": f"http://me:{CANARIES['feed-password']}@{host}/api/{CANARIES['feed-path']}/stations?token={CANARIES['feed-token']}",
        "openlineage_api_key": f"{CANARIES['openlineage']}\n",
        "wrm_backup_key": CANARIES["backup"],
        "vault_token": CANARIES["vault-token"],
        "wrm_report_url": f"https://me:{CANARIES['report-password']}@reports.example.org",
    }
    for name, value in given.items():
        (folder / name).write_text(value)
    del site.environment["WRM_STATIONS_DATA_URL"]
    site.environment |= {
        "CREDENTIALS_DIRECTORY": str(folder),
        "OPENLINEAGE_URL": lineage_url,
        # Left over from before Vault; not used in production.
        "S3_ACCESS_KEY_ID": CANARIES["variable-s3-key"],
        "S3_SECRET_ACCESS_KEY": CANARIES["variable-s3-secret"],
        "REDIS_URL": f"redis://:{CANARIES['variable-redis']}@127.0.0.1:9/0",
        "WRM_ALERT_WEBHOOK_URL": f"http://127.0.0.1:9/{CANARIES['variable-webhook']}",
        "POSTGRES_PASSWORD": CANARIES["variable-postgres"],
        "WRM_SMTP_URL": f"smtp://me:{CANARIES['variable-smtp']}@127.0.0.1:9",
        "POSTGRES_SERVING_PASSWORD": CANARIES["variable-serving"],
        # By Vault; nobody listens there.
        "WRM_MAIL_TO": "a@example.org",
        "SOME_PROGRAMS_API_TOKEN": CANARIES["foreign"],
    }


def wrong_commands(site: Site, login: dict[str, Any]) -> None:
    """Commands that fail, by services that quote and by values that cannot be."""
    vault = site.vault
    vault.sealed = True
    assert not site.job("wrm_stations_ingest_job")
    vault.sealed = False
    vault.play(then=echo(403, "secret-id", "vault-token"))
    assert site.run("wrm", "dlq", "list").returncode == 1
    vault.play(then=vault._answer)
    with tcp_server(redis_echo) as redis_port, tcp_server(postgres_echo) as postgres_port:
        url = vault.newest("wrm/redis")["url"]
        vault.put("wrm/redis", url=f"redis://:{CANARIES['redis']}@127.0.0.1:{redis_port}/0")
        vault.put("wrm/postgres", **{**login, "port": postgres_port})
        assert site.run("wrm", "doctor").returncode == 1
        vault.put("wrm/redis", url=url)
        vault.put("wrm/postgres", **login)
    two_lines = f"{CANARIES['vault-token']}\nX-Other: {CANARIES['openlineage']}"
    wrong = f"ftp://me:{CANARIES['feed-password']}@h:x/?token={CANARIES['feed-token']}"
    names = ("REDIS_URL", "WRM_ALERT_WEBHOOK_URL", "WRM_SMTP_URL", "OPENLINEAGE_URL", "VAULT_ADDR")
    names += ("WRM_STATIONS_DATA_URL",)
    given = ({"S3_ENDPOINT_URL": site.s3}, {"VAULT_TOKEN": two_lines}, dict.fromkeys(names, wrong))
    with ThreadPoolExecutor() as pool:
        ends = list(pool.map(lambda variables: site.run("wrm", "config", **variables).returncode, given))
    assert ends[1:] == [2, 2]


@pytest.mark.timeout(900)  # many processes, most of them one after the other
def test_no_secret_ends_up_anywhere(
    site: Site, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, day = site.vault, local_date(datetime.now(UTC)).isoformat()
    shutil.copy(PRODUCTION, site.home)
    (site.home / "workspace.yaml").write_text(WORKSPACE)
    ui_port, metrics_port = free_ports(2)
    answers = feed_answers()

    def no_hook(request: Received) -> Answer:
        return Answer(404, f"no hook at {request.path}".encode(), {"Location": request.path})

    with (
        FaultServer(then=no_hook) as webhook,
        FaultServer(then=S3_DENIES) as denying,
        FaultServer(then=echo(401, "openlineage")) as receiver,
        FaultServer(then=lambda _request: next(answers)) as feed,
        redis_server(tmp_path, "--requirepass", CANARIES["redis"]) as redis_url,
    ):
        redis_with_password = redis_url.replace("//", f"//:{CANARIES['redis']}@")
        vault.put("wrm/redis", url=redis_with_password)
        vault.put(
            "wrm/alerts",
            webhook_url=f"{webhook.url}/{CANARIES['webhook']}?key={CANARIES['webhook-query']}",
            smtp_url=f"smtp://me:{CANARIES['smtp']}@127.0.0.1:9",
        )
        login = {"user": "wrm", "password": CANARIES["postgres"], "host": "127.0.0.1"}
        login |= {"port": str(postgres.port), "db": "postgres"}
        vault.put("wrm/postgres", **login)
        give_credentials(site, feed.url, receiver.url)
        fill_day(site)
        dagster = Dagster(ui_port)
        with (
            site.service("dagster", "dev", "--workspace", "workspace.yaml", "--port", str(ui_port)),
            site.service("python", "-m", "wrm_pipeline.exporter", "--port", str(metrics_port)),
        ):
            wait_until(dagster.is_up, timeout_s=180, what="the UI must answer")
            dagster.stop_automation()
            endless = dagster.launch("canary_endless_job", location="canary_location")
            built = [
                dagster.launch("wrm_stations_processing_job", day),
                dagster.launch("canary_job", location="canary_location"),
            ]
            # One for each of the feed's answers.
            fetches = [dagster.launch("wrm_stations_ingest_job") for _ in range(4)]
            assert dagster.ends(*built) == ["SUCCESS", "FAILURE"]
            dagster.ask(TERMINATE, id=endless)
            analytics = dagster.launch("wrm_analytics_job")
            ends = dagster.ends(analytics, *fetches)
            assert ends[0] == "SUCCESS"
            assert ends.count("FAILURE") >= 2, "the redirect and the error"
            site.s3_is_at(denying.url)
            failing = [dagster.launch("wrm_stations_processing_job", day), dagster.launch("wrm_analytics_job")]
            assert dagster.ends(*failing, endless)[:2] == ["FAILURE", "FAILURE"]
            site.s3_is_at(site.s3)
            wait_until(lambda: bool(webhook.requests and receiver.requests), timeout_s=120, what="both must get one")
            wait_until(lambda: "FAILURE" in str(dagster.ask(TICKS)), timeout_s=60, what="the sensor must fail")
            ui = json.dumps([dagster.ask(RESOURCES_AND_RUNS), dagster.ask(TICKS)], ensure_ascii=False)
            metrics = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=60).text
        for sign in (
            "ExecutionStepFailureEvent",
            "wrm/alerts",
            "Encountered ImportError: `all: ",
            "LibraryError: all: ",
        ):
            assert sign in ui
        for sign in ("wrm_cache_requests_total", "canary_total{", "canaries_total{"):
            assert sign in metrics
        hunt = Hunt(CANARIES)
        assert hunt.found_in("\n".join(site.environs)) <= set(IN_VARIABLES), "what came by file or by Vault is in none"
        wrong_commands(site, login)  # some of which are given secrets in variables

        def everywhere() -> dict[str, str]:
            with redis.Redis.from_url(redis_with_password) as client:
                cached = {f"Redis {_text(key)}": _text(client.get(key) or b"") for key in client.scan_iter()}
            with contextlib.closing(postgres.connect()) as connection:
                rows = dump(connection)
            return {"GraphQL": ui, "metrics": metrics, "PostgreSQL": rows} | cached | dict(_files(site))

        plant(site, postgres, redis_with_password)
        both = Hunt(CANARIES | PLANTED)  # one look for all: the search that finds nothing is the one that finds these
        seen = {place: both.found_in(text) for place, text in (everywhere() | described(site, monkeypatch)).items()}
        found = {place: names & set(CANARIES) for place, names in seen.items() if place != "environ"}
        assert {place: names for place, names in found.items() if names} == {}
        assert any("execute_run" in line or "spawn_main" in line for line in site.command_lines), "workers were seen"
        keys = site.objects()
        for folder in ("dlq/", "quarantine/", "lineage/", "reports/", "duckdb/"):
            assert any(key.startswith(f"bike-data/gen_info/{folder}") for key in keys), folder

        by_kind: dict[str, set[str]] = {}
        for place, names in seen.items():
            by_kind.setdefault(place.split(" ")[0], set()).update(names)
        blind = {kind: set(PLANTED) - by_kind.get(kind, set()) for kind in PLACES}
        assert {kind: missed for kind, missed in blind.items() if missed} == {}


PLACES = (
    *("PostgreSQL", "Redis", "output", "command", "environ", "compute", "log", "spool", "home", "DuckDB"),
    *("dlq", "quarantine", "lineage", "reports", "rows", "metadata"),
)


def plant(site: Site, postgres: PostgresServer, redis_url: str) -> None:
    """Put the planted secrets, each in its spelling, into each of PLACES."""
    text = "\n".join(spell(PLANTED[name]) for name, spell in SPELLINGS.items())
    with contextlib.closing(postgres.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO kvs (key, value) VALUES ('planted', %s)", [text])
    with redis.Redis.from_url(redis_url) as client:
        client.set("planted", text)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)", text]
    with subprocess.Popen(sleeper, env={**site.environment, "PLANTED": text}) as process:
        seen = lambda: any(text in environ for environ in list(site.environs))  # noqa: E731
        wait_until(seen, timeout_s=30, what="the watch must see it")
        process.kill()
    speaker = [sys.executable, "-c", "import sys; print(sys.stdin.read())"]
    site.said.append(subprocess.run(speaker, input=text, capture_output=True, text=True, check=True).stdout)
    for path in (
        next(site.home.rglob("*.err")).with_name("planted.err"),
        site.data / "logs" / "planted.log",
        site.data / "spool" / "planted.body",
        site.home / "planted.txt",
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    with duckdb.connect(str(site.data / "planted.duckdb")) as connection:
        connection.execute("CREATE TABLE planted AS SELECT ? AS text", [text])
    client = client_of(site.s3)
    for folder in ("dlq", "quarantine", "lineage", "reports"):
        client.put_object(Bucket=site.bucket, Key=f"bike-data/gen_info/{folder}/planted.txt", Body=text.encode())
    table = pa.table({"text": [text]}).replace_schema_metadata({"text": text})
    pq.write_table(table, site.home / "planted.parquet")
    body = (site.home / "planted.parquet").read_bytes()
    client.put_object(Bucket=site.bucket, Key="bike-data/gen_info/processed/planted.parquet", Body=body)


def fill_day(site: Site) -> None:
    """A hundred snapshots of today, one a second since a while ago, some with rows that cannot be typed."""
    client, layout, now = client_of(site.s3), load_settings().layout, datetime.now(UTC)
    for n in range(DAY_SNAPSHOTS):
        at = now - timedelta(seconds=DAY_SNAPSHOTS + 60 - n)
        spoiled = [line(lat="north")] if n % 20 == 0 else []
        client.put_object(Bucket=site.bucket, Key=layout.raw_key(at), Body=snapshot(at, 40, *spoiled, bikes=n))


def dump(connection: Any) -> str:
    """Every row of every table as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        tables = [name for (name,) in cursor.fetchall()]
        rows = []
        for name in tables:
            cursor.execute(f'SELECT t::text FROM "{name}" t')
            rows += [f"{name} {row}" for (row,) in cursor.fetchall()]
    return "\n".join(rows)


def described(site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What processes said and were given, and how our objects describe themselves."""
    texts = {f"output of process {number}": text for number, text in enumerate(site.said)}
    texts |= {"command lines": "\n".join(site.command_lines), "environ": "\n".join(site.environs)}
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    defs = build_defs(settings)
    texts["repository snapshot"] = serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
    texts["reprs"] = repr((settings, defs, dict(defs.resources or {})))
    return texts


def _text(content: bytes) -> str:
    text = content.decode("utf-8", "replace")
    # What is escaped in a binary file is read from its rows: undoing escapes in noise takes long and finds nothing.
    return text.replace("\\", "/").replace("%", "/").replace("&", "/") if "\0" in text else text


def _files(site: Site) -> Iterator[tuple[str, str]]:
    for root in (site.home, site.data):
        for path in root.rglob("*"):
            if not path.is_file() or path.parent.name == "credentials":
                continue
            content, name = _text(path.read_bytes()), path.relative_to(root)
            if path.suffix == ".db":
                with sqlite3.connect(path) as connection:  # long values are spread over pages
                    yield f"SQLite {name}", content + "\n".join(connection.iterdump())
            elif path.suffix == ".duckdb":
                yield f"DuckDB {name}", content + _of_duckdb(path)
            elif path.suffix in {".out", ".err"} or "logs" in name.parts:
                yield f"{'compute log' if root == site.home else 'log'} {name}", content
            else:
                yield f"{'home' if root == site.home else name.parts[0]} {name}", content
    client, local = client_of(site.s3), site.home / "object.parquet"
    for key in site.objects():
        content = client.get_object(Bucket=site.bucket, Key=key)["Body"].read()
        yield f"{key.removeprefix('bike-data/gen_info/').split('/')[0]} {key}", _text(content)
        if key.endswith(".parquet"):
            local.write_bytes(content)
            yield f"rows of {key}", str(pq.read_table(local).to_pylist())
            yield f"metadata of {key}", str(pq.read_metadata(local).metadata)


def _of_duckdb(path: Path) -> str:
    with duckdb.connect(str(path), read_only=True, config={"allow_persistent_secrets": "false"}) as connection:
        assert connection.execute("SELECT count(*) FROM duckdb_secrets()").fetchone() == (0,)
        views = connection.execute("SELECT sql FROM duckdb_views()").fetchall()
        tables = connection.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall()
        rows = [connection.execute(f'FROM "{schema}"."{name}"').fetchall() for schema, name in tables]
    return str((views, rows))
