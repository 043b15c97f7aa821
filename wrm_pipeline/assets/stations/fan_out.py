"""A range of days built side by side, each by a worker that publishes it itself.

What travels to a worker is a date and what decides about the result (layout, service area, versions): no data and no
credentials. The worker opens the lake with credentials of its own (a machine of a cluster by its own settings
altogether), refuses if that is another lake or if it runs other code, and sends back what the step tells Dagster. A day
that is built twice, since its worker died or was thought to be dead, is written twice, with the same rows.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import dagster as dg
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

from wrm_pipeline import logs
from wrm_pipeline.checks.results import ERROR, result
from wrm_pipeline.clients.workers import TaskFailedError
from wrm_pipeline.domain.enhanced_build import RULES_VERSION
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.domain.snapshot import PARSER_VERSION
from wrm_pipeline.lake.published_partitions import PartitionFile
from wrm_pipeline.partitions import no_day_given
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import write_requests
from wrm_pipeline.resources.workers import WorkersResource
from wrm_pipeline.settings import load_settings

# Days named in a message; the rest is in the run's log.
_NAMED = 5

# A run ends after 15 minutes at most (`dagster.yaml`); one of several days may take a minute more for each of them,
# which is ten times what a day takes.
RUN_SECONDS, SECONDS_A_DAY = 900, 60

# Dagster's own, on each run that a sensor asked for.
SENSOR_TAG = "dagster/sensor_name"

# Metadata of a day that had nothing to build.
NOTHING = "nothing_to_do"


# What a worker process needs for either layer; the server that forks them loads it once for the whole run. Arrow
# imports pandas with the first array that it makes, which was half a second in each worker of each layer.
PRELOADED = ("wrm_pipeline.assets.stations.processed_all", "wrm_pipeline.assets.stations.enhanced_all", "pandas")


class WorkerDiffersError(RuntimeError):
    """A worker would not build what was asked for."""


class UnsoundDayError(RuntimeError):
    """A day's blocking check does not hold; nothing was published."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build, for each day alike."""

    built_at: datetime
    full_rebuild: bool = False
    allow_shrink: bool = False
    look_for_strays: bool = True

    @classmethod
    def of(
        cls, context: dg.AssetExecutionContext, built_at: datetime, *, full_rebuild: bool, allow_shrink: bool
    ) -> "BuildOptions":
        """As the run wants it. One that a sensor asks for comes each minute, and lists nothing for files of others."""
        return cls(built_at, full_rebuild, allow_shrink, look_for_strays=SENSOR_TAG not in context.run.tags)


@dataclass(frozen=True, slots=True)
class BuiltDay:
    """A day that is built and not yet published; `file` is None where nothing changed."""

    file: PartitionFile | None
    metadata: dict[str, Any]
    check: dg.AssetCheckResult


BuildDay = Callable[[LakeResource, date, BuildOptions], BuiltDay]


class NothingToDoError(RuntimeError):
    """A day has nothing to be built from, which is not a failure; the message says what is not there."""


@dataclass(frozen=True, slots=True)
class NextLayer:
    """What a run builds from the days that it has just published, by the same workers."""

    layer: str
    build: BuildDay
    asset: dg.AssetKey


def days_of(context: dg.AssetExecutionContext) -> list[date]:
    """The days that a run is about.

    Raises:
        dagster.Failure: it names none.
    """
    if not context.has_partition_key and not context.has_partition_key_range:
        raise no_day_given()
    return [date.fromisoformat(key) for key in context.partition_keys]


def nothing_to_do(name: str, reason: str) -> tuple[dict[str, Any], dg.AssetCheckResult]:
    """Metadata and the check's result of a day without data: it is done, and says why it is empty."""
    metadata = {NOTHING: reason, "rows_out": 0, "dagster/partition_row_count": 0}
    return metadata, result(name, True, f"Nothing to do: {reason}")


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
    options: BuildOptions
    place: str
    layout: Layout
    area: ServiceArea
    code: str = field(default_factory=_code_version)
    lake_fields: dict[str, dict[str, Any]] | None = None
    """What the run's resources say of the lake, for its own processes; a worker elsewhere has its own settings."""

    def __str__(self) -> str:
        return f"{self.layer} dt={self.dt}"


def publish_day(task: DayTask) -> dict[str, Any]:
    """Build, check and publish one day, in a worker process; gives the metadata.

    Raises:
        WorkerDiffersError: the worker's code or lake is another one.
        UnsoundDayError: the check does not hold; nothing was published.
    """
    settings = load_settings()
    logs.configure(settings.data_dir / "logs", as_json=settings.env == "production")
    fields = task.lake_fields
    lake = LakeResource.of(settings) if fields is None else LakeResource.from_fields(settings, fields)
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
    return build_and_publish(lake, task)


def build_and_publish(lake: LakeResource, task: DayTask) -> dict[str, Any]:
    """Build, check and publish one day to this lake; gives the metadata.

    Raises:
        UnsoundDayError: the check does not hold; nothing was published.
    """
    try:
        built = task.build(lake, task.dt, task.options)
    except NothingToDoError as nothing:
        return {NOTHING: str(nothing), "rows_out": 0, "dagster/partition_row_count": 0}
    if not built.check.passed and built.check.severity is ERROR:
        raise UnsoundDayError(f"{built.check.check_name} does not hold. {built.check.description}")
    metadata = dict(built.metadata)
    if built.file is not None:
        info = lake.partitions.publish(task.layer, task.dt, built.file)
        metadata |= {"path": dg.MetadataValue.path(lake.store.url(info.key)), "size_bytes": info.size_bytes}
    return metadata | write_requests()


def publish_days(
    context: dg.AssetExecutionContext,
    layer: str,
    build: BuildDay,
    options: BuildOptions,
    *,
    lake: LakeResource,
    workers: WorkersResource,
    then: NextLayer | None = None,
) -> Iterator[dg.Output[PartitionFile | None] | dg.AssetCheckResult]:
    """Build and publish each partition of the run, wherever the workers are.

    A day that fails costs itself only: the others are published, and Dagster is told so. Then the step fails and
    Dagster runs no other, so the next layer of the others (`then`) is built here, where the run is to build it at all.

    Raises:
        dagster.Failure: days failed; names them.
    """
    days = days_of(context)
    allow_time_for(context, len(days))
    run = partial(_run_days, context, options=options, lake=lake, workers=workers)
    done, failed = run(days, layer, build)
    if failed:
        _tell(context, context.asset_key, done)
        if then is not None and then.asset in context.job_def.asset_layer.selected_asset_keys:
            followed, not_followed = run(sorted(done), then.layer, then.build)
            _tell(context, then.asset, followed)
            failed |= not_followed
        named = "\n".join(f"{dt}: {error}" for dt, error in sorted(failed.items())[:_NAMED])
        raise dg.Failure(
            f"{len(failed)} of {len(days)} days were not published and are as they were; the others are done.\n{named}",
            allow_retries=False,
        )
    for dt, metadata in done.items():
        context.add_asset_metadata(metadata, partition_key=dt.isoformat())
    empty = sorted(dt for dt, metadata in done.items() if NOTHING in metadata)
    if empty:
        context.log.info("Nothing to do for %d days: %s", len(empty), ", ".join(map(str, empty)))
    yield dg.Output(None)
    (check,) = context.selected_asset_check_keys
    text = f"It holds for each of {len(days)} days, {min(days)} to {max(days)}."
    if empty:
        more = " …" if len(empty) > _NAMED else ""
        text += f" Nothing to do for {len(empty)} of them: {', '.join(map(str, empty[:_NAMED]))}{more}."
    yield result(check.name, True, text, days=len(days), days_with_nothing_to_do=len(empty))


def allow_time_for(context: dg.AssetExecutionContext, days: int) -> None:
    """Let a run of several days last longer than one of a day."""
    if MAX_RUNTIME_SECONDS_TAG not in context.run.tags:  # someone has said how long it may take
        limit = RUN_SECONDS + SECONDS_A_DAY * days
        context.instance.add_run_tags(context.run.run_id, {MAX_RUNTIME_SECONDS_TAG: str(limit)})


def _run_days(
    context: dg.AssetExecutionContext,
    days: Sequence[date],
    layer: str,
    build: BuildDay,
    *,
    options: BuildOptions,
    lake: LakeResource,
    workers: WorkersResource,
) -> tuple[dict[date, dict[str, Any]], dict[date, Exception]]:
    """Metadata of the days that are published (or had nothing to do), and why the others are not."""
    client = workers.client(*PRELOADED)
    # A process of this machine builds the lake of this run, which a person may have changed for this run; a machine of
    # a cluster says so if its own is another one.
    fields = lake.fields_by_resource() if client.kind == "processes" else None
    tasks = [DayTask(dt, layer, build, options, lake.place, lake.layout, lake.area, lake_fields=fields) for dt in days]
    context.log.info("Building %s of %d days; workers: %s", layer, len(days), workers.place)
    done: dict[date, dict[str, Any]] = {}
    failed: dict[date, Exception] = {}
    # A worker in this process has the very lake of this run.
    publish = partial(build_and_publish, lake) if client.kind in {"sequential", "threads"} else publish_day
    for outcome in client.run(publish, tasks):
        dt = outcome.task.dt
        if outcome.error is not None:
            failed[dt] = outcome.error
            trace = outcome.error.traceback if isinstance(outcome.error, TaskFailedError) else ""
            context.log.error("%s was not published: %s\n%s", outcome.task, outcome.error, trace)
        else:
            done[dt] = outcome.result or {}
            what = "has nothing to do" if NOTHING in done[dt] else "is published"
            context.log.info("%s %s (%d of %d)", outcome.task, what, len(done) + len(failed), len(days))
    return done, failed


def _tell(context: dg.AssetExecutionContext, asset: dg.AssetKey, done: Mapping[date, dict[str, Any]]) -> None:
    for dt, metadata in sorted(done.items()):
        context.log_event(dg.AssetMaterialization(asset, partition=dt.isoformat(), metadata=metadata))
