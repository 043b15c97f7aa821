"""Alert sensors on a real Dagster instance with real runs: how often they speak, and what of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.assets.stations.raw_all import FeedDriftedError
from wrm_pipeline.checks.feed import EXPLAINED_BY, FEED_CHECK
from wrm_pipeline.clients.errors import (
    CircuitOpenError,
    PermanentError,
    StorageFullError,
    TransientError,
    UnexpectedAnswerError,
)
from wrm_pipeline.domain.incidents import FORGOTTEN, QUIET
from wrm_pipeline.domain.partition_build import PartitionWouldShrinkError
from wrm_pipeline.resources.alerts import AlertsResource
from wrm_pipeline.sensors.alerts import (
    CHECK_REMEDIES,
    LOOK_AT_CHECK,
    MESSAGES_PER_TICK,
    READ_RUN,
    REMEDIES,
    AlertCursor,
    ReadRun,
    check_outcomes,
    collect_outcomes,
    run_outcomes,
    send_notifications,
    wrm_check_alerts_sensor,
    wrm_run_alerts_sensor,
)
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer, html
from wrm_pipeline_tests.fixtures.lake import definitions, tick
from wrm_pipeline_tests.fixtures.snapshots import property_settings

UI = "http://ui:3000"
QUIET_S = QUIET.total_seconds()
INGEST = "wrm_stations_ingest_job"
PROCESSING = "wrm_stations_processing_job"
DAY = "2025-08-21"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class Receiver:
    """A webhook; `down` raises instead."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.down: Exception | None = None
        self.asked = 0

    def __call__(self, text: str) -> None:
        self.asked += 1
        if self.down is not None:
            raise self.down
        self.texts.append(text)

    @property
    def signs(self) -> str:
        return "".join(text[0] for text in self.texts)


class Watch:
    """A sensor's ticks: the state goes through the cursor each time."""

    def __init__(self, instance: dg.DagsterInstance, read: ReadRun) -> None:
        self.instance, self.read = instance, read
        self.receiver = Receiver()
        self.cursor: str | None = None
        self.runs_read = 0

    def tick(self, later_s: float = 0) -> list[str]:
        """One tick, so many seconds from now; gives the messages that it sent."""
        now = time.time() + later_s
        state = AlertCursor.from_cursor(self.cursor, now)
        self.runs_read += collect_outcomes(self.instance, state, self.read, now=now)
        before = len(self.receiver.texts)
        send_notifications(state, {"webhook": self.receiver}, now=now, ui_url=UI)
        self.cursor = state.to_cursor()
        return self.receiver.texts[before:]


@pytest.fixture
def runs(instance) -> Watch:
    return Watch(instance, run_outcomes)


@pytest.fixture
def checks(instance) -> Watch:
    return Watch(instance, check_outcomes)


def run(
    instance: dg.DagsterInstance,
    error: Exception | Callable[[], Exception] | None = None,
    *,
    job: str = INGEST,
    partition: str | None = None,
    tags: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """A run of a job whose one step raises this, or succeeds."""

    @dg.op(name="the_step")
    def step() -> None:
        if error is not None:
            raise error if isinstance(error, Exception) else error()

    graph = dg.GraphDefinition(name=job, node_defs=[step])
    tags = {**(tags or {}), **({"dagster/partition": partition} if partition else {})}
    return graph.to_job(tags=tags).execute_in_process(instance=instance, raise_on_error=False)


def unavailable(target: str = "feed") -> TransientError:
    return TransientError("HTTP 503 Service Unavailable", target, "get", "https://host/x", "See its page", 503)


# --- clocks that were ahead, and cursors that are not ours ---


def test_runs_from_the_future_are_reported_once_and_hide_no_others(instance, runs):
    """The clock is a day ahead for the runs of this test, and right for the sensor's ticks."""
    day = -86_400.0
    run(instance, unavailable())
    assert len(runs.tick(0)) == 1, "reported while the clock was ahead"
    for n in range(3):
        assert runs.tick(day + 30 * n) == []
    run(instance, ValueError("another cause"))
    assert len(runs.tick(day + 120)) == 1
    for n in range(40):
        assert runs.tick(day + 150 + 30 * n) == [], "it is remembered until its time has passed"
    assert json.loads(runs.cursor)["until"] <= time.time() + day + 150 + 30 * 39
    run(instance)
    runs.tick(day + 1400)
    ends = [text for n in range(60) for text in runs.tick(day + 1430 + 30 * n)]
    assert [text[0] for text in ends] == ["🟢", "🟢"], "and both are over soon, not a day later"


@property_settings(200)
@given(
    st.one_of(
        st.text(),
        st.fixed_dictionaries(
            {
                "until": st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.booleans()),
                "seen": st.one_of(
                    st.none(), st.lists(st.integers()), st.dictionaries(st.text(), st.floats() | st.text())
                ),
                "incidents": st.one_of(
                    st.none(),
                    st.lists(st.dictionaries(st.text(), st.integers())),
                    st.lists(
                        st.fixed_dictionaries(
                            {
                                name: st.none() | st.text() | st.integers() | st.lists(st.integers(), max_size=1)
                                for name in (
                                    *("scope", "cause", "error", "place", "remedy", "severe", "words", "began_at"),
                                    *("last_failed_at", "run_id", "partitions", "good_since"),
                                )
                            }
                        ),
                        max_size=1,
                    ),
                ),
            }
        ).map(json.dumps),
        st.just("[" * 200_000),
    )
)
def test_a_cursor_that_is_not_ours_counts_as_a_first_look(cursor):
    now = 1_755_781_502.0
    state = AlertCursor.from_cursor(cursor, now)
    assert now - 86_400 <= state.until <= now
    send_notifications(state, {"webhook": lambda _: None}, now=now, ui_url=UI)
    assert AlertCursor.from_cursor(state.to_cursor(), now).until <= now


# --- runs ---


def test_five_failing_runs_are_one_message_and_their_end_another(instance, runs):
    for _ in range(5):
        run(instance, unavailable())
    (failed,) = runs.tick()
    assert failed.startswith(f"🔴 *{INGEST}* failed\n")
    assert "TransientError: feed get https://host/x: HTTP 503 Service Unavailable. See its page" in failed
    assert "step the_step" in failed
    assert "5 runs so far" in failed
    assert runs.tick() == []

    run(instance)
    assert runs.tick() == []
    (over,) = runs.tick(QUIET_S + 60)
    assert over.startswith(f"🟢 *{INGEST}* is good again\n")
    assert "*Failed:* 5 runs" in over
    assert runs.tick(QUIET_S + 90) == []


def test_failures_minute_by_minute_are_one_message_too(instance, runs):
    said = []
    for _ in range(5):
        run(instance, unavailable())
        said += runs.tick()
    run(instance)
    said += runs.tick()
    said += runs.tick(QUIET_S + 60)
    assert [text[0] for text in said] == ["🔴", "🟢"]


def test_the_link_leads_to_the_run_that_failed(instance, runs):
    failed = run(instance, unavailable())
    (text,) = runs.tick()
    assert f"<{UI}/runs/{failed.run_id}|Open the run>" in text


def test_an_outage_is_one_incident_whatever_its_face(instance, runs):
    since = datetime(2025, 8, 21, tzinfo=UTC)
    faces = [
        unavailable(),
        TransientError("ConnectTimeout: 3 s", "feed", "get", "https://host/x"),
        UnexpectedAnswerError("the answer is empty", "feed", "get", "https://host/x"),
        CircuitOpenError("feed", since, since + timedelta(minutes=1), "get"),
    ]
    for face in faces:
        run(instance, face)
    (text,) = runs.tick()
    assert "4 runs so far" in text
    assert "it is tried each minute" in text


def test_two_jobs_are_two_incidents(instance, runs):
    run(instance, unavailable("s3"), job=INGEST)
    run(instance, unavailable("s3"), job=PROCESSING, partition=DAY)
    titles = sorted(text.splitlines()[0] for text in runs.tick())
    assert titles == [f"🔴 *{INGEST}* failed", f"🔴 *{PROCESSING}* failed"]
    run(instance, job=INGEST)
    runs.tick()
    (over,) = runs.tick(QUIET_S + 60)
    assert INGEST in over


def test_one_cause_on_many_days_is_one_incident(instance, runs):
    for day in ("2025-08-19", "2025-08-20", DAY):
        run(instance, PartitionWouldShrinkError(f"dt={day} has 500 rows, would have 1"), job=PROCESSING, partition=day)
    (text,) = runs.tick()
    assert f"partition {DAY} and 2 more" in text
    assert "allow_shrink" in text
    run(instance, job=PROCESSING, partition="2025-08-22")
    runs.tick()
    assert runs.tick(QUIET_S + 60) == []
    for day in ("2025-08-19", "2025-08-20", DAY):
        run(instance, job=PROCESSING, partition=day)
    runs.tick()
    assert [text[0] for text in runs.tick(QUIET_S + 60)] == ["🟢"]


def test_other_causes_of_the_same_job_are_reported(instance, runs):
    run(instance, unavailable())
    run(instance, KeyError("station_id"))
    assert len(runs.tick()) == 2


@pytest.mark.parametrize(
    ("error", "line", "remedy"),
    [
        (StorageFullError("no space left", "s3", "put", "k"), "StorageFullError: s3 put k: no space left", "Make room"),
        (
            PermanentError("HTTP 403", "vault", "read", "wrm"),
            "PermanentError: vault read wrm: HTTP 403",
            "doctor",
        ),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero", READ_RUN),
        (dg.Failure("The feed answered with HTML."), "Failure: The feed answered with HTML.", "what arrived instead"),
        (
            ValueError("<!channel> see ```this``` & <http://evil|that>"),
            "ValueError: &lt;!channel&gt; see '''this''' &amp; &lt;http://evil|that&gt;",
            READ_RUN,
        ),
        (ConnectionError("redis://u:hidden@host/0 is away"), "ConnectionError: redis://***@host/0 is away", READ_RUN),
    ],
)
def test_the_error_and_what_to_try(instance, runs, error, line, remedy):
    run(instance, error)
    (text,) = runs.tick()
    assert f"```{line}```" in text
    assert remedy in text
    assert "hidden" not in text


def test_a_cause_behind_dagsters_own_exception_and_one_behind_it(instance, runs):
    def chained() -> Exception:
        error = unavailable()
        error.__cause__ = ConnectionResetError("by peer")
        return error

    run(instance, chained)
    (text,) = runs.tick()
    assert "```TransientError: feed get" in text


def test_a_run_that_died_without_a_step_error(instance, runs):
    died = instance.create_run_for_job(dg.GraphDefinition(name=INGEST, node_defs=[]).to_job())
    instance.report_run_failed(died, "Exceeded maximum runtime of 900 seconds.")
    (text,) = runs.tick()
    assert "```Exceeded maximum runtime of 900 seconds.```" in text
    assert "out-of-memory" in text


def test_a_run_that_is_tried_again_by_itself_is_not_reported(instance, runs):
    run(instance, unavailable(), tags={"dagster/will_retry": "true"})
    assert runs.tick() == []
    run(instance, unavailable())
    assert len(runs.tick()) == 1


def test_a_run_by_hand_is_named_after_its_assets(instance, runs):
    assets = [dg.asset(name=name)(lambda: None) for name in ("c", "b", "a")]
    job = dg.Definitions(assets=assets).resolve_implicit_global_asset_job_def()
    by_hand = instance.create_run_for_job(job, asset_selection=frozenset(asset.key for asset in assets[1:]))
    instance.report_run_failed(by_hand, "It failed for a reason.")
    (text,) = runs.tick()
    assert text.startswith("🔴 *Materialization of a, b* failed\n")


def test_what_nobody_runs_again_is_over_after_a_day(instance, runs):
    run(instance, unavailable(), job="reprocess_dlq")
    runs.tick()
    (text,) = runs.tick(FORGOTTEN.total_seconds() + 60)
    assert "has not failed again for 24 h" in text


def test_runs_are_read_once_even_if_they_are_touched_later(instance, runs):
    failed = run(instance, unavailable())
    for _ in range(3):
        runs.tick()
    assert runs.runs_read == 1
    instance.add_run_tags(failed.run_id, {"some": "tag"})
    assert runs.tick() == []
    assert runs.runs_read == 1


def test_what_ended_long_before_the_first_tick_is_history(instance, runs):
    run(instance, unavailable())
    assert runs.tick(3600) == []


def test_a_cursor_of_another_version_starts_again(instance, runs):
    for cursor in ("", "no json", "[]", '{"until": 1}', "3", '{"until": 1, "seen": {}, "incidents": [{"old": 1}]}'):
        runs.cursor = cursor
        run(instance, unavailable())
        assert len(runs.tick()) == 1


def test_more_runs_at_once_than_one_tick_reads(instance, runs, monkeypatch):
    monkeypatch.setattr("wrm_pipeline.sensors.alerts.RUNS_PER_TICK", 3)
    for n in range(7):
        run(instance, ValueError("boom"), partition=f"2025-08-{n + 10}")
    for _ in range(4):
        runs.tick()
    assert runs.runs_read == 7
    assert json.loads(runs.cursor)["incidents"][0]["failed"] == 7


# --- the webhook being down ---


def test_a_webhook_that_is_down_is_reported_once_when_it_is_back(instance, runs):
    runs.receiver.down = TransientError("no answer", "webhook", "post")
    for _ in range(3):
        run(instance, unavailable())
        assert runs.tick() == []
    runs.receiver.down = None
    (text,) = runs.tick()
    assert "3 runs so far" in text
    assert runs.tick() == []


def test_what_began_and_ended_meanwhile_is_one_message(instance, runs):
    runs.receiver.down = TransientError("no answer", "webhook", "post")
    run(instance, unavailable())
    runs.tick()
    run(instance)
    runs.tick()
    runs.tick(QUIET_S + 60)
    runs.receiver.down = None
    (text,) = runs.tick(QUIET_S + 90)
    assert text.startswith("🟢")
    assert runs.tick(QUIET_S + 120) == []


def test_the_end_is_reported_later_too(instance, runs):
    run(instance, unavailable())
    runs.tick()
    run(instance)
    runs.tick()
    runs.receiver.down = PermanentError("HTTP 404", "webhook", "post")
    assert runs.tick(QUIET_S + 60) == []
    runs.receiver.down = None
    assert [text[0] for text in runs.tick(QUIET_S + 90)] == ["🟢"]
    assert runs.tick(QUIET_S + 120) == []


def test_a_webhook_that_is_down_is_asked_once_a_tick_however_much_there_is_to_tell(instance, runs):
    for n in range(4):
        run(instance, unavailable(), job=f"job_{n}")
    runs.receiver.down = TransientError("no answer", "webhook", "post")
    runs.tick()
    assert runs.receiver.asked == 1


def test_a_message_that_is_refused_does_not_hold_up_the_others(instance, runs):
    for n in range(2):
        run(instance, unavailable(), job=f"job_{n}")
    state = AlertCursor.from_cursor(None, time.time())
    collect_outcomes(instance, state, run_outcomes)
    sent: list[str] = []

    def refuse_the_first(text: str) -> None:
        if "job_0" in text:
            raise PermanentError("HTTP 400", "webhook", "post")
        sent.append(text)

    delivered, trouble = send_notifications(state, {"webhook": refuse_the_first}, now=time.time(), ui_url=UI)
    assert (delivered, len(sent)) == (1, 1)
    assert "HTTP 400" in trouble


@pytest.mark.parametrize("down", ["webhook", "mail"])
def test_each_channel_hears_each_alert_once_whatever_becomes_of_the_other(instance, down):
    receivers = {"webhook": Receiver(), "mail": Receiver()}
    cursor: str | None = None

    def tick_all(later_s: float = 0) -> None:
        nonlocal cursor
        now = time.time() + later_s
        state = AlertCursor.from_cursor(cursor, now)
        collect_outcomes(instance, state, run_outcomes, now=now)
        send_notifications(state, receivers, now=now, ui_url=UI)
        cursor = state.to_cursor()

    receivers[down].down = TransientError("no answer", down, "post")
    run(instance, unavailable())
    for _ in range(3):
        tick_all()
    other = receivers["mail" if down == "webhook" else "webhook"]
    assert (other.signs, receivers[down].signs) == ("🔴", "")
    receivers[down].down = None
    tick_all()
    tick_all()
    assert {receiver.signs for receiver in receivers.values()} == {"🔴"}
    # It is over, and the other one is down by then.
    other.down = TransientError("no answer", "other", "post")
    run(instance)
    tick_all()
    tick_all(QUIET_S + 60)
    assert receivers[down].signs == "🔴🟢"
    other.down = None
    tick_all(QUIET_S + 90)
    tick_all(QUIET_S + 120)
    assert {receiver.signs for receiver in receivers.values()} == {"🔴🟢"}
    assert json.loads(cursor or "")["incidents"] == []


def test_a_channel_that_is_new_hears_of_what_is_open_and_an_older_cursor_is_understood(instance, runs):
    run(instance, unavailable())
    runs.tick()
    content = json.loads(runs.cursor or "")
    for incident in content["incidents"]:
        del incident["beginning_sent"], incident["end_sent"]
        incident["told"] = True
    state = AlertCursor.from_cursor(json.dumps(content), time.time())
    both = {"webhook": Receiver(), "mail": Receiver()}
    send_notifications(state, both, now=time.time(), ui_url=UI)
    assert {name: receiver.signs for name, receiver in both.items()} == {"webhook": "", "mail": "🔴"}


def test_what_fails_again_before_all_have_heard_of_its_end_is_reported_to_those_who_have(instance, runs):
    both = {"webhook": Receiver(), "mail": Receiver()}

    def send(later_s: float) -> None:
        state = AlertCursor.from_cursor(runs.cursor, time.time() + later_s)
        collect_outcomes(instance, state, run_outcomes, now=time.time() + later_s)
        send_notifications(state, both, now=time.time() + later_s, ui_url=UI)
        runs.cursor = state.to_cursor()

    run(instance, unavailable())
    send(0)
    run(instance)
    send(0)
    both["mail"].down = TransientError("no answer", "mail", "send")
    send(QUIET_S + 60)
    both["mail"].down = None
    run(instance, unavailable())
    send(QUIET_S + 90)
    assert {name: receiver.signs for name, receiver in both.items()} == {"webhook": "🔴🟢🔴", "mail": "🔴"}


def test_a_tick_sends_a_few_messages_and_the_next_ones_the_rest(instance, runs):
    for n in range(MESSAGES_PER_TICK + 2):
        run(instance, unavailable(), job=f"job_{n}")
    assert len(runs.tick()) == MESSAGES_PER_TICK
    assert len(runs.tick()) == 2
    assert runs.tick() == []


# --- checks ---


def checked(
    instance: dg.DagsterInstance,
    passed: bool,
    *,
    partition: str = DAY,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
    blocking: bool = False,
    name: str = "rows_and_columns_are_right",
    metadata: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    @dg.asset(
        partitions_def=dg.DailyPartitionsDefinition("2025-08-01"),
        check_specs=[dg.AssetCheckSpec(name, asset="a_table", blocking=blocking)],
    )
    def a_table() -> dg.MaterializeResult:
        text = "stale is on 14.2% of the rows"
        found = dg.AssetCheckResult(passed=passed, severity=severity, description=text, metadata=metadata)
        return dg.MaterializeResult(check_results=[found])

    return dg.materialize([a_table], partition_key=partition, instance=instance, raise_on_error=False)


def test_a_check_that_does_not_hold_is_one_message_and_its_end_another(instance, checks, runs):
    for _ in range(3):
        checked(instance, False)
    (text,) = checks.tick()
    assert text.startswith("🟡 *Check rows_and_columns_are_right of a_table* does not hold (a warning)\n")
    assert "```stale is on 14.2% of the rows```" in text
    assert f"a_table, partition {DAY}" in text
    assert LOOK_AT_CHECK in text
    checked(instance, True)
    assert checks.tick() == []
    (over,) = checks.tick(QUIET_S + 60)
    assert over.startswith("🟢 *Check rows_and_columns_are_right of a_table* holds again")
    assert runs.tick(QUIET_S + 60) == []


def test_an_error_is_called_a_failure(instance, checks):
    checked(instance, False, severity=dg.AssetCheckSeverity.ERROR)
    (text,) = checks.tick()
    assert text.startswith("🔴 *Check rows_and_columns_are_right of a_table* does not hold\n")


def test_a_run_that_a_blocking_check_stopped_is_reported_by_the_check_alone(instance, checks, runs):
    stopped = checked(instance, False, severity=dg.AssetCheckSeverity.ERROR, blocking=True)
    assert not stopped.success
    assert runs.tick() == []
    assert len(checks.tick()) == 1


def test_what_another_check_explains_is_not_reported_again(instance, checks):
    explained = {EXPLAINED_BY: FEED_CHECK}
    checked(instance, False, metadata=explained)
    assert checks.tick() == []
    checked(instance, False)
    assert len(checks.tick()) == 1, "but what nothing explains is"


def test_a_fetch_that_fails_for_another_format_is_reported_by_the_check_alone(instance, runs):
    run(instance, FeedDriftedError("The feed answered with something that is not a snapshot: 12 docks"))
    assert runs.tick() == []
    run(instance, dg.Failure("The feed answered with something that is not a snapshot: <html>"))
    assert len(runs.tick()) == 1


def test_a_check_is_good_again_when_that_day_is(instance, checks):
    checked(instance, False, partition="2025-08-20")
    checks.tick()
    checked(instance, True, partition=DAY)
    checks.tick()
    assert checks.tick(QUIET_S + 60) == []


def test_a_check_about_now_does_not_mind_which_day_was_built(instance, checks):
    checked(instance, False, name="today_is_fresh", partition="2025-08-20")
    (text,) = checks.tick()
    assert "partition" not in text
    checked(instance, True, name="today_is_fresh", partition=DAY)
    checks.tick()
    assert [text[0] for text in checks.tick(QUIET_S + 60)] == ["🟢"]


def test_every_remedy_is_for_something_that_exists():
    checks = definitions().resolve_asset_graph().asset_check_keys
    assert set(CHECK_REMEDIES) <= {key.name for key in checks}
    assert all(name.endswith("Error") or name == "Failure" for name in REMEDIES)


# --- the sensors themselves ---


def evaluate(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None):
    return tick(sensor.name, instance, cursor)


@pytest.mark.parametrize("variable", ["WRM_ALERT_WEBHOOK_URL", "WRM_MAIL_TO"])
def test_they_exist_where_there_is_a_channel(environment, monkeypatch, variable):
    def present() -> bool:
        names = {sensor.name for sensor in definitions().sensors or ()}
        ours = {wrm_run_alerts_sensor.name, wrm_check_alerts_sensor.name}
        assert not names & ours or names >= ours
        return names >= ours

    assert not present()
    monkeypatch.setenv(variable, {"WRM_MAIL_TO": "a@example.org"}.get(variable, "http://127.0.0.1:9/"))
    assert present()


@pytest.mark.parametrize("sensor", [wrm_run_alerts_sensor, wrm_check_alerts_sensor])
def test_a_resource_without_a_channel_is_asked_for_nothing(sensor, instance, monkeypatch):
    looked: list[object] = []
    monkeypatch.setattr("wrm_pipeline.sensors.alerts.ended_runs", lambda *_: looked.append(1) or [])
    alerts = {"alerts": AlertsResource.of(load_settings())}
    assert "neither WRM_ALERT_WEBHOOK_URL nor" in tick(sensor.name, instance, overrides=alerts).skip_message
    assert looked == []


@pytest.mark.parametrize("sensor", [wrm_run_alerts_sensor, wrm_check_alerts_sensor])
def test_they_run_from_the_start(sensor):
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30
    assert not sensor.targets


def test_a_sensor_posts_to_the_webhook_of_the_settings(instance, monkeypatch, caplog):
    run(instance, unavailable())
    with FaultServer(then=Answer(200, b"ok")) as server:
        monkeypatch.setenv("WRM_ALERT_WEBHOOK_URL", f"{server.url}/webhook-canary")
        monkeypatch.setenv("WRM_UI_URL", "https://dagster.example.org/")
        first = evaluate(wrm_run_alerts_sensor, instance)
        second = evaluate(wrm_run_alerts_sensor, instance, first.cursor)
        (request,) = server.requests
    assert request.path == "/webhook-canary"
    assert "<https://dagster.example.org/runs/" in json.loads(request.body)["text"]
    assert first.skip_message == "1 runs ended; 1 messages sent."
    assert second.skip_message == "0 runs ended; 0 messages sent."
    assert "canary" not in first.cursor + caplog.text + repr(first) + repr(load_settings())


def test_a_webhook_that_is_down_fails_no_tick_and_shows_no_url(instance, monkeypatch, caplog):
    run(instance, unavailable())
    with FaultServer(then=html(503)) as server:
        monkeypatch.setenv("WRM_ALERT_WEBHOOK_URL", f"{server.url}/webhook-canary")
        down = evaluate(wrm_run_alerts_sensor, instance)
        server.play(then=Answer(200, b"ok"))
        up = evaluate(wrm_run_alerts_sensor, instance, down.cursor)
        again = evaluate(wrm_run_alerts_sensor, instance, up.cursor)
        assert len(server.requests) == 1
    assert again.skip_message == "0 runs ended; 0 messages sent."
    assert "canary" not in caplog.text + down.cursor + str(down.skip_message)
