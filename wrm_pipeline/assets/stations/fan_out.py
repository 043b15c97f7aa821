"""Builds a range of days in parallel, each by a worker that also publishes it.

A worker receives a date and what determines the result (layout, service area, versions), but no data and no
credentials. It opens the lake with its own credentials (a machine of a cluster uses its own settings), refuses if that
is a different lake or if it runs different code, and returns what the step reports to Dagster. A day that is built
twice, because its worker died or was presumed dead, is written twice, with the same rows.
"""

import platform
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import dagster as dg
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

from wrm_pipeline import logs
from wrm_pipeline.checks.results import ERROR, publish_if_check_passes, result
from wrm_pipeline.clients.workers import TaskFailedError
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.enhanced_build import RULES_VERSION
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.rules import NO_STRICT_RULES, ServiceArea, StrictRules
from wrm_pipeline.domain.snapshot import PARSER_VERSION
from wrm_pipeline.lake.published_partitions import PartitionFile
from wrm_pipeline.partitions import no_day_given
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.requests import record_requests_on_failure, write_requests
from wrm_pipeline.resources.workers import WorkersResource
from wrm_pipeline.settings import load_settings

# Days listed in a message; the others are in the run's log.
_NAMED = 5

# A run ends after 15 minutes at most (`dagster.yaml`); one of several days may take an additional minute per day, which
# is ten times what a day needs.
RUN_SECONDS, SECONDS_A_DAY = 900, 60

# Set by Dagster on each run that a sensor requested.
SENSOR_TAG = "dagster/sensor_name"

# Metadata key of a day without anything to build.
NOTHING = "nothing_to_do"


# Modules that a worker process needs for either layer; the fork server loads them once for the whole run. Arrow imports
# pandas with the first array that it makes, which took half a second in each worker of each layer.
PRELOADED = ("wrm_pipeline.assets.stations.processed_all", "wrm_pipeline.assets.stations.enhanced_all", "pandas")


class WorkerDiffersError(RuntimeError):
    """A worker would not build what was requested."""


class UnsoundDayError(RuntimeError):
    """A day's blocking check failed; nothing was published."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Build options, the same for each day."""

    built_at: datetime
    full_rebuild: bool = False
    allow_shrink: bool = False
    look_for_strays: bool = True

    @classmethod
    def of(
        cls, context: dg.AssetExecutionContext, built_at: datetime, *, full_rebuild: bool, allow_shrink: bool
    ) -> "BuildOptions":
        """Options of a run. Runs requested by a sensor start each minute, and do not list other writers' files."""
        return cls(built_at, full_rebuild, allow_shrink, look_for_strays=SENSOR_TAG not in context.run.tags)


@dataclass(frozen=True, slots=True)
class BuiltDay:
    """A day that is built but not yet published; `file` is None if nothing changed."""

    file: PartitionFile | None
    metadata: dict[str, Any]
    check: dg.AssetCheckResult


BuildDay = Callable[[LakeResource, date, BuildOptions], BuiltDay]


class NothingToDoError(RuntimeError):
    """A day has nothing to build from, which is not a failure; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class NextLayer:
    """The next layer, built by the same workers from the days that a run has just published."""

    layer: str
    build: BuildDay
    asset: dg.AssetKey


def days_of(context: dg.AssetExecutionContext) -> list[date]:
    """The partitions of a run.

    Raises:
        dagster.Failure: it has none.
    """
    if not context.has_partition_key and not context.has_partition_key_range:
        raise no_day_given()
    return [date.fromisoformat(key) for key in context.partition_keys]


def _metadata_of_nothing(reason: str) -> dict[str, Any]:
    """Of a day without data, which succeeds and says why it is empty."""
    return {NOTHING: reason, "rows_out": 0, "dagster/partition_row_count": 0}


def _code_version() -> str:
    return f"parser {PARSER_VERSION}, rules {RULES_VERSION}, Arrow {version('pyarrow')}, Python {_python()}"


def _zone_name() -> str:
    return this_city().zone.key


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
    strict: StrictRules = NO_STRICT_RULES
    code: str = field(default_factory=_code_version)
    zone: str = field(default_factory=_zone_name)
    lake_fields: dict[str, dict[str, Any]] | None = None
    """The lake as configured by the run's resources, for its own processes; other machines have their own settings."""

    def __str__(self) -> str:
        return f"{self.layer} dt={self.dt}"


def publish_day(task: DayTask) -> dict[str, Any]:
    """Build, check and publish one day in a worker process; returns the metadata.

    Raises:
        WorkerDiffersError: the worker has different code or a different lake.
        UnsoundDayError: the check failed; nothing was published.
    """
    settings = load_settings()
    logs.configure(settings.data_dir / "logs", as_json=settings.env == "production")
    fields = task.lake_fields
    lake = LakeResource.of(settings) if fields is None else LakeResource.from_fields(settings, fields)
    mine = (lake.place, lake.layout, lake.settings.area, lake.settings.strict, _code_version(), _zone_name())
    wanted = (task.place, task.layout, task.area, task.strict, task.code, task.zone)
    if mine != wanted:
        differences = [
            f"{theirs} is required, {own} is in use" for own, theirs in zip(mine, wanted, strict=True) if own != theirs
        ]
        raise WorkerDiffersError(
            f"The worker on {platform.node()} would build something else: {'; '.join(differences)}. Give it the same "
            "release and the same settings as the code server, and start it again."
        )
    return build_and_publish(lake, task)


def build_and_publish(lake: LakeResource, task: DayTask) -> dict[str, Any]:
    """Build, check and publish one day to this lake; returns the metadata.

    Raises:
        UnsoundDayError: the check failed; nothing was published.
    """
    try:
        built = task.build(lake, task.dt, task.options)
    except NothingToDoError as nothing:
        return _metadata_of_nothing(str(nothing))
    if not built.check.passed and built.check.severity is ERROR:
        raise UnsoundDayError(f"{built.check.check_name} failed. {built.check.description}")
    metadata = dict(built.metadata)
    if built.file is not None:
        info = lake.partitions.publish(task.layer, task.dt, built.file)
        metadata |= {"path": dg.MetadataValue.path(lake.store.url(info.key)), "size_bytes": info.size_bytes}
    return metadata | write_requests()


def publish_day_or_days(
    context: dg.AssetExecutionContext,
    layer: str,
    build: BuildDay,
    options: BuildOptions,
    *,
    lake: LakeResource,
    workers: WorkersResource,
    one: BuildDay | None = None,
    then: NextLayer | None = None,
) -> Generator[dg.Output[PartitionFile | None] | dg.AssetCheckResult, None, PartitionFile | None]:
    """Build, check and publish the partitions of a run: a single one here, several wherever the workers are.

    Args:
        context: Of the run.
        layer: Which layer its partitions are of.
        build: Builds a day in any process.
        options: The same for each day.
        lake: Where they are published.
        workers: Who builds several days.
        one: Builds a single day, with what only this process has; None: `build`.
        then: See `publish_days`.

    Returns:
        The file of a single day; None if nothing changed, or there were several.
    """
    days = days_of(context)
    if len(days) > 1:
        yield from publish_days(context, layer, build, options, lake=lake, workers=workers, then=then)
        return None
    try:
        with record_requests_on_failure(context):
            built = (one or build)(lake, days[0], options)
    except NothingToDoError as nothing:
        context.log.info("Nothing to do: %s", nothing)
        yield dg.Output(None, metadata=_metadata_of_nothing(str(nothing)))
        (check,) = context.selected_asset_check_keys
        yield result(check.name, True, f"Nothing to do: {nothing}")
        return None
    yield from publish_if_check_passes(dg.Output(built.file, metadata=built.metadata), built.check)
    return built.file


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

    A day that fails affects no other: the others are published, and reported to Dagster. Then the step fails and
    Dagster runs no further step, so the next layer of the others (`then`) is built here, if the run includes it.

    Raises:
        dagster.Failure: days failed; the message lists them.
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
            f"{len(failed)} of {len(days)} days were not published and are unchanged; the others are done.\n{named}",
            allow_retries=False,
        )
    for dt, metadata in done.items():
        context.add_asset_metadata(metadata, partition_key=dt.isoformat())
    empty = sorted(dt for dt, metadata in done.items() if NOTHING in metadata)
    if empty:
        context.log.info("Nothing to do for %d days: %s", len(empty), ", ".join(map(str, empty)))
    yield dg.Output(None)
    (check,) = context.selected_asset_check_keys
    text = f"It passed for each of {len(days)} days, {min(days)} to {max(days)}."
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
    """Metadata of the days that are published (or had nothing to do), and the errors of the others."""
    client = workers.client(*PRELOADED)
    # A process of this machine uses the lake of this run, which a person may have changed in the run config; a machine
    # of a cluster reports if its own is a different one.
    fields = lake.fields_by_resource() if client.kind == "processes" else None
    about = (lake.place, lake.layout, lake.settings.area, lake.settings.strict)
    tasks = [DayTask(dt, layer, build, options, *about, lake_fields=fields) for dt in days]
    context.log.info("Building %s of %d days; workers: %s", layer, len(days), workers.place)
    done: dict[date, dict[str, Any]] = {}
    failed: dict[date, Exception] = {}
    # A worker in this process has the same lake as the run.
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
