"""Tells a person about runs that fail and checks that do not hold: once when it begins, once when it is over.

Both sensors look at the runs that ended since the last tick, successes included: that is how they know that something
is over. What is open is in the sensor's cursor. A message counts as told when the webhook took it, so one that could
not be sent is sent by a later tick, and nothing else waits for it.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import dagster as dg
from dagster import DagsterEventType as EventType

from wrm_pipeline.checks import clock, feed, lake, published, quality, spool
from wrm_pipeline.checks.feed import EXPLAINED_BY
from wrm_pipeline.clients.errors import ExternalError, TransientError
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

# At the first tick, so that whoever sets the webhook hears at once of what fails now; and after a long pause.
FIRST_LOOK_BACK_S = 600.0
LONGEST_LOOK_BACK_S = 24 * 3600.0
_ENDINGS = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE)
RUNS_PER_TICK = 200
# Of at most 15 s each: a tick is cut off after 60 s.
MESSAGES_PER_TICK = 3

READ_RUN = "Open the run: its first red step has the whole error. When the cause is gone, use Re-execute from there"
LOOK_AT_CHECK = "Open the asset's Checks tab: the result's metadata has counts, thresholds and samples"

# What to try, by the class of the error; else by the outside system that it is about.
REMEDIES = {
    "PartitionWouldShrinkError": (
        "Look for raw objects that are gone or unreadable. If the loss is meant, run the day with `allow_shrink: true`"
    ),
    "UnreadablePartitionError": "The next run of the day builds it again; see who else writes to the lake",
    "ObjectArchivedError": "Restore the object from its archive storage class, and see to the bucket's lifecycle rules",
    "AccountingError": "A fault of the program; nothing was published. Keep the raw objects and the log, and report it",
    "StorageFullError": "Make room on the disk or in the bucket; what could not be stored is tried again by itself",
    "StorageDeniedError": "Correct the credentials or rights of the object store; `wrm doctor` tries them",
    "SettingsError": "Correct the variable that the error names, and restart the services",
    "Failure": "Open the run: the step's error says what came instead, and where it is kept",
}
OUTSIDE_REMEDIES = {
    "feed": (
        "Open the feed's URL. If it is down, wait: it is asked each minute. Minutes that were missed cannot be fetched "
        "later"
    ),
    "s3": "Run `wrm doctor`. Snapshots wait in the local spool meanwhile and are delivered by themselves",
    "vault": "Run `wrm doctor`. Is Vault sealed, or has the secret id run out? Snapshots wait in the local spool",
}
NO_STEP_REMEDY = (
    "The run's process ended without an error of a step: look for out-of-memory kills (`journalctl -k`), a restart, "
    "a full disk. Then run it again"
)
CHECK_REMEDIES = {
    "today_is_fresh": (
        "See whether wrm_stations_ingest_job and wrm_stations_processing_job run and succeed, and whether the daemon "
        "is up (`Deployment` in the UI)"
    ),
    "clock_was_not_ahead": (
        "Nothing, if nothing waits: it ends by itself when that time has come. Else `wrm repair-clock --apply`, and "
        "restart the daemon. See why the clock was wrong (`timedatectl`, `journalctl -u systemd-timesyncd`); snapshots "
        "of that time are listed by `wrm doctor`, and `wrm raw move-future --apply` sets them right"
    ),
    "enhanced_files_are_readable": (
        "`wrm rebuild --from DAY --to DAY` makes the day's file again; see who else writes to the lake"
    ),
    "row_count_is_usual": "Compare the days in the result's samples; look for gaps between the day's raw snapshots",
    "feed_format_is_read": (
        "Nothing is lost: bodies are in raw/ and quarantine/, rows in dlq/. `wrm doctor` shows what changed; when a "
        "release reads it, `wrm dlq replay --drift` publishes all of it"
    ),
    "dead_letters_are_readable": (
        "`wrm dlq list --status unreadable` names them, `wrm dlq show ID` says why. Correct the object, or take it out "
        "of the queue with `wrm dlq discard ID --reason '…'`. Nothing else is held up by it"
    ),
    "spool_is_readable": (
        "`wrm doctor` names the files. Correct the owner or mode of a snapshot and move it from `unreadable/` back "
        "into the spool; remove what is not one. Nothing is held up by them"
    ),
    "dead_letter_share_is_low": "`wrm dlq list` shows what was refused and why; the feed's format may have changed",
    "raw_objects_are_all_there": (
        "Their rows are still published. Bring the raw objects back (a backup, an older version, a restore from an "
        "archive class, rights); if the loss is meant, run the day with `allow_shrink: true`. `wrm doctor` names them"
    ),
    "partition_files_are_ours": (
        "See who else writes to the lake. `wrm rebuild --dry-run` says of each file what would become of it; what it "
        "leaves alone holds rows that ours lacks, or cannot be read"
    ),
    "flag_shares_are_usual": "Look at the samples, and at the feed itself; the rows are published and flagged",
    "record_types_are_known": "Look at the samples: the feed may have a new kind of id or name",
    "no_rule_fires_more_than_usual": "`quality_rule_hits` has 20 of the rows, and `quality_rules` says what they mean",
    "distributions_are_usual": (
        "Compare `distribution` in `quality_profile` with the days before; the feed or the city may have changed"
    ),
    "anomalies_are_few": "`quality_anomalies` says what was seen at which station; many at once are the feed's fault",
}
# These are about now or the newest day, whichever day the run is about.
_OF_NO_PARTITION = frozenset(
    key.name
    for check in (
        *feed.CHECKS,
        *lake.CHECKS,
        *published.CHECKS,
        *clock.CHECKS,
        *quality.CHECKS,
        *spool.CHECKS,
    )
    for key in check.check_keys
)

ReadRun = Callable[[dg.DagsterInstance, dg.RunRecord], Sequence[Outcome]]


@dataclass(slots=True)
class AlertCursor:
    """What a sensor knows between two ticks; its cursor.

    Attributes:
        until: Runs were read up to this time of their last update.
        seen: When runs ended that were read lately, by the first part of their ids.
        incidents: Those that are open.
    """

    until: float
    seen: dict[str, float] = field(default_factory=dict)
    incidents: Incidents = field(default_factory=Incidents)

    @classmethod
    def from_cursor(cls, cursor: str | None, now: float) -> "AlertCursor":
        """Read back; a cursor of another version, or one that is not ours, counts as a first look.

        One from the future, where a clock that was ahead has left it, goes on from now.
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
        """A few kB with some incidents open; bounded."""
        content = {"until": self.until, "seen": self.seen, "incidents": self.incidents.to_json()}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def collect_outcomes(
    instance: dg.DagsterInstance, cursor: AlertCursor, read: ReadRun, *, now: float | None = None
) -> int:
    """Take the runs that ended since into account; gives their number. What ended later than `now` ended now."""
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


def send_notifications(cursor: AlertCursor, post: Callable[[str], None], *, now: float, ui_url: str) -> tuple[int, str]:
    """Send what is due; gives how many messages were delivered, and why the others were not."""
    delivered, trouble = 0, ""
    for message in cursor.incidents.to_tell(now, ui_url)[:MESSAGES_PER_TICK]:
        try:
            post(message.text)
        except ExternalError as error:
            trouble = str(error)
            if isinstance(error, TransientError):
                break
        else:
            cursor.incidents.told(message, now)
            delivered += 1
    return delivered, trouble


# --- what an ended run says ------------------------------------------------------------------------------------


def run_outcomes(instance: dg.DagsterInstance, record: dg.RunRecord) -> list[Outcome]:
    """Whether a run succeeded.

    Nothing where it is tried again by itself, or failed for what a check tells: a blocking one, or that of the feed.
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
    if any(_stopped_the_run(event) or _is_told_by_check(event) for event in events):
        return []
    return [outcome(_failure(events))]


def check_outcomes(instance: dg.DagsterInstance, record: dg.RunRecord) -> list[Outcome]:
    """What the checks found that a run evaluated."""
    run = record.dagster_run
    outcomes = []
    for event in _events(instance, run, EventType.ASSET_CHECK_EVALUATION):
        found = event.asset_check_evaluation_data
        if not found.passed and EXPLAINED_BY in found.metadata:
            continue  # another check tells of the cause
        asset = found.asset_key.to_user_string()
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


def _is_told_by_check(event: dg.DagsterEvent) -> bool:
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
        # An outage has many faces: time-outs, refusals, then an open circuit. It is one cause.
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
    if not alerts.possible:
        return dg.SkipReason("There is no webhook to tell: WRM_ALERT_WEBHOOK_URL is not set.")
    now = time.time()
    cursor = AlertCursor.from_cursor(context.cursor, now)
    runs = collect_outcomes(context.instance, cursor, read, now=now)
    delivered, trouble = send_notifications(cursor, alerts.post, now=now, ui_url=alerts.ui_url)
    if trouble:
        context.log.warning("An alert waits for the webhook, and is sent later: %s", trouble)
    told = f"{runs} runs ended; {delivered} messages sent."
    return dg.SensorResult(skip_reason=told, cursor=cursor.to_cursor())


@dg.sensor(
    name="wrm_run_alerts_sensor",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Posts to the webhook (WRM_ALERT_WEBHOOK_URL) when runs begin to fail, once for each cause, and when that is "
        "over: what failed, the first line of the error, a link, what to try."
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
        "Posts to the webhook (WRM_ALERT_WEBHOOK_URL) when an asset check no longer holds, once for each check, and "
        "when it holds again."
    ),
)
def wrm_check_alerts_sensor(
    context: dg.SensorEvaluationContext, alerts: AlertsResource
) -> dg.SensorResult | dg.SkipReason:
    """Checks that do not hold, and checks that hold again."""
    return _tick(context, alerts, check_outcomes)
