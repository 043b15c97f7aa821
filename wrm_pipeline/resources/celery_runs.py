"""Runs on other machines, by way of Celery, beside those at home.

In dagster.yaml (docs/scaling.md has the whole set-up)::

    run_launcher:
      module: wrm_pipeline.resources.celery_runs
      class: HomeOrCeleryRunLauncher
      config:
        broker: {env: WRM_CELERY_BROKER}
        backend: {env: WRM_CELERY_BACKEND}

A Dagster instance has one launcher, so this one is two: `WarmRunLauncher` for what needs this machine's spool or
database, and `dagster_celery`'s launcher for what `queue_of` sends out.

Three things are different from `dagster_celery`'s own. A run that is asked to stop is canceled, not failed, since
Dagster is told before. A worker that is gone is noticed: its task counts as started for ever, so the worker is asked.
And a task that failed before Dagster found its run, as on a worker with another storage, is quoted in the run's events
when its time to start is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import dagster as dg
from celery.result import AsyncResult
from dagster._config import UserConfigSchema
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG, DAGSTER_CELERY_TASK_ID_TAG

from wrm_pipeline.domain import asset_names
from wrm_pipeline.resources.warm_runs import WarmRunLauncher

HOME = "home"
"""As `dagster-celery/queue`: no queue, but a process of the code server."""

# Built from raw objects into objects: on any machine, and twice if need be.
_BUILT_ANYWHERE = {dg.AssetKey(asset_names.PROCESSED), dg.AssetKey(asset_names.ENHANCED)}

# A worker answers within milliseconds, whatever its runs do; if not, it has died or its machine is out of reach.
ANSWER_S = 5.0


def queue_of(run: dg.DagsterRun, default: str) -> str | None:
    """The queue that a run goes to; None for one that stays at home.

    The tag `dagster-celery/queue` decides (`home` keeps a run here); without it, backfills of the processed and
    enhanced layers go to the queue `default`. It depends on what a run keeps for life, so it is the same each time.
    """
    if tagged := run.tags.get(DAGSTER_CELERY_QUEUE_TAG):
        return None if tagged == HOME else tagged
    built_anywhere = bool(run.asset_selection) and _BUILT_ANYWHERE.issuperset(run.asset_selection or ())
    return default if built_anywhere and BACKFILL_ID_TAG in run.tags else None


class HomeOrCeleryRunLauncher(WarmRunLauncher):
    """Backfills of processing, and runs with a queue, on Celery's workers; all others are forked here."""

    def __init__(self, celery: CeleryRunLauncher, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._celery = celery

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """As `CeleryRunLauncher`."""
        return CeleryRunLauncher.config_type()

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Opens no connection."""
        return cls(CeleryRunLauncher(**config_value), inst_data)

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """For both."""
        super().register_instance(instance)
        self._celery.register_instance(instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Pass the run to the broker, or have the code server fork it."""
        if self._goes_out(context.dagster_run):
            self._celery.launch_run(context)
        else:
            super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Ask a run to stop; False if it has ended, or there is nobody to ask."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not self._goes_out(run):
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        return self._celery.terminate(run_id)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether run monitoring asks `check_run_worker_health`."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether a run's worker is still at it. The code server and wrm_dead_runs_sensor look after runs at home."""
        if not self._goes_out(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        health = self._celery.check_run_worker_health(run)
        if health.status is not WorkerStatus.RUNNING:
            return health
        task = self._task(run)
        worker = (task.info or {}).get("hostname") if task.state == "STARTED" else None
        if worker is None or self._is_at(worker, task.id):
            return health
        # It may have ended in between.
        again = self._celery.check_run_worker_health(run)
        if again.status is not WorkerStatus.RUNNING:
            return again
        return CheckRunHealthResult(WorkerStatus.FAILED, f"Celery's worker {worker} is gone, or has started again.")

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """What became of the run's task."""
        if not self._goes_out(run):
            return super().get_run_worker_debug_info(run, include_container_logs)
        task = self._task(run)
        queue = queue_of(run, self._celery.default_queue)
        return f"Celery task {task.id} in queue {queue}: {task.state}, {task.info or 'no worker has taken it'}"

    def _goes_out(self, run: dg.DagsterRun) -> bool:
        return queue_of(run, self._celery.default_queue) is not None

    def _task(self, run: dg.DagsterRun) -> AsyncResult:
        return self._celery.celery.AsyncResult(run.tags[DAGSTER_CELERY_TASK_ID_TAG])

    def _is_at(self, worker: str, task_id: str) -> bool:
        inspect = self._celery.celery.control.inspect(destination=[worker], timeout=ANSWER_S, limit=1)
        answer = inspect.query_task(task_id) or {}
        return task_id in answer.get(worker, {})
