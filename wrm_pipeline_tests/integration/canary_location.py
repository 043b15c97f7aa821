"""A code location that shows every secret wherever code can: the worst that a library or a careless line could do.

It is loaded beside the real one, in processes of its own, with `canary_broken`, which fails to load.
"""

import sys
import time
from collections.abc import Iterator

import dagster as dg
import duckdb

import wrm_pipeline.definitions  # its import is what guards a process
from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.logs import get_logger
from wrm_pipeline.resources.dlq import DlqResource
from wrm_pipeline.resources.logger import StructlogResource
from wrm_pipeline.resources.metrics import MetricsResource
from wrm_pipeline.resources.vault import secrets_of
from wrm_pipeline.settings import Settings, is_secret, load_settings
from wrm_pipeline_tests.fixtures.canaries import revealed


def values() -> Iterator[str]:
    """Every secret that this process can have, by the ways that all code has."""
    settings = load_settings()
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if value is not None and (is_secret(name) or "://" in str(value)):
            yield value.get_secret_value() if is_secret(name) else str(value)
    secrets = secrets_of(settings)
    s3, postgres = secrets.s3(), secrets.postgres()
    assert s3 is not None
    assert postgres is not None
    yield from (s3.access_key_id, s3.secret_access_key, postgres.password or "")
    yield from (secrets.redis_url() or "", secrets.webhook_url() or "")
    assert secrets.vault is not None
    yield str(secrets.vault._client().token)


def everything() -> str:
    """All of them."""
    return f"all: {revealed(*values())}"


class LibraryError(Exception):
    """Makes its message when it is asked for it."""

    def __str__(self) -> str:
        return everything()


def answer() -> None:
    raise LibraryError


@dg.asset
def canary_leaky(
    context: dg.AssetExecutionContext, dlq: DlqResource, metrics: MetricsResource, structlog: StructlogResource
) -> dg.MaterializeResult[None]:
    text = everything()
    dlq.write("canary_leaky", "2025-08-21", "leaky", {"answer": text}, LibraryError(), source=text, field=text)
    metrics.counter("canary", text, ["answer"]).labels(answer=text).inc()
    for value in values():
        metrics.counter("canaries", "One secret", ["answer"]).labels(answer=f"{'x' * 190}{value}").inc()
    structlog.get_logger(answer=text).error(text)
    print(text)  # noqa: T201
    print(text, file=sys.stderr)  # noqa: T201
    context.log.info(text)
    get_logger("wrm_pipeline.canary").warning("shown", text=text)
    return dg.MaterializeResult(
        metadata={
            "text": text,
            "md": dg.MetadataValue.md(text),
            "json": {"inner": [text]},
            "path": dg.MetadataValue.path(text),
            "url": dg.MetadataValue.url(text),
        }
    )


@dg.asset_check(asset=canary_leaky)
def canary_check() -> dg.AssetCheckResult:
    text = everything()
    return dg.AssetCheckResult(
        passed=False, severity=dg.AssetCheckSeverity.WARN, description=text, metadata={"found": text}
    )


@dg.asset_check(asset=canary_leaky)
def canary_check_that_fails() -> dg.AssetCheckResult:
    raise ValueError(everything())


@dg.asset(deps=[canary_leaky])
def canary_doomed() -> None:
    try:
        try:
            answer()
        except LibraryError:
            duckdb.sql(f"SELECT $${everything()}$$ FROM nowhere")
    except duckdb.Error as error:
        raise PermanentError(everything(), "canary", "get", everything(), everything()) from error


@dg.asset
def canary_endless(context: dg.AssetExecutionContext) -> None:
    context.log.info("waiting for the end")
    try:
        time.sleep(300)
    finally:
        answer()


@dg.sensor(target=canary_leaky, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def canary_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    turn = int(context.cursor or 0)
    context.update_cursor(str(turn + 1))
    context.log.warning(everything())
    if turn:
        answer()
    return dg.SkipReason(everything())


defs = dg.Definitions(
    assets=[canary_leaky, canary_doomed, canary_endless],
    asset_checks=[canary_check, canary_check_that_fails],
    jobs=[
        dg.define_asset_job("canary_job", [canary_leaky, canary_doomed]),
        dg.define_asset_job("canary_endless_job", [canary_endless]),
    ],
    sensors=[canary_sensor],
    executor=dg.in_process_executor,
    resources=wrm_pipeline.definitions.defs.resources,
)
