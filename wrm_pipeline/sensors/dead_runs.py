"""Ends runs whose process is gone: a power cut, out of memory, `kill -9`.

Without it such a run stays in progress, and keeps its places in the pools, until `max_runtime_seconds` have passed;
while one held the pool `ingest`, no snapshot was taken for a quarter of an hour.
"""

import json

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

INTERVAL_S = 30
# Clocks of the log and of the kernel differ by rounding; a process starts before the event that tells its number.
_CLOCKS_DIFFER_S = 2.0


@dg.sensor(
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Marks runs as failed whose process is gone (power cut, out of memory, `kill -9`), so that Dagster repeats "
        "them and their places in the pools are free. Runs of other machines are left alone."
    ),
)
def wrm_dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Look at every run in progress."""
    ended = end_dead_runs(context.instance)
    if not ended:
        return dg.SkipReason("Each run in progress has its process.")
    names = ", ".join(f"{run.job_name} {run.run_id[:8]}" for run in ended)
    context.log.warning("The processes of these runs are gone; marked as failed: %s", names)
    return dg.SkipReason(f"Marked as failed, as their processes are gone: {names}.")


def end_dead_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark runs as failed (canceled, if that was asked for) whose process of this machine is gone; returns them.

    A run whose process has not told its number yet is the daemon's own business (`start_timeout_seconds`).
    """
    in_progress = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    )
    ended = []
    for run in instance.get_runs(in_progress):
        if not _is_child_of_code_server(run) or _has_process(instance, run.run_id):
            continue
        # Its last word may have come in between.
        latest = instance.get_run_by_id(run.run_id)
        if latest is None or latest.is_finished:
            continue
        if latest.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(latest, "Its process is gone.")
        else:
            instance.report_run_failed(latest, "Its process is gone: out of memory, killed, or the machine restarted.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        ended.append(run)
    return ended


def _is_child_of_code_server(run: dg.DagsterRun) -> bool:
    """Other launchers (Celery, Kubernetes) have no such tag, and their processes are elsewhere."""
    address = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return "socket" in address or address.get("host") in {"localhost", "127.0.0.1"}


def _has_process(instance: dg.DagsterInstance, run_id: str) -> bool:
    import psutil  # 20 ms, and mostly no run is in progress

    events = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records
    for event in events:
        dagster_event = event.event_log_entry.dagster_event
        pid = dagster_event.engine_event_data.metadata.get("pid") if dagster_event else None
        if pid is None:
            continue
        try:
            process = psutil.Process(int(str(pid.value)))
            # A number may have been given again, after a restart of the machine above all.
            same = process.create_time() <= event.event_log_entry.timestamp + _CLOCKS_DIFFER_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # denied: the number is another account's by now
            return False
    return True
