"""Alerts as a person receives them: real jobs on a real instance, real sensors, a real webhook receiver."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline.clients.alerts import Webhook
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.sensors.alerts import (
    AlertCursor,
    check_outcomes,
    collect_outcomes,
    run_outcomes,
    send_notifications,
    wrm_check_alerts_sensor,
    wrm_run_alerts_sensor,
)
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer, html
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, run_job, snapshot
from wrm_pipeline_tests.fixtures.lake import tick as evaluate
from wrm_pipeline_tests.fixtures.snapshots import line

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
CANARY = "T00CANARY/B00CANARY/webhookcanary"
INGEST, PROCESSING, ANALYTICS = "wrm_stations_ingest_job", "wrm_stations_processing_job", "wrm_analytics_job"
CLOCK = {"clock": ClockResource(fixed_at=NOON.isoformat())}


class Receiver:
    """An incoming webhook as Slack's: takes JSON with a `text`, says ok."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        texts = self.texts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == f"/services/{CANARY}"
                texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{CANARY}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver(monkeypatch) -> Iterator[Receiver]:
    receiver = Receiver()
    monkeypatch.setenv("WRM_ALERT_WEBHOOK_URL", receiver.url)
    try:
        yield receiver
    finally:
        receiver.close()


@pytest.fixture
def instance(environment) -> Iterator[dg.DagsterInstance]:
    """An instance as `make dev` has it: SQLite files below DAGSTER_HOME."""
    with dg.DagsterInstance.get() as instance:
        yield instance


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None) -> str:
    return str(evaluate(sensor.name, instance, cursor).cursor)


def tick_later(read, instance: dg.DagsterInstance, cursor: str, receiver: Receiver, *, minutes: float) -> str:
    """What the sensor does, so many minutes from now."""
    now = time.time() + minutes * 60
    state = AlertCursor.from_cursor(cursor, now)
    collect_outcomes(instance, state, read)
    send_notifications(state, {"webhook": Webhook(receiver.url).post}, now=now, ui_url="http://127.0.0.1:3000")
    return state.to_cursor()


def shape(text: str) -> str:
    """A message without what differs from run to run."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "RUN", text)
    return re.sub(r"\d+(?:[.:-]\d+)*", "N", text)


def documented() -> str:
    return shape((PROJECT / "docs" / "checks-and-alerts.md").read_text(encoding="utf-8"))


def test_a_feed_that_is_down_and_comes_back(instance, receiver, monkeypatch, environment, capfd):
    with FaultServer(then=html(503)) as feed:
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", f"{feed.url}/bikesapi/load.php?scheme=wroclaw")
        for _ in range(2):
            assert not run_job(INGEST, instance=instance, raise_on_error=False).success
        cursor = tick(wrm_run_alerts_sensor, instance)
        cursor = tick(wrm_run_alerts_sensor, instance, cursor)
        feed.play(then=Answer(200, snapshot(NOON), {"Content-Type": "text/csv"}))
        assert run_job(INGEST, instance=instance).success
    cursor = tick(wrm_run_alerts_sensor, instance, cursor)
    cursor = tick_later(run_outcomes, instance, cursor, receiver, minutes=6)
    tick_later(run_outcomes, instance, cursor, receiver, minutes=7)

    failed, over = receiver.texts
    assert failed.startswith(f"🔴 *{INGEST}* failed")
    assert "HTTP 503" in failed
    assert over.startswith(f"🟢 *{INGEST}* is good again")
    assert shape(failed) in documented()
    assert shape(over) in documented()
    written = b"".join(path.read_bytes() for path in environment.parent.rglob("*") if path.is_file())
    printed = capfd.readouterr()
    for place in (written, printed.out.encode(), printed.err.encode()):
        assert b"CANARY" not in place
        assert b"webhookcanary" not in place


def test_a_day_with_many_bad_lines(instance, receiver, lake):
    combined = f"{int(NOON.timestamp())}|7200|-1"
    bad = [line(id=str(n), combined=combined, bikes="many") for n in range(5)]
    lake.put_raw(NOON, snapshot(NOON, 300, *bad))
    assert run_job(PROCESSING, dt=DAY, instance=instance).success
    assert run_job(ANALYTICS, instance=instance, overrides=CLOCK).success
    cursor = tick(wrm_check_alerts_sensor, instance)
    tick(wrm_run_alerts_sensor, instance)
    (failed,) = [text for text in receiver.texts if "dead_letter_share_is_low" in text]
    assert failed.startswith("🟡 *Check dead_letter_share_is_low of wrm_stations_dlq* does not hold")
    assert shape(failed) in documented()

    lake.put_day(2, first=1, stations=300)
    assert run_job(PROCESSING, dt=DAY, instance=instance).success
    assert run_job(ANALYTICS, instance=instance, overrides=CLOCK).success
    cursor = tick(wrm_check_alerts_sensor, instance, cursor)
    tick_later(check_outcomes, instance, cursor, receiver, minutes=6)
    (over,) = [text for text in receiver.texts if "dead_letter_share_is_low" in text and text.startswith("🟢")]
    assert shape(over) in documented()
    assert not any(PROCESSING in text for text in receiver.texts)


def test_what_a_blocking_check_found_is_in_the_events_that_the_ui_shows(instance, lake):
    lake.put_day(1)
    run_job(PROCESSING, dt=DAY, instance=instance)
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [
            dg.AssetCheckKey(dg.AssetKey("wrm_stations_processed_data_all"), "lines_and_columns_are_right"),
            dg.AssetCheckKey(dg.AssetKey("wrm_stations_enhanced_data_all"), "rows_and_columns_are_right"),
        ]
    )
    assert len(records) == 2
    for record in records.values():
        evaluation = record.event.dagster_event.asset_check_evaluation_data
        assert evaluation.passed
        assert evaluation.blocking
        assert evaluation.target_materialization_data is not None
        assert {"rows", "rows_in_file"} & set(evaluation.metadata)
