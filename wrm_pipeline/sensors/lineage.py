"""Records what each run read and wrote as OpenLineage events, and posts them to OPENLINEAGE_URL.

This happens after a run has ended, for all runs in one place: runs spend no time on it (importing openlineage-python
beside Dagster takes 0.4 s of CPU, and runs start every minute), and runs whose process was killed are recorded as well.
What a run did is read from Dagster's event log; schemas and column lineage are those of the assets.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterEventType as EventType

from wrm_pipeline.analytics.database import SCHEMA
from wrm_pipeline.analytics.lineage import object_folder, shown_columns, shown_tables
from wrm_pipeline.analytics.lineage_events import DatasetName, Ending, Output, Step, run_events, to_json
from wrm_pipeline.analytics.registry import Column
from wrm_pipeline.clients.errors import ExternalError, ObjectNotFoundError, PermanentError
from wrm_pipeline.clients.retry import SENSOR_POLICY
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.resources.lineage import LineageResource
from wrm_pipeline.sensors.ended_runs import (
    REMEMBERED_S,
    cause_of,
    ended_at,
    ended_runs,
    is_time,
    remembered_at,
    seen_until,
    short_id,
)
from wrm_pipeline.settings import Settings

# At the first tick, and after a pause: runs that ended longer ago than this are not recorded.
LOOK_BACK_S = 24 * 3600.0
RUNS_PER_TICK = 100
# A tick is cut off after 60 s. Nothing new is begun after these times; a request takes up to 25 s (store) or 9 s
# (receiver).
RECORD_S = 20.0
SEND_S = 10.0
REMOVE_S = 10.0
# Runs whose events wait for the receiver: four hours of two runs a minute. Dropped ones remain in the store.
MOST_UNSENT = 500
LONGEST_ERROR = 2_000

_ENDINGS = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_READ = {
    EventType.ASSET_MATERIALIZATION_PLANNED,
    EventType.ASSET_MATERIALIZATION,
    EventType.STEP_START,
    EventType.STEP_SUCCESS,
    EventType.STEP_FAILURE,
    EventType.RUN_FAILURE,
}
_ROWS = ("dagster/partition_row_count", "dagster/row_count", "rows_out")
_SIZES = ("size_bytes", "published_bytes")


@dataclass(slots=True)
class LineageCursor:
    """The sensor's state between two ticks, kept in its cursor.

    Attributes:
        until: Runs last updated up to this time have been read.
        seen: End times of recently read runs, by the first part of their ids.
        unsent: Keys of events that the receiver has not accepted yet, oldest first.
        dropped: Number of runs that the sensor will never send, as too many waited or the receiver rejected them.
        removed_on: The day on which old events were last removed.
    """

    until: float
    seen: dict[str, float] = field(default_factory=dict)
    unsent: list[str] = field(default_factory=list)
    dropped: int = 0
    removed_on: str = ""

    @classmethod
    def from_cursor(cls, cursor: str | None, now: float) -> "LineageCursor":
        """Read back; a cursor of another version, or an invalid one, counts as the first tick.

        One from the future, left by a clock that was ahead, continues from now.
        """
        try:
            parsed = cls(**json.loads(cursor or ""))
            if parsed._is_sound():
                parsed.until = min(max(parsed.until, now - LOOK_BACK_S), now)
                return parsed
        except (ValueError, TypeError, RecursionError):
            pass
        return cls(now - LOOK_BACK_S)

    def _is_sound(self) -> bool:
        return (
            is_time(self.until)
            and isinstance(self.seen, dict)
            and all(map(is_time, self.seen.values()))
            and isinstance(self.unsent, list)
            and all(isinstance(key, str) for key in self.unsent)
            and type(self.dropped) is int
            and isinstance(self.removed_on, str)
        )

    def to_cursor(self) -> str:
        """At most 50 kB, after a receiver was down for hours."""
        return json.dumps(asdict(self), separators=(",", ":"))


# --- what a run did --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DatasetResolver:
    """Resolves assets and columns to the datasets of this installation."""

    graph: Any
    settings: Settings
    store: ObjectStore
    database: Path

    def datasets(self, asset: str) -> list[DatasetName]:
        """The datasets that hold an asset's data."""
        folder = object_folder(asset, self.settings.layout)
        if folder is not None:
            return [DatasetName.of_object(self.store.url(folder))]
        tables = sorted(table.name for table in shown_tables(asset))
        return [self._table(table) for table in tables or [asset]]

    def column(self, asset: str, name: str) -> tuple[DatasetName, str]:
        """A column of an asset, with its dataset."""
        shown = shown_columns(asset).get(name)
        return (self._table(shown[0].name), shown[1].name) if shown else (self.datasets(asset)[0], name)

    def _table(self, name: str) -> DatasetName:
        return DatasetName.of_table(str(self.database), SCHEMA, name)

    def inputs(self, asset: str) -> list[DatasetName]:
        """What an asset is made from."""
        if asset == asset_names.RAW:
            return [DatasetName.of_feed(self.settings.url_of(kind)) for kind in self.settings.feed_kinds]
        node = self._node(asset)
        return [one for key in sorted(node.parent_keys) for one in self.datasets(_name(key))] if node else []

    def description(self, asset: str) -> str:
        """The first paragraph of what the UI shows."""
        node = self._node(asset)
        return (node.description or "").partition("\n\n")[0] if node else ""

    def outputs(self, asset: str, metadata: Mapping[str, Any]) -> list[Output]:
        """What a materialization wrote: columns from its metadata, or else from the asset's."""
        columns = {dataset: list[Column]() for dataset in self.datasets(asset)}
        origins = {dataset: dict[str, Sequence[tuple[DatasetName, str]]]() for dataset in columns}
        # Unchanged data keeps the schema of an earlier event: 11 kB less per minute.
        for column, made_from in () if _left_alone(metadata) else self._columns(asset, metadata):
            dataset, name = self.column(asset, column.name)
            columns[dataset].append(replace(column, name=name))
            origins[dataset][name] = made_from
        if len(columns) > 1:
            rows = getattr(metadata.get("rows_by_table"), "value", None) or {}
            return [Output(one, columns[one], origins[one], rows.get(one.name.rpartition(".")[2])) for one in columns]
        (dataset,) = columns
        counted = _written(metadata, _ROWS), _written(metadata, _SIZES)
        return [Output(dataset, columns[dataset], origins[dataset], *counted)]

    def _columns(
        self, asset: str, metadata: Mapping[str, Any]
    ) -> list[tuple[Column, Sequence[tuple[DatasetName, str]]]]:
        """Columns as the asset declares them, and the columns that each is made from."""
        node = self._node(asset)
        shown = {**(node.metadata if node else {}), **{name: value.value for name, value in metadata.items()}}
        schema, lineage = (_plain(shown.get(f"dagster/column_{kind}")) for kind in ("schema", "lineage"))
        made_from = lineage.deps_by_column if lineage else {}
        return [
            (
                Column(column.name, column.type, column.description or ""),
                [self.column(_name(dep.asset_key), dep.column_name) for dep in made_from.get(column.name, ())],
            )
            for column in (schema.columns if schema else ())
        ]

    def _node(self, asset: str) -> Any:
        key = dg.AssetKey(asset.split("/"))
        return self.graph.get(key) if self.graph.has(key) else None


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, dg.MetadataValue) else value


def _name(key: dg.AssetKey) -> str:
    return "/".join(key.path)


def steps_of(instance: dg.DagsterInstance, record: dg.RunRecord, resolver: DatasetResolver) -> list[Step]:
    """What an ended run materialized or failed to materialize; nothing for assets that were never begun."""
    run = record.dagster_run
    finished = datetime.fromtimestamp(ended_at(record), UTC)
    began: dict[str, datetime] = {}
    planned: dict[str, str] = {}
    errors: dict[str, str] = {}
    ended: dict[str, datetime] = {}
    made: list[tuple[str, str, datetime, dg.AssetMaterialization]] = []
    run_error = ""
    for entry in instance.all_logs(run.run_id, of_type=_READ):
        event, at = entry.dagster_event, datetime.fromtimestamp(entry.timestamp, UTC)
        if event is None:
            continue
        step = event.step_key or ""
        if event.event_type is EventType.ASSET_MATERIALIZATION_PLANNED:
            planned[_name(event.asset_materialization_planned_data.asset_key)] = step
        elif event.event_type is EventType.STEP_START:
            began.setdefault(step, at)
            ended.pop(step, None)
        elif event.event_type is EventType.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            made.append((_name(materialization.asset_key), step, at, materialization))
        elif event.event_type is EventType.RUN_FAILURE:
            run_error = _shown(event.message or "")
        else:
            ended[step] = at
            if event.event_type is EventType.STEP_FAILURE:
                error = cause_of(event.step_failure_data.error)
                errors[step] = _shown(error.message if error else event.message or "")

    def step_of(
        asset: str,
        step: str,
        ending: Ending,
        at: datetime,
        made: dg.AssetMaterialization | None = None,
        error: str = "",
    ) -> Step:
        partition = (made.partition if made else None) or run.tags.get("dagster/partition", "")
        return Step(
            asset=asset,
            description=resolver.description(asset),
            job="materialize" if run.job_name.startswith("__") else run.job_name,
            run_id=run.run_id,
            partition=folder_date(f"dt={partition}"),
            ending=ending,
            began_at=min(began.get(step, at), at),
            ended_at=at,
            inputs=resolver.inputs(asset),
            outputs=resolver.outputs(asset, made.metadata)
            if made
            else [Output(one) for one in resolver.datasets(asset)],
            error=error,
        )

    steps = [step_of(asset, step, "COMPLETE", at, materialization) for asset, step, at, materialization in made]
    recorded = {asset for asset, *_ in made}
    for asset, step in planned.items():
        if asset in recorded or (step not in began and step not in errors):
            continue
        if step in errors:
            steps.append(step_of(asset, step, "FAIL", ended.get(step, finished), error=errors[step]))
        elif run.status is dg.DagsterRunStatus.CANCELED:
            steps.append(step_of(asset, step, "ABORT", finished))
        elif step not in ended:
            error = run_error or "The run ended in the middle of this step, and left no error."
            steps.append(step_of(asset, step, "FAIL", finished, error=error))
    return steps


def _shown(message: str) -> str:
    return redact(message.strip())[:LONGEST_ERROR]


def _written(metadata: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """A count of what this run wrote: 0 if it left everything unchanged."""
    values = (getattr(metadata.get(name), "value", None) for name in names)
    found = next((value for value in values if type(value) is int), None)
    return 0 if found is not None and _left_alone(metadata) else found


def _left_alone(metadata: Mapping[str, Any]) -> bool:
    """Whether a run found nothing to write."""
    return any(getattr(metadata.get(name), "value", False) is True for name in ("unchanged", "duplicate"))


# --- a tick ----------------------------------------------------------------------------------------------------


def record_runs(instance: dg.DagsterInstance, cursor: LineageCursor, resolver: DatasetResolver, namespace: str) -> int:
    """Write the events of newly ended runs; returns how many runs have any.

    Raises:
        ExternalError: the store failed; a later tick continues where this one stopped.
    """
    started, recorded, now = time.monotonic(), 0, time.time()
    for record in ended_runs(instance, cursor.until, cursor.seen, _ENDINGS, RUNS_PER_TICK):
        if time.monotonic() - started > RECORD_S:
            break
        steps = steps_of(instance, record, resolver)
        if steps:
            events = [event for step in steps for event in run_events(step, namespace)]
            dt = local_date(datetime.fromtimestamp(min(ended_at(record), now), UTC))
            key = resolver.settings.layout.lineage_key(dt, record.dagster_run.run_id)
            resolver.store.put(key, to_json(events), content_type="application/json")
            cursor.unsent.append(key)
            recorded += 1
        cursor.seen[short_id(record)] = remembered_at(record)
        cursor.until = max(cursor.until, seen_until(record, now))
    cursor.seen = {run: at for run, at in cursor.seen.items() if at >= cursor.until - REMEMBERED_S}
    return recorded


def send(cursor: LineageCursor, store: ObjectStore, post: Callable[[bytes], None]) -> tuple[int, str]:
    """Post waiting events, oldest first; returns for how many runs, and why the others still wait."""
    cursor.dropped += max(len(cursor.unsent) - MOST_UNSENT, 0)
    cursor.unsent = cursor.unsent[-MOST_UNSENT:]
    started, sent, trouble = time.monotonic(), 0, ""
    while cursor.unsent and time.monotonic() - started < SEND_S:
        try:
            for event in json.loads(store.get(cursor.unsent[0])):
                post(to_json(event))
            sent += 1
        except ExternalError as error:
            trouble = str(error)
            refused = isinstance(error, PermanentError) and error.status in {400, 413, 422}
            if not refused and not isinstance(error, ObjectNotFoundError):
                break  # not this run's fault: it waits for a better time or configuration
            cursor.dropped += 1
        cursor.unsent.pop(0)
    return sent, trouble


def remove_old(cursor: LineageCursor, store: ObjectStore, layout: Layout, today: date, days: int) -> int:
    """Once a day, remove events older than `days` days; returns the number of objects.

    Raises:
        ExternalError: the store failed.
    """
    if cursor.removed_on == today.isoformat():
        return 0
    started, removed = time.monotonic(), 0
    first_kept = today - timedelta(days=days)
    for folder in store.list_folders(layout.lineage_prefix):
        dt = folder_date(folder)
        if dt is None or dt >= first_kept:
            continue
        for info in store.list(folder):
            if time.monotonic() - started > REMOVE_S:
                return removed  # the next tick continues
            store.delete(info.key)
            removed += 1
    cursor.removed_on = today.isoformat()
    return removed


@dg.sensor(
    name="wrm_lineage_sensor",
    # A tick costs daemon and code server a tenth of a second; nobody waits for this.
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Records what each ended run read and wrote as OpenLineage events in `lineage/` of the object store, and posts "
        "them to OPENLINEAGE_URL if that is set (docs/lineage.md)."
    ),
)
def wrm_lineage_sensor(
    context: dg.SensorEvaluationContext, lake: LakeResource, lineage: LineageResource
) -> dg.SensorResult:
    """Record, send, tidy up."""
    now = datetime.now(UTC)
    cursor = LineageCursor.from_cursor(context.cursor, now.timestamp())
    summary: list[str] = []
    try:
        store = lake.connect(SENSOR_POLICY)
        if context.repository_def is None:
            raise dg.DagsterInvariantViolationError("this sensor needs the code location that defines it")
        resolver = DatasetResolver(context.repository_def.asset_graph, lake.settings, store, lake.database_file)
        summary.append(f"{record_runs(context.instance, cursor, resolver, lineage.namespace)} runs recorded")
        receiver = lineage.receiver
        if receiver is None:
            cursor.unsent = []
        else:
            sent, trouble = send(cursor, store, receiver.post)
            summary.append(f"{sent} sent, {len(cursor.unsent)} wait, {cursor.dropped} were dropped so far")
            if trouble:
                context.log.warning("Lineage events could not be sent to the receiver and are sent later: %s", trouble)
        if removed := remove_old(cursor, store, lake.layout, local_date(now), lineage.days):
            summary.append(f"{removed} objects older than {lineage.days} days removed")
    except ExternalError as error:
        context.log.warning("The object store failed; lineage of runs is recorded later: %s", error)
        summary.append("the object store failed")
    return dg.SensorResult(skip_reason=f"{'; '.join(summary)}.", cursor=cursor.to_cursor())
