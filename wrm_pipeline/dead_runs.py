"""Runs whose processes are gone, found by the code server that they were children of.

Dagster notices a killed run only after `max_runtime_seconds`; until then it holds its place in the pools, and with the
pool `ingest` held no snapshot is taken. A code server that starts anew knows better: its unit has ended all processes
of its predecessor, so whatever is still in progress at its socket is dead.
"""

import json
import time
from pathlib import Path

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

# A run that is being handed to a code server is in progress before its process is there. If the server dies just then,
# the daemon sees the call fail and marks the run itself; a handover takes seconds.
HANDOVER_S = 60.0


def end_dead_runs(instance: dg.DagsterInstance, code_socket: Path, since: float) -> list[dg.DagsterRun]:
    """Mark as failed what a former server left in progress; returns those runs.

    That is what began before `since` (Unix time), when the server was started that listens at `code_socket` now, and
    what is in progress at the socket of a unit that is no more. Dagster then retries them, as it does with crashed
    runs, and their places in the pools are free.
    """
    ended = []
    in_progress = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    )
    for record in instance.get_run_records(in_progress):
        run = record.dagster_run
        address = json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("socket")
        # The socket's folder is the unit's RuntimeDirectory, which systemd removes when the unit has ended. A server
        # that waits for its last runs no longer listens, but has its folder.
        if address is None or (Path(address) != code_socket and Path(address).parent.is_dir()):
            continue
        if Path(address) == code_socket and (record.start_time or 0) >= since:
            continue
        if (
            run.status is dg.DagsterRunStatus.STARTING
            and time.time() - record.update_timestamp.timestamp() < HANDOVER_S
        ):
            continue
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "Its process ended with the code server.")
        else:
            instance.report_run_failed(run, "Its process is gone: the code server was killed or the machine restarted.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        ended.append(run)
    return ended
