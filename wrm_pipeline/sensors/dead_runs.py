"""Ends runs whose process is gone: a power cut, out of memory, `kill -9`.

Otherwise such a run would stay in progress, and keep its slots in the pools, until `max_runtime_seconds` have passed;
while one holds the pool `ingest`, no snapshot is taken for a quarter of an hour.
"""

import json
import socket

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

INTERVAL_S = 30
# Clocks of the log and of the kernel differ by rounding; a process starts before the event with its process id.
_CLOCKS_DIFFER_S = 2.0


@dg.sensor(
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Marks runs whose process is gone (power cut, out of memory, `kill -9`) as failed, so that Dagster retries "
        "them and their slots in the pools are free. Runs of other machines are left alone."
    ),
)
def wrm_dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Check every run in progress."""
    ended = end_dead_runs(context.instance)
    if not ended:
        return dg.SkipReason("Each run in progress has its process.")
    names = ", ".join(f"{run.job_name} {run.run_id[:8]}" for run in ended)
    context.log.warning("The processes of these runs are gone; marked as failed: %s", names)
    return dg.SkipReason(f"Marked as failed, as their processes are gone: {names}.")


def end_dead_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark runs whose process on this machine is gone as failed (or canceled, if requested); returns them.

    A run whose process id is not known yet is left to the daemon (`start_timeout_seconds`).
    """
    in_progress = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    )
    ended = []
    for run in instance.get_runs(in_progress):
        if not _is_child_of_code_server(run) or _has_process(instance, run):
            continue
        # It may have ended in between.
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
    """Other launchers (Celery, Kubernetes) have no such tag, and their processes are elsewhere.

    A container is called by its own name, and of two code servers each sees its own processes only.
    """
    address = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return "socket" in address or address.get("host") in {"localhost", "127.0.0.1", socket.gethostname()}


def _has_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether one of the processes that it was given lives; True as well if one has yet to say its id.

    A run has several if its code server was killed while it launched it: the daemon could not know whether it did, and
    launched the run again. Whichever process comes second sees that, and ends.
    """
    kinds = {dg.DagsterEventType.ENGINE_EVENT, dg.DagsterEventType.PIPELINE_STARTING}
    launches, processes = 0, []
    for record in instance.get_records_for_run(run.run_id, of_type=kinds).records:
        entry = record.event_log_entry
        event = entry.get_dagster_event()
        if event.event_type is dg.DagsterEventType.PIPELINE_STARTING:
            launches += 1
        elif (pid := event.engine_event_data.metadata.get("pid")) is not None:
            processes.append((int(str(pid.value)), entry.timestamp))
    is_awaited = not processes or (run.status is dg.DagsterRunStatus.STARTING and len(processes) < launches)
    return is_awaited or any(_lives(pid, said_at) for pid, said_at in processes)


def _lives(pid: int, said_at: float) -> bool:
    """Whether this is still the process that said its id at this time."""
    import psutil  # takes 20 ms, and usually no run is in progress

    try:
        process = psutil.Process(pid)
        # A process id may have been reused, above all after a restart of the machine.
        same = process.create_time() <= said_at + _CLOCKS_DIFFER_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # denied: the id now belongs to another account
        return False
