"""Counts ended runs, each exactly once, whatever happens to this process or to Dagster's history afterwards.

Dagster's event log lists ended runs in the order of storage. The cursor into it and the counters are kept in one file,
which is replaced before anything new is served, so counters never fall or double. The cursor stays ten minutes behind:
with PostgreSQL a smaller id may become visible after a larger one, and SQLite reuses the ids of deleted rows. Runs
counted in between are remembered by id.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
from prometheus_client.metrics_core import Metric

from wrm_pipeline.clients.metrics_log import logs_of, read_log, remove_forgotten
from wrm_pipeline.domain.declared_metrics import Recorded
from wrm_pipeline.exporter.counting_source import CountingSource
from wrm_pipeline.exporter.state_file import StateFile
from wrm_pipeline.exporter.totals import RunFacts, Totals
from wrm_pipeline.exporter.vocabulary import Vocabulary
from wrm_pipeline.resources.metrics import DECLARED, PROCESS

EventType = dg.DagsterEventType

ENDINGS = {
    EventType.RUN_SUCCESS: "success",
    EventType.RUN_FAILURE: "failure",
    EventType.RUN_CANCELED: "canceled",
}
LAG_S = 600.0
# A counted run is remembered for longer than the cursor stays behind.
REMEMBERED_S = 6 * LAG_S
PAGE = 100

_READ = {
    EventType.ASSET_MATERIALIZATION_PLANNED,
    EventType.ASSET_MATERIALIZATION,
    EventType.ASSET_OBSERVATION,
    EventType.STEP_START,
    EventType.STEP_SUCCESS,
    EventType.STEP_FAILURE,
    EventType.ENGINE_EVENT,
}


@dataclass(slots=True)
class Place:
    """How far one kind of ending has been read for good."""

    cursor: str | None = None
    last_id: int = -1
    newest: float = 0.0
    """When the newest counted run ended."""
    floor: float = 0.0
    """Runs that ended before this were counted already, under ids that Dagster's history no longer has."""


@dataclass(slots=True)
class Ledger:
    """The content of the state file: counters, and the runs they have counted."""

    totals: Totals = field(default_factory=Totals)
    places: dict[str, Place] = field(default_factory=lambda: {status: Place() for status in ENDINGS.values()})
    counted: dict[str, float] = field(default_factory=dict)
    """Run id -> when it was counted."""

    def to_json(self) -> dict[str, Any]:
        """For the state file."""
        places = {status: asdict(place) for status, place in self.places.items()}
        return {"totals": self.totals.to_json(), "places": places, "counted": self.counted}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Ledger":
        """From the state file."""
        places = {status: Place(**place) for status, place in content["places"].items()}
        return cls(Totals.from_json(content["totals"]), places, dict(content["counted"]))


class RunSource(CountingSource):
    """Counters of ended runs.

    Args (beside those of `CountingSource`):
        metrics: Where runs record the metrics that assets declare; None: they are not counted.
    """

    name = "runs"

    def __init__(
        self,
        connect: Callable[[], dg.DagsterInstance],
        words: Vocabulary,
        state: StateFile,
        *,
        metrics: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(connect, words, state, clock=clock)
        self._metrics = metrics

    def _restore(self, content: Any) -> None:
        self._ledger = Ledger.from_json(content) if content else Ledger()

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002 - counters have no age
        """The counters."""
        return self._ledger.totals.families(self._words)

    def collect(self) -> None:
        """Count the runs that have ended since, and delete what killed runs left that nobody counts."""
        super().collect()
        if self._metrics is not None:
            remove_forgotten(self._metrics, self._clock())

    def _count(self, instance: dg.DagsterInstance) -> None:
        # A long history is counted page by page, each kept before the next is read.
        for event_type, status in ENDINGS.items():
            if self._history_began_again(instance, event_type, self._ledger.places[status]):
                draft = deepcopy(self._ledger)
                draft.places[status] = Place(floor=draft.places[status].newest)
                self._keep(draft)
            self._read(instance, event_type, status)

    def _read(self, instance: dg.DagsterInstance, event_type: dg.DagsterEventType, status: str) -> None:
        after, settled_so_far = self._ledger.places[status].cursor, True
        while True:
            page = instance.fetch_run_status_changes(event_type, limit=PAGE, cursor=after, ascending=True)
            now = self._clock()
            draft = deepcopy(self._ledger)
            place = draft.places[status]
            left: list[Path] = []
            for record in page.records:
                if record.run_id in draft.counted or record.timestamp <= place.floor:
                    continue
                facts = read_run(instance, record, status)
                killed = logs_of(self._metrics, record.run_id) if self._metrics else {}
                draft.totals.add(with_what_was_left(facts, killed), self._words)
                left += killed.values()
                place.newest = max(place.newest, record.timestamp)
                if record.timestamp >= now - LAG_S:
                    draft.counted[record.run_id] = now
            if settled_so_far:
                settled = _settled(page.records, draft.counted, now - LAG_S)
                settled_so_far = settled == len(page.records)
                if settled_so_far:
                    _move(place, page)
                elif settled:
                    _move(
                        place,
                        instance.fetch_run_status_changes(event_type, limit=settled, cursor=after, ascending=True),
                    )
            # A clock that was ahead must not hold the cursor back until its time has come.
            draft.counted = {run_id: min(at, now) for run_id, at in draft.counted.items() if at >= now - REMEMBERED_S}
            if draft != self._ledger:
                self._keep(draft)
            for path in left:  # their sums are in the state file by now
                path.unlink(missing_ok=True)
            after = page.cursor
            if not page.has_more:
                return

    @staticmethod
    def _history_began_again(instance: dg.DagsterInstance, event_type: dg.DagsterEventType, place: Place) -> bool:
        """Whether ids start over: another database, or SQLite after all its rows, or the newest, were deleted."""
        if place.last_id < 0:
            return False
        newest = instance.fetch_run_status_changes(event_type, limit=1).records
        oldest = instance.fetch_run_status_changes(event_type, limit=1, ascending=True).records
        return any(record.storage_id < place.last_id for record in newest) or any(
            record.storage_id <= place.last_id and record.timestamp > place.newest for record in oldest
        )

    def _keep(self, draft: Ledger) -> None:
        self._state.save(draft.to_json())
        self._ledger = draft


def _settled(records: Sequence[dg.EventLogRecord], counted: Mapping[str, float], before: float) -> int:
    """How many of the first records need not be read again."""
    for index, record in enumerate(records):
        if min(record.timestamp, counted.get(record.run_id, record.timestamp)) >= before:
            return index
    return len(records)


def _move(place: Place, page: Any) -> None:
    if page.records:
        place.cursor, place.last_id = page.cursor, page.records[-1].storage_id


def with_what_was_left(facts: RunFacts, killed: Mapping[str, Path]) -> RunFacts:
    """A run with the records of its killed processes; a process with sums in the event log has nothing to add."""
    left = {process: read_log(path) for process, path in killed.items() if process not in facts.declared}
    return replace(facts, declared={**facts.declared, **left}) if left else facts


def read_run(instance: dg.DagsterInstance, ending: dg.EventLogRecord, status: str) -> RunFacts:
    """Facts from an ended run's events; of a run deleted meanwhile, only how it ended."""
    return facts_of(_events(instance, ending.run_id), job=ending.event_log_entry.job_name or "", status=status)


def _events(instance: dg.DagsterInstance, run_id: str) -> Iterable[tuple[dg.DagsterEvent, float]]:
    cursor = None
    while True:
        page = instance.get_records_for_run(run_id, cursor=cursor, of_type=_READ, limit=1000)
        for record in page.records:
            if record.event_log_entry.dagster_event is not None:
                yield record.event_log_entry.dagster_event, record.timestamp
        if not page.has_more:
            return
        cursor = page.cursor


def facts_of(events: Iterable[tuple[dg.DagsterEvent, float]], *, job: str, status: str) -> RunFacts:
    """Sum up a run's events, given with their times."""
    planned: dict[str, set[str]] = {}
    began: dict[str, float] = {}
    ended: dict[str, tuple[str, float]] = {}
    materialized: set[str] = set()
    rows: Counter[tuple[str, str]] = Counter()
    requests: Counter[tuple[str, str, str]] = Counter()
    cache: Counter[str] = Counter()
    declared: dict[str, Recorded] = {}
    for event, at in events:
        step = event.step_key or ""
        if event.event_type == EventType.STEP_START:
            began.setdefault(step, at)
            continue
        if event.event_type in (EventType.STEP_SUCCESS, EventType.STEP_FAILURE):
            ended[step] = ("success" if event.event_type == EventType.STEP_SUCCESS else "failure", at)
        names = {"/".join(event.asset_key.path)} if event.asset_key else planned.get(step, set())
        if event.event_type == EventType.ASSET_MATERIALIZATION_PLANNED:
            planned.setdefault(step, set()).update(names)
        elif event.event_type == EventType.ASSET_MATERIALIZATION:
            materialized |= names
        metadata = _metadata(event)
        if event.event_type == EventType.ENGINE_EVENT:
            if DECLARED in metadata:
                process = str(getattr(metadata.get(PROCESS), "value", ""))
                declared[process] = Recorded.from_json(getattr(metadata[DECLARED], "value", None))
            continue
        for asset in sorted(names)[:1]:
            rows.update({(asset, outcome): count for outcome, count in _counts(metadata, "handled_rows").items()})
        for name in ("external_requests", "write_requests"):
            for words, count in _counts(metadata, name).items():
                target, operation, outcome = [*words.split(" "), "", ""][:3]
                requests[target, operation, outcome] += count
        cache.update(_counts(metadata, "cache_requests"))
    assets = dict.fromkeys(materialized, "success")
    for step, names in planned.items():
        assets |= dict.fromkeys(names, _outcome(step, status, began, ended))
    durations = [
        (asset, max(at - began[step], 0.0))
        for step, (_, at) in ended.items()
        if step in began
        for asset in planned.get(step, ())
    ]
    return RunFacts(job, status, assets, durations, rows, requests, cache, declared)


def _outcome(step: str, status: str, began: Mapping[str, float], ended: Mapping[str, tuple[str, float]]) -> str:
    if step in ended:
        return ended[step][0]
    if status == "canceled":
        return "canceled"
    if step in began:
        return "failure"  # its process died during the step
    another_is_to_blame = (
        status == "success" or len(began) > len(ended) or any(s == "failure" for s, _ in ended.values())
    )
    return "skipped" if another_is_to_blame else "failure"


def _metadata(event: dg.DagsterEvent) -> Mapping[str, Any]:
    if event.event_type == EventType.ASSET_MATERIALIZATION:
        return event.step_materialization_data.materialization.metadata
    if event.event_type == EventType.ASSET_OBSERVATION:
        return event.asset_observation_data.asset_observation.metadata
    if event.event_type == EventType.ENGINE_EVENT:
        return event.engine_event_data.metadata
    if event.event_type == EventType.STEP_FAILURE:
        failure = event.step_failure_data.user_failure_data
        return failure.metadata if failure else {}
    return {}


def _counts(metadata: Mapping[str, Any], name: str) -> dict[str, int]:
    """A JSON object of integers; anything else is ignored."""
    value = getattr(metadata.get(name), "value", None)
    if not isinstance(value, Mapping):
        return {}
    return {str(key): count for key, count in value.items() if type(count) is int and count > 0}
