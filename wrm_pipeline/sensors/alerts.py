"""Alerts people to failing runs and failing checks: once at the beginning, once at the end.

Both sensors read the runs that ended since the last tick, successes included, which show that an incident is over. Open
incidents are kept in the sensor's cursor, with the channels that have reported them. A message counts as delivered once
a channel has accepted it; one that could not be sent is sent by a later tick, to that channel alone, and nothing else
waits for it.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import dagster as dg
from dagster import DagsterEventType as EventType

from wrm_pipeline.checks import clock, feed, feeds, lake, positions, published, quality, spool
from wrm_pipeline.checks.feed import EXPLAINED_BY
from wrm_pipeline.checks.feeds import FEEDS_CHECK, VERDICTS
from wrm_pipeline.clients.errors import ExternalError, TransientError
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.feeds.health import HEALTH_KINDS
from wrm_pipeline.domain.incidents import Failure, Incidents, Outcome, first_line, without_variable_parts
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.jobs.processing import wrm_analytics_job
from wrm_pipeline.resources.alerts import AlertsResource
from wrm_pipeline.sensors.ended_runs import (
    REMEMBERED_S,
    cause_of,
    ended_at,
    ended_runs,
    is_time,
    remembered_at,
    seen_until,
    short_id,
)

# At the first tick, so that current failures are reported as soon as the webhook is set; and after a long pause.
FIRST_LOOK_BACK_S = 600.0
LONGEST_LOOK_BACK_S = 24 * 3600.0
_ENDINGS = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)
RUNS_PER_TICK = 200
# On each channel. Each takes at most 15 s, and a tick is cut off after 60 s: after SENDING_S none is begun.
MESSAGES_PER_TICK = 3
SENDING_S = 40.0

READ_RUN = "Open the run: its first red step has the full error. Once the cause is fixed, use Re-execute from there"
LOOK_AT_CHECK = "Open the asset's Checks tab: the result's metadata has counts, thresholds and samples"

# Remedies by error class, and for other errors by outside system.
REMEDIES = {
    "PartitionWouldShrinkError": (
        "Look for raw objects that are gone or unreadable. If the loss is intended, run the day with "
        "`allow_shrink: true`"
    ),
    "UnreadablePartitionError": "The next run of the day rebuilds it; find out what else writes to the lake",
    "ObjectArchivedError": "Restore the object from its archive storage class, and check the bucket's lifecycle rules",
    "AccountingError": "A bug in the program; nothing was published. Keep the raw objects and the log, and report it",
    "StorageFullError": "Make room on the disk or in the bucket; failed writes are retried automatically",
    "StorageDeniedError": "Correct the credentials or permissions of the object store; `wrm doctor` tests them",
    "SettingsError": "Correct the variable that the error names, and restart the services",
    "Failure": "Open the run: the step's error says what arrived instead, and where it is kept",
}
OUTSIDE_REMEDIES = {
    **dict.fromkeys(
        (kind.target for kind in KINDS.values()),
        "Open the feed's URL. If it is down, wait: it is tried each minute. Missed minutes cannot be fetched later",
    ),
    "s3": "Run `wrm doctor`. Snapshots wait in the local spool meanwhile and are delivered automatically",
    "postgres": "Run `wrm doctor` (serving). Readers keep the previous tables; the next successful run publishes all",
    "vault": "Run `wrm doctor`. Is Vault sealed, or has the secret id expired? Snapshots wait in the local spool",
}
NO_STEP_REMEDY = (
    "The run's process ended without a step error: look for out-of-memory kills (`journalctl -k`), a restart, a full "
    "disk. Then run it again"
)
CHECK_REMEDIES = {
    "today_is_fresh": (
        "Check whether wrm_stations_ingest_job and wrm_stations_processing_job run and succeed, and whether the daemon "
        "is up (`Deployment` in the UI)"
    ),
    "clock_was_not_ahead": (
        "Nothing, if nothing waits: it ends by itself when that time has come. Otherwise `wrm repair-clock --apply`, "
        "and restart the daemon. Find out why the clock was wrong (`timedatectl`, `journalctl -u systemd-timesyncd`); "
        "`wrm doctor` lists snapshots of that time, and `wrm raw move-future --apply` moves them to their true time"
    ),
    "enhanced_files_are_readable": (
        "`wrm rebuild --from DAY --to DAY` rebuilds the day's file; find out what else writes to the lake"
    ),
    "row_count_is_usual": "Compare the days in the result's samples; look for gaps between the day's raw snapshots",
    "feed_format_is_read": (
        "Nothing is lost: bodies are in raw/ and quarantine/, rows in dlq/. `wrm doctor` shows what changed; once a "
        "release can read it, `wrm dlq replay --drift` publishes everything"
    ),
    "feeds_tell_the_truth": (
        "Open the feed's URL and compare it with the city's own map. Its bodies are kept in raw/, and another feed in "
        "WRM_FEEDS is published meanwhile; with one feed its rows are published as they are"
    ),
    "dead_letters_are_readable": (
        "`wrm dlq list --status unreadable` lists them, `wrm dlq show ID` says why. Correct the object, or take it out "
        "of the queue with `wrm dlq discard ID --reason '…'`. It blocks nothing else"
    ),
    "spool_is_readable": (
        "`wrm doctor` lists the files. Correct the owner or mode of a snapshot and move it from `unreadable/` back "
        "into the spool; remove anything else. They block nothing"
    ),
    "dead_letter_share_is_low": "`wrm dlq list` shows what was rejected and why; the feed's format may have changed",
    "raw_objects_are_all_there": (
        "Their rows are still published. Bring the raw objects back (a backup, an older version, a restore from an "
        "archive class, permissions); if the loss is intended, run the day with `allow_shrink: true`. `wrm doctor` "
        "lists them"
    ),
    "partition_files_are_ours": (
        "Find out what else writes to the lake. `wrm rebuild --dry-run` reports what would happen to each file; those "
        "that it leaves alone hold rows that ours lacks, or cannot be read"
    ),
    "flag_shares_are_usual": "Look at the samples, and at the feed itself; the rows are published and flagged",
    "record_types_are_known": "Look at the samples: the feed may have a new kind of id or name",
    "no_rule_fires_more_than_usual": "`quality_rule_hits` has 20 of the rows, `quality_rules` explains the rules",
    "distributions_are_usual": (
        "Compare `distribution` in `quality_profile` with the days before; the feed or the city may have changed"
    ),
    "bikes_at_stations_are_as_counted": (
        "Compare `bikes` with the bikes that the raw object of a sample lists (`wrm trace`); if the feed lists each "
        "bike, `wrm rebuild --from DAY --to DAY` makes both tables again"
    ),
    "anomalies_are_few": "`quality_anomalies` says what was seen where; many at once point to the feed",
}
# These concern now or the newest day, whichever day the run is for.
_OF_NO_PARTITION = frozenset(
    key.name
    for check in (
        *feed.CHECKS,
        *feeds.CHECKS,
        *lake.CHECKS,
        *published.CHECKS,
        *clock.CHECKS,
        *quality.CHECKS,
        *positions.CHECKS,
        *spool.CHECKS,
    )
    for key in check.check_keys
)

ReadRun = Callable[[dg.DagsterInstance, dg.RunRecord], Sequence[Outcome]]


@dataclass(slots=True)
class AlertCursor:
    """A sensor's state between two ticks, kept in its cursor.

    Attributes:
        until: Runs last updated up to this time have been read.
        seen: End times of recently read runs, by the first part of their ids.
        incidents: Open incidents.
    """

    until: float
    seen: dict[str, float] = field(default_factory=dict)
    incidents: Incidents = field(default_factory=Incidents)

    @classmethod
    def from_cursor(cls, cursor: str | None, now: float) -> "AlertCursor":
        """Read back; a cursor of another version, or an invalid one, counts as the first tick.

        One from the future, left by a clock that was ahead, continues from now.
        """
        try:
            content = json.loads(cursor or "")
            until, seen, incidents = content["until"], content["seen"], Incidents(content["incidents"])
            if is_time(until) and all(map(is_time, seen.values())) and incidents.are_sound():
                incidents.not_later_than(now)
                return cls(min(max(until, now - LONGEST_LOOK_BACK_S), now), seen, incidents)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        return cls(now - FIRST_LOOK_BACK_S)

    def to_cursor(self) -> str:
        """A few kB with some open incidents; bounded."""
        content = {"until": self.until, "seen": self.seen, "incidents": self.incidents.to_json()}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def collect_outcomes(
    instance: dg.DagsterInstance, cursor: AlertCursor, read: ReadRun, *, now: float | None = None
) -> int:
    """Take newly ended runs into account; returns their number. End times in the future count as `now`."""
    now = time.time() if now is None else now
    records = ended_runs(instance, cursor.until, cursor.seen, _ENDINGS, RUNS_PER_TICK)
    forget_before = cursor.until - REMEMBERED_S
    outcomes: list[Outcome] = []
    for record in records:
        if ended_at(record) >= forget_before:
            outcomes += read(instance, record)
        cursor.seen[short_id(record)] = remembered_at(record)
        cursor.until = max(cursor.until, seen_until(record, now))
    for outcome in sorted(outcomes, key=lambda outcome: outcome.at):
        cursor.incidents.observe(replace(outcome, at=min(outcome.at, now)))
    cursor.seen = {run: at for run, at in cursor.seen.items() if at >= cursor.until - REMEMBERED_S}
    return len(records)


def send_notifications(
    cursor: AlertCursor, channels: Mapping[str, Callable[[str], None]], *, now: float, ui_url: str
) -> tuple[int, str]:
    """Send the messages due on each channel; returns how many were delivered, and why the others were not."""
    delivered, trouble = 0, []
    until = time.monotonic() + SENDING_S
    for channel, post in channels.items():
        for message in cursor.incidents.to_report(now, ui_url, channel)[:MESSAGES_PER_TICK]:
            if time.monotonic() > until:
                break
            try:
                post(message.text)
            except ExternalError as error:
                trouble.append(f"{channel}: {error}")
                if isinstance(error, TransientError):
                    break
            else:
                cursor.incidents.reported(message, now, channel, list(channels))
                delivered += 1
    return delivered, "; ".join(dict.fromkeys(trouble))


# --- the outcome of an ended run ------------------------------------------------------------------------------------


def run_outcomes(instance: dg.DagsterInstance, record: dg.RunRecord) -> list[Outcome]:
    """Whether a run succeeded.

    Empty if it is retried automatically, or failed because of something that a check reports: a blocking check, or that
    of the feed.
    """
    run = record.dagster_run
    # The tables of now: that an older day's run failed is over when any run succeeds.
    partition = "" if run.job_name == wrm_analytics_job.name else run.tags.get("dagster/partition", "")
    outcome = partial(Outcome, _job(run), ended_at(record), run.run_id, partition)
    if run.status == dg.DagsterRunStatus.SUCCESS:
        return [outcome()]
    if run.tags.get("dagster/will_retry") == "true":
        return []
    events = _events(instance, run, EventType.STEP_FAILURE, EventType.RUN_FAILURE, EventType.ASSET_CHECK_EVALUATION)
    if any(_stopped_the_run(event) or _is_reported_by_check(event) for event in events):
        return []
    return [outcome(_failure(events))]


def check_outcomes(instance: dg.DagsterInstance, record: dg.RunRecord) -> list[Outcome]:
    """The results of the checks that a run evaluated."""
    run = record.dagster_run
    outcomes = []
    for event in _events(instance, run, EventType.ASSET_CHECK_EVALUATION):
        found = event.asset_check_evaluation_data
        if not found.passed and EXPLAINED_BY in found.metadata:
            continue  # another check reports the cause
        asset = found.asset_key.to_user_string()
        if found.check_name == FEEDS_CHECK:
            outcomes += feed_outcomes(found, ended_at(record), run.run_id)
            continue
        failure = None
        if not found.passed:
            failure = Failure(
                cause="",
                error=redact(first_line(found.description or f"{found.check_name} does not hold")),
                place=asset,
                remedy=CHECK_REMEDIES.get(found.check_name, LOOK_AT_CHECK),
                severe=found.severity is dg.AssetCheckSeverity.ERROR,
                words=("does not hold", "holds again"),
            )
        partition = "" if found.check_name in _OF_NO_PARTITION else run.tags.get("dagster/partition", "")
        scope = f"Check {found.check_name} of {asset}"
        outcomes.append(Outcome(scope, ended_at(record), run.run_id, partition, failure))
    return outcomes


def feed_outcomes(found: Any, at: float, run_id: str) -> list[Outcome]:
    """One for each feed and verdict: a feed that was frozen and is now of another city is two incidents."""
    outcomes = []
    for name, (verdict, reason) in json.loads(str(found.metadata[VERDICTS].value)).items():
        for kind in HEALTH_KINDS:
            failure = None
            if kind == verdict:
                failure = Failure(
                    cause="",
                    error=redact(first_line(reason)),
                    place=f"feed {name}",
                    remedy=CHECK_REMEDIES[FEEDS_CHECK],
                    severe=False,
                    words=("has begun", "is over"),
                )
            outcomes.append(Outcome(f"Feed {name}: {kind.replace('_', ' ')}", at, run_id, "", failure))
    return outcomes


def _job(run: dg.DagsterRun) -> str:
    if not run.job_name.startswith("__"):
        return run.job_name
    names = sorted(key.to_user_string() for key in run.asset_selection or ())
    return f"Materialization of {', '.join(names[:3]) or 'assets'}{' …' if len(names) > 3 else ''}"


def _events(instance: dg.DagsterInstance, run: dg.DagsterRun, *kinds: EventType) -> list[dg.DagsterEvent]:
    entries = instance.all_logs(run.run_id, of_type=set(kinds))
    return [entry.dagster_event for entry in entries if entry.dagster_event is not None]


def _stopped_the_run(event: dg.DagsterEvent) -> bool:
    if event.event_type is not EventType.ASSET_CHECK_EVALUATION:
        return False
    found = event.asset_check_evaluation_data
    return bool(found.blocking and not found.passed and found.severity is dg.AssetCheckSeverity.ERROR)


def _is_reported_by_check(event: dg.DagsterEvent) -> bool:
    if event.event_type is not EventType.STEP_FAILURE:
        return False
    error = cause_of(event.step_failure_data.error)
    return error is not None and error.cls_name == "FeedDriftedError"


def _failure(events: Sequence[dg.DagsterEvent]) -> Failure:
    for event in events:
        if event.event_type is EventType.STEP_FAILURE:
            error = event.step_failure_data.error
            return _step_failure(event.step_key or "", error, event.message or "")
    message = next((event.message or "" for event in events), "")
    line = redact(first_line(message or "The run failed and left no message."))
    return Failure(without_variable_parts(line), line, "no step", NO_STEP_REMEDY)


def _step_failure(step: str, error: Any, message: str) -> Failure:
    error = cause_of(error)
    name = (error.cls_name if error else None) or "Error"
    line = redact(first_line(error.message if error else message))
    place = f"step {step}"
    if name in _names_of_outside_errors():
        # An outage shows in many ways: time-outs, refusals, then an open circuit. It is one cause.
        target = line.removeprefix(f"{name}: ").split(maxsplit=1)[0]
        remedy = REMEDIES.get(name) or OUTSIDE_REMEDIES.get(target, READ_RUN)
        return Failure(f"outside {target}", line, place, remedy)
    return Failure(f"{step} {name} {without_variable_parts(line)}", line, place, REMEDIES.get(name, READ_RUN))


def _names_of_outside_errors() -> frozenset[str]:
    def below(kind: type[ExternalError]) -> Iterable[str]:
        yield kind.__name__
        for child in kind.__subclasses__():
            yield from below(child)

    return frozenset(below(ExternalError))


# --- sensors ---------------------------------------------------------------------------------------------------


def _tick(
    context: dg.SensorEvaluationContext, alerts: AlertsResource, read: ReadRun
) -> dg.SensorResult | dg.SkipReason:
    channels = alerts.channels()
    if not channels:
        return dg.SkipReason("There is no channel: neither WRM_ALERT_WEBHOOK_URL nor WRM_MAIL_TO is set.")
    now = time.time()
    cursor = AlertCursor.from_cursor(context.cursor, now)
    runs = collect_outcomes(context.instance, cursor, read, now=now)
    delivered, trouble = send_notifications(cursor, channels, now=now, ui_url=alerts.ui_url)
    if trouble:
        context.log.warning("An alert could not be sent and is sent later: %s", trouble)
    summary = f"{runs} runs ended; {delivered} messages sent."
    return dg.SensorResult(skip_reason=summary, cursor=cursor.to_cursor())


@dg.sensor(
    name="wrm_run_alerts_sensor",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Posts to the webhook (WRM_ALERT_WEBHOOK_URL) and by mail (WRM_MAIL_TO) when runs begin to fail, once per "
        "cause, and when that is over: what failed, the first line of the error, a link, what to try."
    ),
)
def wrm_run_alerts_sensor(
    context: dg.SensorEvaluationContext, alerts: AlertsResource
) -> dg.SensorResult | dg.SkipReason:
    """Runs that failed, and runs that succeeded again."""
    return _tick(context, alerts, run_outcomes)


@dg.sensor(
    name="wrm_check_alerts_sensor",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Posts to the webhook (WRM_ALERT_WEBHOOK_URL) and by mail (WRM_MAIL_TO) when an asset check no longer holds, "
        "once per check, and when it holds again."
    ),
)
def wrm_check_alerts_sensor(
    context: dg.SensorEvaluationContext, alerts: AlertsResource
) -> dg.SensorResult | dg.SkipReason:
    """Checks that do not hold, and checks that hold again."""
    return _tick(context, alerts, check_outcomes)
