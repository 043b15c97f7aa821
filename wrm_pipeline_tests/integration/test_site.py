"""What of the web pages reaches the servers behind them: nginx for real, with the deployment's own configuration."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from wrm_pipeline_tests.integration.chromium import ARGUMENTS, NEEDS_CHROMIUM
from wrm_pipeline_tests.integration.nginx_server import LOGINS, NAME, NEEDS_NGINX, Site, running_nginx, upstreams

pytestmark = [pytest.mark.integration, NEEDS_NGINX]

LAUNCHER = Path(__file__).parents[2] / "deploy/ansible/roles/dagster/files/webserver.py"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wrm-site-") as name:  # short: a socket's path has 107 bytes at most
        yield Path(name)


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    with (
        upstreams(folder) as (seen, exporter_port, grafana_port),
        running_nginx(folder, exporter_port, grafana_port=grafana_port) as site,
    ):
        site.seen = seen
        (folder / "reports/index.html").write_text("<html>report</html>")
        (folder / "reports/.part.html").write_text("half")
        (folder / "secret").write_text("secret")
        (folder / "reports/link").symlink_to(folder / "secret")
        _put_gbfs(folder)
        yield site


def _put_gbfs(folder: Path) -> None:
    (folder / "gbfs/v3.0").mkdir(parents=True)
    (folder / "gbfs/v3.0/gbfs.json").write_text('{"version": "3.0", "name": "Łódź"}')
    (folder / "gbfs/v3.0/.gbfs.json.part").write_text("{")


Answer = tuple[int, dict[str, str], bytes]


def ask(
    site: Site, method: str, path: str, login: str | None, headers: dict[str, str], body: str | None = None
) -> Answer:
    context = ssl._create_unverified_context()
    raw = context.wrap_socket(socket.create_connection(("127.0.0.1", site.port), timeout=30), server_hostname=NAME)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    connection.sock = raw
    sent = {"Host": f"{NAME}:{site.port}", **headers}
    if login is not None:
        name, _, password = login.partition(":")
        pair = f"{name}:{password or LOGINS[name]}"
        sent["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if body is not None:
            sent["Content-Length"] = str(len(body))
        for key, value in sent.items():
            connection.putheader(key, value)
        connection.endheaders(body.encode() if body is not None else None)
        answer = connection.getresponse()
        names = {key.lower() for key in answer.headers}
        found = {name: ", ".join(answer.headers.get_all(name, [])) for name in names}
        return answer.status, found, b"" if answer.status == 101 else answer.read()
    finally:
        connection.close()


OWN = {"Origin": f"https://{NAME}:PORT", "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
EVIL = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Content-Type": "application/json"}
SOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
OWN_SOCKET = {**SOCKET, "Origin": OWN["Origin"]}
IMAGE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FRAME = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
WIPE = "/graphql?query=mutation%7BwipeAssets%7D"
RUN = "0123abcd-0000-4000-8000-0123456789ab"


def without(headers: dict[str, str], name: str, value: str | None = None) -> dict[str, str]:
    """Headers with one of them left out or changed."""
    rest = {key: kept for key, kept in headers.items() if key != name}
    return rest if value is None else {**rest, name: value}


# name: method, path, login, headers, status, and the server that it reaches
TABLE: dict[str, tuple[str, str, str | None, dict[str, str], int, str | None]] = {
    # Acting
    "a query of the own page": ("POST", "/graphql", "admin", OWN, 200, "ui"),
    "… with a charset": (
        "POST", "/graphql", "admin", without(OWN, "Content-Type", "application/json; charset=utf-8"), 200, "ui",
    ),
    "a query of the own page without a login": ("POST", "/graphql", None, OWN, 401, None),
    "… with a wrong password": ("POST", "/graphql", "admin:x", OWN, 401, None),
    "… by who may only look": ("POST", "/graphql", "guest", OWN, 401, None),
    "from another site": ("POST", "/graphql", "admin", EVIL, 403, None),
    "from another site without Sec-Fetch-Site": (
        "POST", "/graphql", "admin", without(EVIL, "Sec-Fetch-Site"), 403, None,
    ),
    "from another port of this host": (
        "POST", "/graphql", "admin", without(OWN, "Origin", f"https://{NAME}:9999"), 403, None,
    ),
    "from plain http": ("POST", "/graphql", "admin", without(OWN, "Origin", f"http://{NAME}:PORT"), 403, None),
    "from a sandboxed page": ("POST", "/graphql", "admin", without(OWN, "Origin", "null"), 403, None),
    "from a name that begins like ours": (
        "POST", "/graphql", "admin", without(OWN, "Origin", f"https://{NAME}:PORT.evil.example"), 403, None,
    ),
    "from a name that ends like ours": (
        "POST", "/graphql", "admin", without(OWN, "Origin", f"https://evil{NAME}:PORT"), 403, None,
    ),
    "without Origin": ("POST", "/graphql", "admin", without(OWN, "Origin"), 403, None),
    "without Sec-Fetch-Site": ("POST", "/graphql", "admin", without(OWN, "Sec-Fetch-Site"), 403, None),
    "from a sister domain": ("POST", "/graphql", "admin", without(OWN, "Sec-Fetch-Site", "same-site"), 403, None),
    "typed into the address bar": ("POST", "/graphql", "admin", without(OWN, "Sec-Fetch-Site", "none"), 403, None),
    "a form": (
        "POST", WIPE, "admin", without(EVIL, "Content-Type", "application/x-www-form-urlencoded"), 403, None,
    ),
    "an own form, whose query is in the address": (
        "POST", WIPE, "admin", without(OWN, "Content-Type", "text/plain"), 403, None,
    ),
    "an image of another site": ("GET", WIPE, "admin", IMAGE, 403, None),
    "a link on another site": ("GET", WIPE, "admin", LINK, 403, None),
    "an address with a mutation, typed": ("GET", WIPE, "admin", {}, 403, None),
    "… with our headers": ("GET", WIPE, "admin", OWN, 403, None),
    "the address with a mutation without a login": ("GET", WIPE, None, {}, 403, None),
    "HEAD": ("HEAD", WIPE, "admin", OWN, 403, None),
    "PUT": ("PUT", "/graphql", "admin", OWN, 403, None),
    "OPTIONS, before a request from elsewhere": ("OPTIONS", "/graphql", "admin", EVIL, 403, None),
    "graphql by another spelling": ("GET", "/%67raphql?query=mutation%7Bx%7D", "admin", {}, 403, None),
    "graphql by dots": ("GET", "/a/../graphql?query=mutation%7Bx%7D", "admin", {}, 403, None),
    "graphql by slashes": ("GET", "//graphql?query=mutation%7Bx%7D", "admin", {}, 403, None),
    # Web sockets
    "the own page's web socket": ("GET", "/graphql", "admin", OWN_SOCKET, 101, "ui"),
    "… with Sec-Fetch-Site": ("GET", "/graphql", "admin", {**OWN_SOCKET, "Sec-Fetch-Site": "same-origin"}, 101, "ui"),
    "the own page's web socket without a login": ("GET", "/graphql", None, OWN_SOCKET, 401, None),
    "a web socket of another site": (
        "GET", "/graphql", "admin", {**SOCKET, "Origin": "https://evil.example"}, 403, None,
    ),
    "… which says cross-site": (
        "GET", "/graphql", "admin", {**OWN_SOCKET, "Sec-Fetch-Site": "cross-site"}, 403, None,
    ),
    "a web socket without Origin": ("GET", "/graphql", "admin", SOCKET, 403, None),
    "an upgrade to something else": ("GET", WIPE, "admin", without(OWN_SOCKET, "Upgrade", "h2c"), 403, None),
    "a web socket elsewhere is a page": ("GET", "/runs", "admin", without(OWN_SOCKET, "Upgrade", "h2c"), 200, "ui"),
    # Other paths of Dagster's server
    "the UI": ("GET", "/", "admin", {}, 200, "ui"),
    "a page of it, by a link from elsewhere": ("GET", "/runs/x", "admin", LINK, 200, "ui"),
    "the UI without a login": ("GET", "/", None, {}, 401, None),
    "the UI for who may only look": ("GET", "/", "guest", {}, 401, None),
    "the UI in a frame of another site": ("GET", "/", "admin", FRAME, 403, None),
    "a picture of it on another site": ("GET", "/favicon.png", "admin", IMAGE, 403, None),
    "POST to a page": ("POST", "/runs", "admin", OWN, 405, None),
    "DELETE": ("DELETE", "/runs/x", "admin", OWN, 405, None),
    "a foreign materialization": ("POST", "/report_asset_materialization/a", "admin", OWN, 404, None),
    "… by another spelling": ("POST", "/x/..//report%5Fasset_materialization/a", "admin", OWN, 404, None),
    "a foreign check": ("POST", "/report_asset_check/a", "admin", OWN, 404, None),
    "a foreign observation": ("POST", "/report_asset_observation/a", "admin", OWN, 404, None),
    "a run's whole record": ("GET", f"/download_debug/{RUN}", "admin", {}, 404, None),
    "a notebook": ("GET", "/notebook?path=/etc/x.ipynb&repoLocName=wrm_pipeline", "admin", {}, 404, None),
    "a notebook by its old address": ("GET", "/dagit/notebook?path=/x.ipynb", "admin", {}, 404, None),
    "versions": ("GET", "/server_info", "admin", {}, 404, None),
    "versions by the old address": ("GET", "/dagit_info", "admin", {}, 404, None),
    "what a run printed": ("GET", f"/logs/{RUN}/compute_logs/abc_def/err", "admin", {}, 200, "ui"),
    "… in its place": ("POST", f"/logs/{RUN}/compute_logs/abc_def/err", "admin", OWN, 405, None),
    "a log that is none": ("GET", "/logs/..%2f..%2f..%2fetc/passwd", "admin", {}, 400, None),
    "a log elsewhere": ("GET", f"/logs/{RUN}/compute_logs/a%2fb/err", "admin", {}, 404, None),
    # Who only looks
    "looking": ("GET", "/look/", "guest", {}, 200, "look"),
    "looking without the slash": ("GET", "/look", "guest", {}, 301, None),
    "a look with the right to act": ("GET", "/look/runs", "admin", {}, 200, "look"),
    "a query that looks": ("POST", "/look/graphql", "guest", OWN, 200, "look"),
    "a look from another site": ("POST", "/look/graphql", "guest", EVIL, 403, None),
    "a look without a login": ("GET", "/look/", None, {}, 401, None),
    "a look's web socket": ("GET", "/look/graphql", "guest", OWN_SOCKET, 101, "look"),
    "a look's web socket from elsewhere": (
        "GET", "/look/graphql", "guest", {**SOCKET, "Origin": "https://evil.example"}, 403, None,
    ),
    "a look at a query in the address": ("GET", "/look/graphql?query=%7Bversion%7D", "guest", {}, 403, None),
    "a foreign materialization by the look": ("POST", "/look/report_asset_materialization/a", "guest", OWN, 404, None),
    "from the look to the UI by dots": ("POST", "/look/../graphql", "guest", OWN, 401, None),
    # The rest
    "metrics": ("GET", "/metrics", "guest", {}, 200, "exporter"),
    "metrics without a login": ("GET", "/metrics", None, {}, 401, None),
    "metrics written": ("POST", "/metrics", "admin", OWN, 405, None),
    "the report": ("GET", "/reports/", "guest", {}, 200, None),
    "the report without a login": ("GET", "/reports/", None, {}, 401, None),
    "the report in a frame of another site": ("GET", "/reports/", "guest", FRAME, 403, None),
    "a report that is being written": ("GET", "/reports/.part.html", "guest", {}, 404, None),
    "a link among the reports": ("GET", "/reports/link", "guest", {}, 403, None),
    "beside the reports": ("GET", "/reports/..%2fsecret", "guest", {}, 401, None),
    "beside the reports, by who acts": ("GET", "/reports../secret", "admin", {}, 200, "ui"),
    "GBFS": ("GET", "/gbfs/v3.0/gbfs.json", "guest", {}, 200, None),
    "GBFS without a login": ("GET", "/gbfs/v3.0/gbfs.json", None, {}, 401, None),
    "GBFS by a page of another site": ("GET", "/gbfs/v3.0/gbfs.json", "guest", IMAGE, 403, None),
    "GBFS written": ("PUT", "/gbfs/v3.0/gbfs.json", "admin", OWN, 405, None),
    "GBFS that is being written": ("GET", "/gbfs/v3.0/.gbfs.json.part", "guest", {}, 404, None),
    "health without a login": ("GET", "/healthz", None, {}, 204, "ui"),
    "health's inner address": ("GET", "/_alive", "admin", {}, 404, None),
    # Grafana, which asks for its own login
    "Grafana": ("GET", "/grafana/", None, {}, 200, "grafana"),
    "Grafana without the slash": ("GET", "/grafana", "guest", {}, 301, None),
    "a page of Grafana, to which the browser sends nginx's login": ("GET", "/grafana/d/x", "admin", {}, 200, "grafana"),
    "a login to Grafana": ("POST", "/grafana/login", None, OWN, 200, "grafana"),
    "… from another site": ("POST", "/grafana/login", None, EVIL, 403, None),
    "… without Origin": ("POST", "/grafana/login", None, without(OWN, "Origin"), 403, None),
    "Grafana's web socket": ("GET", "/grafana/api/live/ws", None, OWN_SOCKET, 101, "grafana"),
    "… of another site": (
        "GET", "/grafana/api/live/ws", None, {**SOCKET, "Origin": "https://evil.example"}, 403, None,
    ),
    "Grafana in a frame of another site": ("GET", "/grafana/", None, FRAME, 403, None),
    "from Grafana to the UI by dots": ("GET", "/grafana/../runs", None, {}, 401, None),
    "another name": ("GET", "/", "admin", {"Host": "evil.example"}, 421, None),
    "another name for a query": ("POST", "/graphql", "admin", {**OWN, "Host": "evil.example"}, 421, None),
    "the address for a name": ("GET", "/", "admin", {"Host": "127.0.0.1"}, 421, None),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_who_may_ask_what(site: Site, name: str) -> None:
    method, path, login, headers, status, server = TABLE[name]
    headers = {key: value.replace("PORT", str(site.port)) for key, value in headers.items()}
    site.seen.clear()
    found, answered, _ = ask(site, method, path, login, headers, "{}" if method in {"POST", "PUT"} else None)
    assert (found, [seen["server"] for seen in site.seen]) == (status, [server] if server else [])
    for seen in site.seen:
        assert "authorization" not in seen["headers"]
        assert seen["headers"].get("upgrade", "") in {"", "websocket"}
    if status in {200, 204} and name != "health without a login":
        assert answered["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answered["content-security-policy"]


def test_dagsters_own_policy_holds_beside_ours(site: Site) -> None:
    policies = ask(site, "GET", "/", "admin", {})[1]["content-security-policy"]
    assert "script-src 'nonce-of-dagster', default-src 'self'" in policies


def test_grafana_keeps_its_base_address_and_learns_that_of_the_page(site: Site) -> None:
    site.seen.clear()
    policy = ask(site, "GET", "/grafana/", None, {})[1]["content-security-policy"]
    assert "base-uri 'self'" in policy
    assert site.seen[0]["headers"]["host"] == f"{NAME}:{site.port}"
    assert site.seen[0]["headers"]["x-forwarded-proto"] == "https"


def test_gbfs_may_be_open_to_everyone_and_nothing_else_is() -> None:
    page = {"Origin": "https://map.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    folder = tempfile.TemporaryDirectory(prefix="wrm-site-")
    with folder as name, running_nginx(Path(name), gbfs_public=True) as site:
        _put_gbfs(site.folder)
        status, headers, body = ask(site, "GET", "/gbfs/v3.0/gbfs.json", None, page)
        assert (status, json.loads(body)["name"]) == (200, "Łódź")
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert headers["access-control-allow-origin"] == "*"
        again = ask(site, "GET", "/gbfs/v3.0/gbfs.json", None, {**page, "If-None-Match": headers["etag"]})
        assert again[0] == 304
        assert ask(site, "GET", "/gbfs/v3.0/", None, page)[2] == body
        assert ask(site, "GET", "/gbfs/../reports/", None, page)[0] == 403
        assert ask(site, "GET", "/grafana/", None, {})[0] == 401  # without Grafana it is a page like any other
        assert ask(site, "GET", "/gbfs/../reports/", None, {})[0] == 401


def test_plain_http_leads_to_our_name_whatever_was_asked_for(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.http_port, timeout=10)
    connection.request("GET", "/runs?a=1", headers={"Host": "evil.example"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, f"{site.origin}/runs?a=1")


def test_health_is_bad_when_the_web_server_is_away(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="wrm-site-") as name, running_nginx(Path(name)) as site:
        status, _, body = ask(site, "GET", "/healthz", None, {})
        assert status == 500
        assert b"sock" not in body
        # What once was taken for health: the login, with nothing behind it.
        assert ask(site, "GET", "/", None, {})[0] == 401
        assert ask(site, "GET", "/", "admin", {})[0] == 502


# -- With Dagster's own web server behind it


@contextmanager
def dagster_on(path: Path, home: Path, *options: str) -> Iterator[None]:
    """Dagster's web server by the deployment's launcher, on a socket that is handed over as systemd does."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(64)
        # The shell's process becomes Python's, so its number is right.
        script = f'exec env LISTEN_PID=$$ LISTEN_FDS=1 "$@" 3<&{listening.fileno()}'
        command = ["bash", "-c", script, "bash", sys.executable, str(LAUNCHER), "--empty-workspace", *options]
        environment = {"DAGSTER_HOME": str(home), "PATH": "/usr/bin:/bin", "DAGSTER_DISABLE_TELEMETRY": "1"}
        process = subprocess.Popen(command, pass_fds=[listening.fileno()], env=environment, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    with tempfile.TemporaryDirectory(prefix="wrm-site-") as name:
        run = Path(name) / "run"
        run.mkdir()
        with dagster_on(run / "ui.sock", home), running_nginx(Path(name)) as site:
            # The first one makes SQLite's tables, which two cannot do at once.
            assert 204 in (ask(site, "GET", "/healthz", None, {})[0] for _ in range(5))
            with dagster_on(run / "look.sock", home, "--read-only", "--path-prefix", "/look"):
                yield site


def graphql(site: Site, path: str, login: str, query: str) -> dict[str, Any]:
    headers = {key: value.replace("PORT", str(site.port)) for key, value in OWN.items()}
    status, _, body = ask(site, "POST", path, login, headers, json.dumps({"query": query}))
    assert status in {200, 500}, (status, body)
    return dict(json.loads(body))


def test_the_real_web_server_answers_on_its_socket(real: Site) -> None:
    assert ask(real, "GET", "/healthz", None, {})[0] == 204
    assert graphql(real, "/graphql", "admin", "{ version }")["data"]["version"]
    _, _, page = ask(real, "GET", "/look/runs", "guest", {})
    assert b'"pathPrefix": "/look"' in page


CHANGES = {
    "wipeAssets": 'wipeAssets(assetPartitionRanges: [{assetKey: {path: ["a"]}}])',
    "launchRun": 'launchRun(executionParams: {selector: {repositoryLocationName: "x", repositoryName: "y", '
    'jobName: "z"}, runConfigData: {}})',
    "deletePipelineRun": f'deletePipelineRun(runId: "{RUN}")',
    "terminateRun": f'terminateRun(runId: "{RUN}")',
    "setConcurrencyLimit": 'setConcurrencyLimit(concurrencyKey: "duckdb", limit: 0)',
    "freeConcurrencySlots": f'freeConcurrencySlots(runId: "{RUN}")',
    "reloadWorkspace": "reloadWorkspace",
    "setAutoMaterializePaused": "setAutoMaterializePaused(paused: true)",
    "addDynamicPartition": 'addDynamicPartition(repositorySelector: {repositoryLocationName: "x", '
    'repositoryName: "y"}, partitionsDefName: "p", partitionKey: "k")',
    "reportRunlessAssetEvents": "reportRunlessAssetEvents(eventParams: {eventType: ASSET_MATERIALIZATION, "
    'assetKey: {path: ["a"]}})',
}


@pytest.mark.parametrize("name", CHANGES)
def test_who_only_looks_changes_nothing(real: Site, name: str) -> None:
    call = CHANGES[name]
    composite = name not in {"setConcurrencyLimit", "freeConcurrencySlots", "setAutoMaterializePaused"}
    query = f"mutation {{ {call} {'{ __typename }' if composite else ''} }}"
    said = json.dumps(graphql(real, "/look/graphql", "guest", query))
    assert any(word in said for word in ("UnauthorizedError", "permission", "NotFound")), said


class Elsewhere(BaseHTTPRequestHandler):
    """A page of another site, which tries what a browser lets it do."""

    target = ""
    paused = ""

    def do_GET(self) -> None:
        mutation = "query=mutation%7BsetAutoMaterializePaused(paused:{self.paused})%7D"
        page = f"""<html><body><iframe src="{self.target}/"></iframe>
        <form id=f method=post enctype=text/plain target=_blank action="{self.target}/graphql?{mutation}"></form>
        <script>
        const body = JSON.stringify({{query: "mutation {{ setAutoMaterializePaused(paused: {self.paused}) }}"}});
        const tries = ["text/plain", "application/json"].map(type =>
          fetch("{self.target}/graphql", {{method: "POST", mode: type == "text/plain" ? "no-cors" : "cors",
            credentials: "include", headers: {{"Content-Type": type}}, body}}));
        const image = document.body.appendChild(new Image());
        tries.push(new Promise(done => image.onload = image.onerror = done));
        image.src = "{self.target}/graphql?{mutation}";
        const ws = new WebSocket("{self.target.replace("https", "wss")}/graphql", "graphql-ws");
        const answer = new Promise(done => {{ ws.onopen = () => done("open"); ws.onerror = () => done("refused"); }});
        document.getElementById("f").submit();
        Promise.allSettled(tries).then(() => answer).then(word => document.title = word);
        </script></body></html>""".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@NEEDS_CHROMIUM
def test_a_browser_shows_the_ui_and_no_other_site_acts_through_it(real: Site) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    state = "{ instance { autoMaterializePaused } }"
    before = graphql(real, "/graphql", "admin", state)
    other = "false" if before["data"]["instance"]["autoMaterializePaused"] else "true"
    handler = type("Handler", (Elsewhere,), {"target": real.origin, "paused": other})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trouble: list[str] = []
    answers: list[tuple[str, int]] = []
    sockets: list[str] = []
    with playwright.sync_playwright() as driver:
        rules = f"--host-resolver-rules=MAP {NAME} 127.0.0.1, MAP evil.example 127.0.0.1"
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=[*ARGUMENTS, rules])
        login = {"username": "admin", "password": LOGINS["admin"], "origin": real.origin}
        context = browser.new_context(ignore_https_errors=True, http_credentials=login)
        page = context.new_page()
        page.on("console", lambda said: trouble.append(said.text) if "Content Security" in said.text else None)
        page.on("response", lambda answer: answers.append((answer.url, answer.status)))
        page.on("websocket", lambda opened: sockets.append(opened.url))
        with page.expect_response(lambda answer: "/graphql" in answer.url, timeout=60_000):
            page.goto(f"{real.origin}/runs")
        page.wait_for_selector("text=No runs", timeout=60_000)  # the table's answer is there and drawn
        queries = [status for url, status in answers if url.partition("?")[0].endswith("/graphql")]
        assert queries
        assert set(queries) == {200}
        assert trouble == []
        assert page.evaluate(
            """() => new Promise(done => { const ws = new WebSocket(location.origin.replace("http", "ws") + "/graphql",
            "graphql-ws"); ws.onopen = () => done("open"); ws.onerror = () => done("refused"); })"""
        ) == "open"  # fmt: skip
        page.goto("about:blank")  # what the UI still asks for ends here
        answers.clear()
        with page.expect_response(lambda answer: answer.url.startswith(f"{real.origin}/graphql"), timeout=60_000):
            page.goto(f"http://evil.example:{server.server_address[1]}/", wait_until="commit")
        page.wait_for_function("document.title != ''", timeout=60_000)
        assert page.title() == "refused"
        assert {status for url, status in answers if url.startswith(f"{real.origin}/graphql")} == {403}
        browser.close()
    server.shutdown()
    assert graphql(real, "/graphql", "admin", state) == before
    assert graphql(real, "/graphql", "admin", f"mutation {{ setAutoMaterializePaused(paused: {other}) }}")["data"]
    assert graphql(real, "/graphql", "admin", state) != before  # it would have been seen
