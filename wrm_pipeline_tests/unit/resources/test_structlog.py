"""`structlog`: what the log lines of an asset have, in the event log and in the file."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline import logs
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.resources.logger import StructlogResource
from wrm_pipeline_tests.fixtures.in_a_run import in_a_run

DAYS = dg.DailyPartitionsDefinition("2025-08-20")


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def rain(structlog: StructlogResource) -> None:
    log = structlog.get_logger(source="gauge 7")
    log.info("measured", hours=24)


@dg.op
def not_an_asset(structlog: StructlogResource) -> None:
    structlog.get_logger(correlation_id="mine").warning("seen")


@dg.job
def a_job() -> None:
    not_an_asset()


@pytest.fixture
def lines(environment: Path, monkeypatch: pytest.MonkeyPatch):
    """What is in the log files, as JSON, of our own lines."""
    monkeypatch.setattr(logs, "_destination", (environment / "logs", True))

    def read() -> list[dict[str, object]]:
        files = sorted((environment / "logs").glob("*.jsonl"))
        found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line for line in found if line["logger"] == "wrm_pipeline.structlog"]

    return read


@pytest.fixture
def instance(tmp_path: Path):
    """As dagster.yaml has it."""
    python_logs = {
        "managed_python_loggers": ["wrm_pipeline"],
        "dagster_handler_config": {"handlers": {"wrm": {"class": "wrm_pipeline.logs.RunLogHandler", "level": "INFO"}}},
    }
    with dg.instance_for_test(overrides={"python_logs": python_logs}, temp_dir=str(tmp_path)) as instance:
        yield instance


def test_lines_have_run_asset_partition_and_correlation_id_in_the_ui_and_in_the_file(instance, lines) -> None:
    resources = {"structlog": StructlogResource()}
    ran = dg.materialize([rain], partition_key="2025-08-21", resources=resources, instance=instance)
    values = {
        "source": "gauge 7",
        "hours": 24,
        "run_id": ran.run_id,
        "asset": "rain",
        "partition": "2025-08-21",
        "correlation_id": ran.run_id,
    }
    (line,) = lines()
    assert values.items() <= line.items()
    (shown,) = [
        entry.user_message for entry in instance.all_logs(ran.run_id) if entry.user_message.startswith("measured")
    ]
    assert all(f"{name}={value}" in shown for name, value in values.items())


def test_a_range_of_days_and_an_op_have_a_name_too(instance, lines) -> None:
    resources = {"structlog": StructlogResource()}
    tags = {"dagster/asset_partition_range_start": "2025-08-21", "dagster/asset_partition_range_end": "2025-08-23"}
    dg.materialize([rain], tags=tags, resources=resources, instance=instance)
    a_job.execute_in_process(resources=resources, instance=instance)
    of_range, of_op = lines()
    assert of_range["partition"] == "2025-08-21...2025-08-23"
    assert (of_op["asset"], of_op["correlation_id"]) == ("not_an_asset", "mine")
    assert "partition" not in of_op


def test_secrets_are_masked_and_exceptions_are_with_the_line(instance, lines) -> None:
    remember_secret("s3cr3t-canary-of-a-line")

    @dg.asset
    def leaky(structlog: StructlogResource) -> None:
        log = structlog.get_logger(url="http://rain/?key=s3cr3t-canary-of-a-line")
        try:
            float("many")
        except ValueError:
            log.exception("s3cr3t-canary-of-a-line is not a number")

    dg.materialize([leaky], resources={"structlog": StructlogResource()}, instance=instance)
    (line,) = lines()
    assert "canary" not in str(line)
    assert "could not convert string to float: 'many'" in str(line["message"])


def test_outside_of_a_run_there_is_the_given_context_alone(caplog: pytest.LogCaptureFixture) -> None:
    StructlogResource().get_logger(source="notebook").warning("seen")
    assert caplog.records[-1].wrm_values == {"source": "notebook"}
    assert in_a_run("structlog", lambda it: it.get_logger()._context["asset"]) == "looker"
