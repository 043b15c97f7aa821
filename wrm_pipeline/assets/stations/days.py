"""A range of days built side by side, each by a worker that publishes it itself.

What travels to a worker is a date and what decides about the result (layout, service area, versions): no data and no
credentials. The worker opens the lake by its own settings, refuses if that is another lake or if it runs other code,
and sends back what the step tells Dagster. A day that is built twice, since its worker died or was thought to be
dead, is written twice, with the same rows.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from importlib.metadata import version
from typing import Any

import dagster as dg

from wrm_pipeline import logs
from wrm_pipeline.checks.results import ERROR, result
from wrm_pipeline.clients.workers import TaskFailedError
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.partition_build import RULES_VERSION
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.snapshot import PARSER_VERSION
from wrm_pipeline.io_managers.hive_partitioned import PartitionFile
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import write_requests
from wrm_pipeline.resources.workers import WorkersResource
from wrm_pipeline.settings import load_settings

# Days named in a message; the rest is in the run's log.
_NAMED = 5


# What a worker process needs for either layer; the server that forks them loads it once for the whole run. Arrow
# imports pandas with the first array that it makes, which was half a second in each worker of each layer.
PRELOADED = ("wrm_pipeline.assets.stations.processed_all", "wrm_pipeline.assets.stations.enhanced_all", "pandas")


class WorkerDiffersError(RuntimeError):
    """A worker would not build what was asked for."""


class UnsoundDayError(RuntimeError):
    """A day's blocking check does not hold; nothing was published."""


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """How to build, for each day alike."""

    built_at: datetime
    full_rebuild: bool = False
    allow_shrink: bool = False


@dataclass(frozen=True, slots=True)
class BuiltDay:
    """A day that is built and not yet published; `file` is None where nothing changed."""

    file: PartitionFile | None
    metadata: dict[str, Any]
    check: dg.AssetCheckResult


BuildDay = Callable[[LakeResource, date, BuildOrder], BuiltDay]


def _code_version() -> str:
    return f"parser {PARSER_VERSION}, rules {RULES_VERSION}, Arrow {version('pyarrow')}, Python {_python()}"


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


@dataclass(frozen=True, slots=True)
class DayTask:
    """One day for a worker."""

    dt: date
    layer: str
    build: BuildDay
    order: BuildOrder
    place: str
    layout: Layout
    area: ServiceArea
    code: str = field(default_factory=_code_version)

    def __str__(self) -> str:
        return f"{self.layer} dt={self.dt}"


def publish_day(task: DayTask) -> dict[str, Any]:
    """Build, check and publish one day, in a worker; gives the metadata.

    Raises:
        WorkerDiffersError: the worker's code or lake is another one.
        UnsoundDayError: the check does not hold; nothing was published.
    """
    settings = load_settings()
    logs.configure(settings.data_dir / "logs", as_json=settings.env == "production")
    lake = LakeResource.of(settings)
    mine = (lake.place, lake.layout, lake.area, _code_version())
    wanted = (task.place, task.layout, task.area, task.code)
    if mine != wanted:
        differences = [
            f"{theirs} is wanted, {own} is here" for own, theirs in zip(mine, wanted, strict=True) if own != theirs
        ]
        raise WorkerDiffersError(
            f"The worker on {platform.node()} would build something else: {'; '.join(differences)}. Give it the same "
            "release and the same settings as the code server, and start it again."
        )
    built = task.build(lake, task.dt, task.order)
    if not built.check.passed and built.check.severity is ERROR:
        raise UnsoundDayError(f"{built.check.check_name} does not hold. {built.check.description}")
    metadata = dict(built.metadata)
    if built.file is None:
        lake.partitions.remove_strays(task.layer, task.dt)
    else:
        file = built.file
        info = lake.partitions.publish(
            task.layer,
            task.dt,
            file.data,
            rows_now=file.row_count,
            rows_before=file.rows_before,
            allow_shrink=file.allow_shrink,
        )
        metadata |= {"path": dg.MetadataValue.path(lake.store.url(info.key)), "size_bytes": info.size_bytes}
    return metadata | write_requests()


def publish_days(
    context: dg.AssetExecutionContext,
    layer: str,
    build: BuildDay,
    order: BuildOrder,
    *,
    lake: LakeResource,
    workers: WorkersResource,
) -> Iterator[dg.Output[PartitionFile | None] | dg.AssetCheckResult]:
    """Build and publish each partition of the run, wherever the workers are.

    A day that fails costs itself only: the others are published, and Dagster is told so.

    Raises:
        dagster.Failure: days failed; names them.
    """
    days = [date.fromisoformat(key) for key in context.partition_keys]
    tasks = [DayTask(dt, layer, build, order, lake.place, lake.layout, lake.area) for dt in days]
    context.log.info("Building %d days; workers: %s", len(days), workers.place)
    done: dict[date, dict[str, Any]] = {}
    failed: dict[date, Exception] = {}
    for outcome in workers.client(*PRELOADED).run(publish_day, tasks):
        dt = outcome.task.dt
        if outcome.error is not None:
            failed[dt] = outcome.error
            trace = outcome.error.traceback if isinstance(outcome.error, TaskFailedError) else ""
            context.log.error("%s was not published: %s\n%s", outcome.task, outcome.error, trace)
        else:
            done[dt] = outcome.result or {}
            context.log.info("%s is published (%d of %d)", outcome.task, len(done) + len(failed), len(days))
    if failed:
        for dt, metadata in sorted(done.items()):
            context.log_event(dg.AssetMaterialization(context.asset_key, partition=dt.isoformat(), metadata=metadata))
        named = "\n".join(f"{dt}: {error}" for dt, error in sorted(failed.items())[:_NAMED])
        raise dg.Failure(
            f"{len(failed)} of {len(days)} days were not published and are as they were; the others are done.\n{named}",
            allow_retries=False,
        )
    for dt, metadata in done.items():
        context.add_asset_metadata(metadata, partition_key=dt.isoformat())
    yield dg.Output(None)
    (check,) = context.selected_asset_check_keys
    yield result(
        check.name, True, f"It holds for each of {len(days)} days, {min(days)} to {max(days)}.", days=len(days)
    )
