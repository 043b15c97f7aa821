"""A code location on a server of its own, used as the UI and the daemon use it."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg
import psutil
import yaml
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceLoadTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster_graphql.test.utils import execute_dagster_graphql, infer_job_selector

from wrm_pipeline_tests.integration.conftest import wait_until

OURS = ModuleTarget("wrm_pipeline.definitions", attribute=None, working_directory=None, location_name="wrm")
LAUNCH = """
mutation ($selector: JobOrPipelineSelector!, $tags: [ExecutionTag!]) {
  launchRun(executionParams: {selector: $selector, runConfigData: {}, executionMetadata: {tags: $tags}}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message stack }
  }
}
"""
TERMINATE = """
mutation ($id: String!) { terminateRun(runId: $id) { __typename ... on PythonError { message stack } } }
"""


@dataclass
class CodeLocation:
    """The code location, with an instance whose runs start at once."""

    instance: dg.DagsterInstance
    context: WorkspaceProcessContext

    def graphql(self, query: str, variables: dict[str, Any]) -> Any:
        (answer,) = execute_dagster_graphql(self.context.create_request_context(), query, variables).data.values()
        assert answer["__typename"].endswith("Success"), answer
        return answer

    def launch(self, job: str, tags: Mapping[str, str] = MappingProxyType({})) -> str:
        selector = infer_job_selector(self.context.create_request_context(), job)
        given = [{"key": key, "value": value} for key, value in tags.items()]
        return self.graphql(LAUNCH, {"selector": selector, "tags": given})["run"]["runId"]

    def run(self, run_id: str) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def cancel(self, run_id: str) -> None:
        """As the button in the UI does."""
        self.graphql(TERMINATE, {"id": run_id})

    def run_out_of_time(self, run_id: str) -> None:
        """As the daemon does when it next looks after the time limit."""
        self.instance.add_run_tags(run_id, {MAX_RUNTIME_SECONDS_TAG: "0.001"})
        assert list(execute_run_monitoring_iteration(self.context, logging.getLogger("daemon"))) == [None]
        status = self.run(run_id).status
        # The run reports its own end as well, and on a busy machine it may be the first to write.
        assert status in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}, status

    def steps_started(self, run_id: str) -> list[str]:
        logs = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)
        return [entry.step_key for entry in logs]

    def wait_for_step(self, run_id: str, step: str) -> None:
        def started() -> bool:
            assert not self.run(run_id).is_finished, self.messages(run_id)
            return step in self.steps_started(run_id)

        wait_until(started, timeout_s=120, what=f"{step} must start")

    def messages(self, run_id: str) -> list[str]:
        return [entry.user_message or entry.message for entry in self.instance.all_logs(run_id)]

    def process(self, run_id: str) -> psutil.Process:
        found = re.search(r"Started process for run \(pid: (\d+)\)", "\n".join(self.messages(run_id)))
        assert found is not None, self.messages(run_id)
        return psutil.Process(int(found[1]))

    def seconds_to_end(self, run_id: str, end: Callable[[str], None]) -> float:
        """From the request to the end of the process; no step begins after it."""
        process = self.process(run_id)
        steps = self.steps_started(run_id)
        asked = time.monotonic()
        end(run_id)
        process.wait(100)
        took = time.monotonic() - asked
        wait_until(lambda: self.run(run_id).is_finished, timeout_s=10, what="the run must be ended")
        assert self.steps_started(run_id) == steps
        return took


@contextmanager
def code_location(target: WorkspaceLoadTarget = OURS, **changes: Mapping[str, Any]) -> Iterator[CodeLocation]:
    """Served until the end of the block; `changes` are sections for dagster.yaml in place of its own."""
    configuration = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    if "storage" in changes:  # Dagster takes one of all kinds, or one of each
        for kind in ("event_log_storage", "run_storage", "schedule_storage"):
            del configuration[kind]
    del configuration["concurrency"]
    configuration["run_coordinator"] = {"module": "dagster.core.run_coordinator", "class": "DefaultRunCoordinator"}
    configuration |= changes
    Path(os.environ["DAGSTER_HOME"], "dagster.yaml").write_text(yaml.safe_dump(configuration))
    with dg.DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as context:
        yield CodeLocation(instance, context)
