"""Rules, routing and dashboards, tried with Prometheus and Alertmanager themselves (Debian's)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.lake import Lake, run_job
from wrm_pipeline_tests.integration.conftest import free_ports, wait_until
from wrm_pipeline_tests.integration.exporter_process import Exporter, running

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules" / "alerts.yml").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
RECORDED = [
    rule["record"]
    for group in yaml.safe_load((MONITORING / "rules" / "recording.yml").read_text())["groups"]
    for rule in group["rules"]
]
RULE_TESTS = sorted((MONITORING / "tests").glob("*_test.yml"))
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


def check(*command: str, cwd: Path = MONITORING) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- rules ----------------------------------------------------------------------------------------------------------


def test_prometheus_accepts_its_configuration_and_rules() -> None:
    promtool = tool("promtool", "prometheus")
    check(promtool, "check", "config", "prometheus.yml")
    check(promtool, "check", "rules", "rules/alerts.yml", "rules/recording.yml")


def test_every_rule_does_what_its_test_says() -> None:
    check(tool("promtool", "prometheus"), "test", "rules", *(str(path) for path in RULE_TESTS))


def test_every_alert_and_recording_has_such_tests_for_yes_and_no() -> None:
    tests = [test for path in RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    fires: set[str] = set()
    silent: set[str] = set()
    recorded: set[str] = set()
    for test in tests:
        for expected in test.get("alert_rule_test", ()):
            (fires if expected["exp_alerts"] else silent).add(expected["alertname"])
        for expected in test.get("promql_expr_test", ()):
            words = set(re.findall(r"\w+", expected["expr"] + json.dumps(expected["exp_samples"])))
            pattern = re.search(r'alertname=~"([^"]+)"', expected["expr"])
            matched = {name for name in ALERTS if pattern and re.fullmatch(pattern[1], name)}
            if expected["exp_samples"]:
                fires |= words & ALERTS.keys()
                recorded |= {name for name in RECORDED if name in expected["expr"]}
            else:
                silent |= (words & ALERTS.keys()) | matched
    assert fires == ALERTS.keys()
    assert silent == ALERTS.keys()
    assert recorded == set(RECORDED)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_is_wrong_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["labels"]["service"] == "wrm_pipeline"
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook"}
    page, _, section = annotations["runbook"].partition("#")
    assert page == "docs/operations.md"
    assert re.fullmatch(r"[a-z-]+", section)
    table = (ROOT / "docs" / "monitoring.md").read_text()
    assert f"`{name}`" in table, "docs/monitoring.md lists every alert"
    if (ROOT / page).exists():
        headings = re.findall(r"^#+ (.+)$|id=\"([a-z-]+)\"", (ROOT / page).read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") or anchor for title, anchor in headings}
        assert section in anchors, f"{page} has no section for {name}"


# --- routing --------------------------------------------------------------------------------------------------------


@contextmanager
def process(*command: str, log: Path, ready_url: str) -> Iterator[None]:
    with log.open("w") as out:
        started = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent)

    def ready() -> bool:
        assert started.poll() is None, f"{command[0]} ended:\n{log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(ready_url, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_until(ready, timeout_s=60, what=f"{command[0]} must answer")
        yield
    finally:
        started.kill()
        started.wait()


@contextmanager
def alertmanager(folder: Path, webhook: str, **timing: str) -> Iterator[str]:
    """Our routing with shorter waits; gives the URL to post alerts to."""
    program = tool("prometheus-alertmanager", "prometheus-alertmanager")
    shutil.copytree(MONITORING / "templates", folder / "templates")
    configuration = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
    configuration["route"].update(timing)
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(configuration))
    (folder / "webhook_url").write_text(webhook)
    (port,) = free_ports(1)
    command = [
        program,
        "--config.file=alertmanager.yml",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    url = f"http://127.0.0.1:{port}"
    with process(*command, log=folder / "log", ready_url=f"{url}/-/ready"):
        yield f"{url}/api/v2/alerts"


def alert(name: str, *, began: datetime | None = None, over: bool = False, **labels: str) -> dict[str, Any]:
    rule = ALERTS[name]
    annotations = {
        key: re.sub(r"{{.*?labels\.(\w+).*?}}", lambda match: labels.get(match[1], ""), text)
        for key, text in rule["annotations"].items()
    }
    now = datetime.now(UTC)
    found = {
        "labels": {"alertname": name, **rule["labels"], **labels},
        "annotations": {key: re.sub(r"{{.*?}}", "7", text) for key, text in annotations.items()},
        # Alerts older than group_wait are sent at once, before it is known which ones are mere consequences.
        "startsAt": (began or now).isoformat(),
    }
    return found | ({"endsAt": now.isoformat()} if over else {})


def post(url: str, alerts: list[dict[str, Any]]) -> None:
    request = urllib.request.Request(url, json.dumps(alerts).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 200


def test_alertmanager_accepts_its_configuration(tmp_path: Path) -> None:
    amtool = tool("amtool", "prometheus-alertmanager")
    shutil.copytree(MONITORING, tmp_path / "monitoring")
    (tmp_path / "monitoring" / "webhook_url").write_text("http://127.0.0.1:1/")
    check(amtool, "check-config", "alertmanager.yml", cwd=tmp_path / "monitoring")


def test_one_incident_is_one_message_and_one_when_it_is_over(tmp_path: Path) -> None:
    """The object store is away: six alerts fire, a person gets one message about two."""
    incident = [
        ("CircuitOpen", {"target": "s3"}),
        ("RunsFail", {"job_name": "wrm_stations_processing_job"}),
        ("TicksFail", {"instigator": "wrm_stations_raw_data_sensor"}),
        ("ExporterSourceStale", {"source": "snapshots"}),
        ("SpoolNotEmpty", {}),
        ("SpoolFilling", {}),
    ]
    with (
        FaultServer(then=Answer(200, b"ok")) as receiver,
        alertmanager(tmp_path, receiver.url, group_wait="2s", group_interval="3s") as url,
    ):
        began = datetime.now(UTC)
        for _ in range(8):  # as Prometheus repeats them
            post(url, [alert(name, began=began, **labels) for name, labels in incident])
            time.sleep(0.5)
        wait_until(lambda: bool(receiver.requests), timeout_s=20, what="a message must arrive")
        time.sleep(3.5)
        (message,) = [json.loads(request.body) for request in receiver.requests]
        (attachment,) = message["attachments"]
        assert attachment["title"] == "wrm_pipeline: The spool is nearly full (and more, see below)"
        text = attachment["text"]
        assert text.index("*critical*: The spool is nearly full") < text.index("*warning*: s3 is away")
        assert "What to do: docs/operations.md#circuit-open" in text
        assert "docs/operations.md#spool" in text
        for consequence in ("runs-fail", "ticks", "exporter"):
            assert f"#{consequence}" not in text
        print(f"\n{attachment['title']}\n\n{text}")  # noqa: T201 - what a person reads, with -s

        post(url, [alert(name, began=began, over=True, **labels) for name, labels in incident])
        wait_until(lambda: len(receiver.requests) > 1, timeout_s=20, what="the end must be reported")
        (attachment,) = json.loads(receiver.requests[1].body)["attachments"]
        assert attachment["title"].startswith("wrm_pipeline: over: ")
        time.sleep(3.5)
        assert len(receiver.requests) == 2


# --- dashboards -----------------------------------------------------------------------------------------------------


def queries() -> list[tuple[str, str, str]]:
    """(dashboard, panel, query) of every panel."""
    return [
        (path.stem, panel["title"], target["expr"])
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


@contextmanager
def prometheus(folder: Path, exporter: Exporter) -> Iterator[str]:
    """Our configuration with this exporter as its target, scraping each second; gives the URL of its API."""
    program = tool("prometheus", "prometheus")
    shutil.copytree(MONITORING / "rules", folder / "rules")
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    configuration["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
    configuration.pop("alerting")
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"]}
    jobs["wrm_pipeline"]["static_configs"] = [{"targets": [f"127.0.0.1:{exporter.port}"]}]
    configuration["scrape_configs"] = [jobs["wrm_pipeline"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (port,) = free_ports(1)
    command = [
        program,
        "--config.file=prometheus.yml",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with process(*command, log=folder / "log", ready_url=f"{url}/-/ready"):
        yield url


def ask(url: str, query: str) -> tuple[str, list[Any]]:
    """The error, if any, and the result of a query."""
    runnable = query.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$__interval", "15s")
    arguments = urllib.parse.urlencode({"query": runnable})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{arguments}", timeout=10) as answer:
            return "", json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        return json.load(error)["error"], []


def test_every_query_of_every_dashboard_has_an_answer(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real runs, a real exporter, a real Prometheus; then each panel's query through its API."""
    (port,) = free_ports(1)
    with serve(City(1)) as feed:
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", feed.url)
        with (
            dg.DagsterInstance.get() as instance,
            running(port, tmp_path / "exporter.log") as exporter,
            prometheus(tmp_path, exporter) as url,
        ):
            wait_until(
                lambda: bool(ask(url, "dagster_runs_total")[1]), timeout_s=30, what="Prometheus must have scraped once"
            )
            minute = 0

            def unanswered() -> list[tuple[str, str, str]]:
                return [found for found in queries() if ask(url, found[2]) == ("", [])]

            def answered() -> bool:
                nonlocal minute
                feed.clock = lambda: datetime.now(UTC) + timedelta(minutes=minute)
                run_job("wrm_stations_ingest_job", instance=instance)
                minute += 1
                return not unanswered()

            wait_until(answered, timeout_s=60, what=f"every query must have an answer; not yet: {unanswered()}")
            errors = {(board, panel): error for board, panel, query in queries() if (error := ask(url, query)[0])}
            assert errors == {}
            assert len(queries()) > 30

            for name in RECORDED:
                assert ask(url, name)[1], name
            # What the rules read exists, labels included; and with a healthy pipeline only the missing daemon is
            # reported. The disk is this machine's own, and other tests may be filling it.
            firing = {found["metric"]["alertname"] for found in ask(url, "ALERTS")[1]}
            assert firing - {"DiskFilling"} <= {"DaemonGone"}
            for rule in ALERTS.values():
                assert ask(url, rule["expr"])[0] == ""


def test_dashboards_are_what_grafana_expects() -> None:
    assert len(DASHBOARDS) == 2
    uids = set()
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        uids.add(board["uid"])
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids))
        assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource"]
        places: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            assert panel["title"]
            grid = panel["gridPos"]
            cells = {
                (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert not cells & places, f"{panel['title']} lies over another panel"
            assert max(x for x, _ in cells) < 24
            places |= cells
            for target in panel.get("targets", ()):
                assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len(uids) == 2
