"""Requests runs when raw data has arrived or was missed, and when there is new enhanced data."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from wrm_pipeline.assets.duckdb.materialized_views import create_materialized_views
from wrm_pipeline.assets.stations.enhanced_all import wrm_stations_enhanced_data_all
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.retry import SENSOR_POLICY
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.flows.watch import RunPlan, plan_new_data_runs, plan_reconciliation_runs
from wrm_pipeline.jobs.processing import wrm_analytics_job, wrm_daily_analytics_job, wrm_stations_processing_job
from wrm_pipeline.lake.findings import LakeFindings
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.partitions import RANGE_END, RANGE_START, range_tags, spans_of
from wrm_pipeline.resources.lake import LakeResource

# The tables and the map follow new data at this interval: a run a minute would keep a small machine busy with process
# starts. The views show new data at once.
ANALYTICS_INTERVAL_S = 300

# Queued runs count, too: they include what arrives while they wait, so no further runs must queue up behind them.
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_TO_COME = [dg.DagsterRunStatus.NOT_STARTED]

_READERS = {wrm_analytics_job.name, wrm_daily_analytics_job.name}
# Of a tick: a year of days that were built again, or a minute's run for hours in which no table was made.
MAX_EVENTS = 1000


@dg.sensor(
    name="wrm_stations_raw_data_sensor",
    job=wrm_stations_processing_job,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a run for each day that has new raw objects; one listing per tick.",
)
def wrm_stations_raw_data_sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
    """The fast check: objects beyond the cursor."""
    now = datetime.now(UTC)
    plan = plan_new_data_runs(
        lake.connect(SENSOR_POLICY),
        lake.layout,
        context.cursor,
        today=local_date(now),
        started=_days(context, _UNDER_WAY),
        now=now,
    )
    return _result(context, lake.layout, plan)


@dg.sensor(
    name="wrm_stations_reconciliation_sensor",
    job=wrm_stations_processing_job,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Compares days with what their published partitions record, and requests missing runs: for late, older, "
        "rewritten or removed raw objects, corrected dead letters, failed runs."
    ),
)
def wrm_stations_reconciliation_sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
    """The thorough check: a few days at a time."""
    store, layout = lake.connect(SENSOR_POLICY), lake.layout
    now = datetime.now(UTC)
    plan = plan_reconciliation_runs(
        store,
        layout,
        context.cursor,
        area=lake.area,
        strict=lake.settings.strict,
        now=now,
        today=local_date(now),
        started=_days(context, [*_UNDER_WAY, *_TO_COME]),
    )
    try:
        LakeFindings(store, layout).update(plan.compared, plan.days)
    except ExternalError as error:
        context.log.warning("Findings about days of the lake could not be stored; the next tick stores them: %s", error)
    return _result(context, layout, plan)


@dg.sensor(
    name="wrm_analytics_sensor",
    jobs=[wrm_analytics_job, wrm_daily_analytics_job],
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        f"Requests {wrm_analytics_job.name} after new enhanced data, at most every {ANALYTICS_INTERVAL_S} s; of the "
        f"daily tables it makes the newest day. Other days that changed meanwhile are left to "
        f"{wrm_daily_analytics_job.name}."
    ),
)
def wrm_analytics_sensor(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    """New enhanced data since the last tables, and enough time."""
    enhanced = context.instance.get_latest_materialization_event(wrm_stations_enhanced_data_all.key)
    if enhanced is None:
        return dg.SkipReason("Nothing is enhanced yet.")
    latest = str(enhanced.timestamp)
    if latest == context.cursor:
        return dg.SkipReason("No enhanced data since the last run.")
    if context.instance.get_runs(
        dg.RunsFilter(job_name=wrm_analytics_job.name, statuses=[*_UNDER_WAY, *_TO_COME]), limit=1
    ):
        return dg.SkipReason("A run is in progress.")
    # Not of the daily tables: their history is built at any time.
    tables = context.instance.get_latest_materialization_event(create_materialized_views.key)
    # A negative age stems from a clock that was ahead.
    if tables is not None and 0 <= datetime.now(UTC).timestamp() - tables.timestamp < ANALYTICS_INTERVAL_S:
        return dg.SkipReason(f"The tables are younger than {ANALYTICS_INTERVAL_S} s.")
    partitions = PublishedPartitions(lake.connect(SENSOR_POLICY), lake.layout)
    newest = partitions.newest("enhanced", without=lake.days_left_out)
    request = dg.RunRequest(
        run_key=f"analytics:{latest}",
        job_name=wrm_analytics_job.name,
        partition_key=str(newest) if newest and _is_partition(lake, newest) else None,
    )
    changed = _changed_days(context, lake) - {newest}
    daily = [_daily_request(first, last, latest) for first, last in spans_of(changed)]
    return dg.SensorResult(run_requests=[request, *daily], cursor=latest)


def _is_partition(lake: LakeResource, day: date) -> bool:
    return not lake.layout.not_a_partition(day, local_date(datetime.now(UTC)))


def _changed_days(context: dg.SensorEvaluationContext, lake: LakeResource) -> set[date]:
    """Days that were enhanced since the cursor; none at the first tick, which has no start time."""
    try:
        since = float(context.cursor or "")
    except ValueError:
        return set()
    found = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(wrm_stations_enhanced_data_all.key, after_timestamp=since), limit=MAX_EVENTS
    )
    days = set()
    for record in found.records:
        made = record.asset_materialization
        unchanged = made is None or (made.metadata.get("unchanged") or dg.MetadataValue.bool(False)).value is True
        day = folder_date(f"dt={record.partition_key}")
        if day is not None and not unchanged and _is_partition(lake, day):
            days.add(day)
    return days


def _daily_request(first: date, last: date, latest: str) -> dg.RunRequest:
    """A run of one day, or of several consecutive days."""
    run_key, job_name = f"daily:{latest}:{first}", wrm_daily_analytics_job.name
    if first == last:
        return dg.RunRequest(run_key=run_key, job_name=job_name, partition_key=str(first))
    return dg.RunRequest(run_key=run_key, job_name=job_name, tags=range_tags(first, last))


def _days(context: dg.SensorEvaluationContext, statuses: list[dg.DagsterRunStatus]) -> frozenset[date]:
    """Days that a run in one of these states builds, alone or within a range; not those of runs that only read them."""
    days: set[date] = set()
    for run in context.instance.get_runs(dg.RunsFilter(statuses=statuses)):
        if run.job_name in _READERS:
            continue
        only = run.tags.get("dagster/partition", "")
        first = folder_date(f"dt={run.tags.get(RANGE_START, only)}")
        last = folder_date(f"dt={run.tags.get(RANGE_END, only)}")
        if first is not None and last is not None:
            days.update(first + timedelta(days=n) for n in range((last - first).days + 1))
    return frozenset(days)


def _result(context: dg.SensorEvaluationContext, layout: Layout, plan: RunPlan) -> dg.SensorResult:
    today = local_date(datetime.now(UTC))
    for key in plan.unknown_keys:
        dt = folder_date(key.removeprefix(layout.raw_prefix).partition("/")[0])
        why = layout.not_a_partition(dt, today) if dt else ""
        context.log.warning("Not processed: %s: %s", key, why or "it is not a snapshot of any day")
    if plan.waiting:
        context.log.info("Waiting for the run in progress: %s", ", ".join(map(str, plan.waiting)))
    runs = [dg.RunRequest(run_key=run.run_key, partition_key=run.dt.isoformat()) for run in plan.runs]
    unknown = f" {len(plan.unknown_keys)} key(s) of unknown dates were left alone." if plan.unknown_keys else ""
    reason = None if runs else f"Nothing new.{unknown}"
    return dg.SensorResult(run_requests=runs, cursor=plan.cursor, skip_reason=reason)
