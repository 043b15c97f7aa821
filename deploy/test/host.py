"""The host under test, as the acceptance sees it: its container, Ansible, the web pages, GraphQL."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.test.world import BUCKET

REPOSITORY = Path(__file__).resolve().parents[2]
ANSIBLE = REPOSITORY / "deploy/ansible"
TOOLS = REPOSITORY / ".venv-deploy/bin"
IN_PROGRESS = ("STARTING", "STARTED", "CANCELING")


class Host:
    """One container and the world that it talks to; everything of it is below `folder`."""

    def __init__(self, folder: Path, world: dict[str, Any], name: str = "vps", *, vault: bool = True) -> None:
        """With `vault` credentials come from there, without it from files on the host."""
        self.folder, self.world, self.vault = folder, world, vault
        self.root = folder / name
        self.inventory = folder / f"{name}-inventory"
        secrets = world["secrets"]
        pairs = {"admin": f"admin:{secrets['web']}", "guest": f"guest:{secrets['web_viewer']}"}
        self._logins = {name: f"Basic {base64.b64encode(pair.encode()).decode()}" for name, pair in pairs.items()}
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE  # it signs its certificate itself

    @property
    def credentials(self) -> dict[str, str]:
        """What the host is given for the pipeline, by name."""
        secret = self.world["secrets"]
        if self.vault:
            return {"vault_secret_id": secret["vault_secret_id"]}
        keys = {name: secret[name] for name in ("s3_access_key_id", "s3_secret_access_key")}
        return {**keys, "alert_webhook_url": self.world["webhook_url"]}

    # The container

    def container(self, *arguments: str) -> str:
        command = [str(REPOSITORY / "deploy/test/container"), arguments[0], str(self.root), *arguments[1:]]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def boot(self) -> None:
        """A bare Debian that takes the folder's key, and the inventory that leads to it."""
        self.container("create", str(self.world["ports"]["ssh"]), f"{self.folder / 'key'}.pub")
        self.container("start")
        self.write_inventory()

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            [str(REPOSITORY / "deploy/test/container"), "run", str(self.root), *command],
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "-P", name, unit, check=False).strip()

    def active_code_unit(self) -> str:
        slot = self.run("readlink", "/opt/wrm/active").strip().rpartition("/")[2]
        return f"dagster-code@{slot}.service"

    def postgresql_version(self) -> str:
        """That of the cluster, which is the system's own."""
        return self.run("pg_lsclusters", "--no-header").split()[0]

    # Ansible

    def write_inventory(self) -> None:
        """The hosts file with everything that is not secret, and the secrets encrypted by ansible-vault."""
        world, ports, secret = self.world, self.world["ports"], self.world["secrets"]
        ssh = f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={self.root}.known_hosts"
        host = {
            "ansible_host": "127.0.0.1",
            "ansible_port": ports["ssh"],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.folder / "key"),
            "ansible_ssh_common_args": ssh,
        }
        bucket = {"BUCKET_NAME": BUCKET, "S3_ENDPOINT_URL": world["s3_url"], "S3_REGION_NAME": "us-east-1"}
        variables = {
            "web_server_name": "wrm.test",
            "web_listen_addresses": ["127.0.0.1"],
            "web_https_port": ports["https"],
            "web_http_port": ports["http"],
            "postgresql_port": ports["postgres"],
            "redis_port": ports["redis"],
            "dagster_exporter_port": ports["exporter"],
            "dagster_settings": {"WRM_STATIONS_DATA_URL": world["feed_url"], **({} if self.vault else bucket)},
            "dagster_reports_interval": "1min",
            "vault_addr": world["vault_url"] if self.vault else "",
            "vault_role_id": world["vault_role_id"],
            "vault_ca_file": world["vault_ca"],
            "monitoring_prometheus_port": ports["prometheus"],
            "monitoring_alertmanager_port": ports["alertmanager"],
            "monitoring_node_exporter_port": ports["node"],
            "monitoring_webhook_url": world["webhook_url"],
        }
        secrets = {
            "postgresql_password": secret["postgres"],
            "redis_password": secret["redis"],
            "web_users": {"admin": secret["web"]},
            "backup_key": secret["backup_key"],
            "web_viewers": {"guest": secret["web_viewer"]},
            "dagster_credentials": self.credentials,
        }
        variables_folder = self.inventory / "group_vars/wrm"
        variables_folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        hosts = {"wrm": {"hosts": {"vps": host}, "vars": variables}}
        (self.inventory / "hosts.yml").write_text(json.dumps(hosts, indent=1))
        (self.folder / "vault-password").write_text(secret["ansible_vault"])
        (self.folder / "vault-password").chmod(0o600)
        plain = variables_folder / "secrets.yml"
        plain.write_text(json.dumps(secrets))
        subprocess.run(
            [TOOLS / "ansible-vault", "encrypt", "--vault-password-file", self.folder / "vault-password", plain],
            check=True,
            capture_output=True,
        )

    def play(self, playbook: str, *arguments: str) -> Play:
        """Run a playbook over ssh; its output goes to a file, too."""
        command = [
            str(TOOLS / "ansible-playbook"),
            *("-i", str(self.inventory / "hosts.yml")),
            *("--vault-password-file", str(self.folder / "vault-password")),
            playbook,
            *arguments,
        ]
        path = f"{TOOLS}:{os.environ['PATH']}"
        environment = {
            **os.environ,
            "PATH": path,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        }
        begin = time.monotonic()
        done = subprocess.run(
            command,
            cwd=ANSIBLE,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        with (self.folder / "ansible.log").open("a") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}\n")
        return Play(done.returncode, done.stdout, time.monotonic() - begin)

    # The web

    def get(
        self,
        path: str,
        *,
        login: str = "admin",
        scheme: str = "https",
        body: object = None,
        origin: str = "",
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask nginx, as somebody or (login "") as nobody; with `body` by POST, as a page of `origin` or the site's."""
        port = self.world["ports"][scheme]
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{port}{path}", data)
        request.add_header("Host", f"wrm.test:{port}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
            request.add_header("Origin", origin or f"https://wrm.test:{port}")
            request.add_header("Sec-Fetch-Site", "cross-site" if origin else "same-origin")
        if login:
            request.add_header("Authorization", self._logins[login])
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls), _NoRedirect()
        )
        try:
            with opener.open(request, timeout=30 if data else 10) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def graphql(self, query: str, **variables: Any) -> Any:
        status, _, text = self.get("/graphql", body={"query": query, "variables": variables})
        if status not in {200, 400, 500}:
            raise RuntimeError(f"GraphQL answers {status}")
        data = json.loads(text)
        if data.get("errors"):
            raise RuntimeError(str(data["errors"])[:1000])
        return data["data"]

    def runs(self, since: float) -> list[dict[str, Any]]:
        query = """query ($since: Float!) { runsOrError(limit: 1000, filter: {createdAfter: $since}) { ... on Runs {
            results { runId jobName status creationTime startTime endTime tags { key value } } } } }"""
        return list(self.graphql(query, since=since)["runsOrError"]["results"])

    def launch_times(self, since: float) -> dict[str, float]:
        """When the process of each run was started."""
        query = """query ($since: Float!) { runsOrError(limit: 1000, filter: {createdAfter: $since}) { ... on Runs {
            results { runId stats { ... on RunStatsSnapshot { launchTime } } } } } }"""
        runs = self.graphql(query, since=since)["runsOrError"]["results"]
        return {run["runId"]: run["stats"]["launchTime"] for run in runs if run["stats"].get("launchTime")}

    def why_failed(self, run_id: str) -> str:
        """The last words of a run."""
        query = """query ($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
            ... on RunFailureEvent { message error { message } } } } } }"""
        events = [event for event in self.graphql(query, run=run_id)["logsForRun"]["events"] if event]
        return str(events[-1])[:300] if events else "it left no reason"

    def process(self, day: str) -> None:
        """Ask for a processing run of this day."""
        query = """mutation ($day: String!) { launchRun(executionParams: {
            selector: {repositoryLocationName: "wrm_pipeline", repositoryName: "__repository__",
                       jobName: "wrm_stations_processing_job"},
            runConfigData: {}, executionMetadata: {tags: [{key: "dagster/partition", value: $day}]}})
            { __typename ... on PythonError { message } } }"""
        answer = self.graphql(query, day=day)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise RuntimeError(str(answer))


class Play:
    """How a playbook ended."""

    def __init__(self, status: int, output: str, seconds: float) -> None:
        self.status, self.output, self.seconds = status, output, seconds

    @property
    def changed(self) -> int:
        """Tasks that changed something on the host, -1 if it did not come to the end."""
        for line in self.output.splitlines():
            if line.startswith("vps ") and "changed=" in line:
                return int(line.partition("changed=")[2].split()[0])
        return -1


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Outage(threading.Thread):
    """Asks for something again and again, and notes the longest time for which it was not to be had."""

    def __init__(self, works: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self.longest_s = 0.0
        self._works = works
        self._ended = threading.Event()

    def run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(0.5):
            with suppress(OSError, ValueError):
                if self._works():
                    last = time.monotonic()
            self.longest_s = max(self.longest_s, time.monotonic() - last)

    def __enter__(self) -> Outage:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def wait_until(condition: Callable[[], Any], seconds: float, every: float = 0.5) -> float | None:
    """How long it took until the condition held, or None if it did not in that time; an error counts as not yet."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        with suppress(OSError, ValueError, RuntimeError, KeyError):
            if condition():
                return time.monotonic() - begin
        time.sleep(every)
    return None
