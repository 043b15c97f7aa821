"""Health of Dagster itself: its queue, its daemons, the ticks of its sensors and schedules."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import dagster as dg
from prometheus_client.metrics_core import Metric

from wrm_pipeline.exporter.connection import Connection
from wrm_pipeline.exporter.counting_source import CountingSource
from wrm_pipeline.exporter.families import Labels, counter, gauge
from wrm_pipeline.exporter.vocabulary import TICK_STATUSES, one_of

Status = dg.DagsterRunStatus

# Processes on one machine share a clock; only rounding differs.
MAX_AHEAD_S = 60.0

_STATES = {
    "queued": [Status.QUEUED],
    "starting": [Status.NOT_STARTED, Status.STARTING],
    "started": [Status.STARTED],
    "canceling": [Status.CANCELING],
}
_WAITING = {
    "queued": [Status.QUEUED],
    "running": [Status.STARTING, Status.STARTED, Status.CANCELING],
}


@dataclass(frozen=True, slots=True)
class _Health:
    runs: Mapping[str, int]
    oldest: Mapping[str, float | None]
    heartbeats: Mapping[str, float | None]


class HealthSource:
    """Queued and running runs, and the daemons' heartbeats."""

    name = "dagster"

    def __init__(self, connect: Callable[[], dg.DagsterInstance]) -> None:
        self._connection = Connection(connect)
        self._health: _Health | None = None

    def collect(self) -> None:
        """A few counts and look-ups."""
        with self._connection.use() as instance:
            self._health = _look(instance)

    def families(self, now: float) -> Sequence[Metric]:
        """Ages also grow between two reads."""
        health = self._health
        if health is None:
            return []
        ages = {state: max(now - at, 0.0) if at else 0.0 for state, at in health.oldest.items()}
        beats = {daemon: math.inf if at is None else _age(at, now) for daemon, at in health.heartbeats.items()}
        return [
            gauge("dagster_runs_in_state", "Runs now", "state", health.runs),
            gauge("dagster_run_oldest_age_seconds", "Age of the oldest such run; 0 if there is none", "state", ages),
            gauge(
                "dagster_daemon_heartbeat_age_seconds",
                "Time since the daemon's last sign of life; +Inf if it never gave one",
                "daemon",
                beats,
            ),
        ]


def _age(at: float, now: float) -> float:
    """Seconds since a sign of life. One from the future, from when the clock was ahead, says nothing about now."""
    return math.inf if at > now + MAX_AHEAD_S else max(now - at, 0.0)


def _look(instance: dg.DagsterInstance) -> _Health:
    runs = {state: instance.get_runs_count(dg.RunsFilter(statuses=found)) for state, found in _STATES.items()}
    oldest = {state: _oldest(instance, found) for state, found in _WAITING.items()}
    heartbeats = {
        daemon: status.last_heartbeat.timestamp if status.last_heartbeat else None
        for daemon, status in instance.get_daemon_statuses().items()
        if status.required
    }
    return _Health(runs, oldest, heartbeats)


def _oldest(instance: dg.DagsterInstance, statuses: list[dg.DagsterRunStatus]) -> float | None:
    found = instance.get_run_records(dg.RunsFilter(statuses=statuses), limit=1, ascending=True)
    return (found[0].start_time or found[0].create_timestamp.timestamp()) if found else None


@dataclass(frozen=True, slots=True)
class _Ticks:
    totals: Counter[Labels] = field(default_factory=Counter)
    counted: Mapping[str, float] = field(default_factory=dict)
    """Tick id -> time."""
    newest: float = 0.0


class TickSource(CountingSource):
    """Evaluations of sensors and schedules, counted here because Dagster deletes old ticks."""

    name = "ticks"
    # A tick gets its result up to a minute after its time.
    LOOK_BACK_S = 600.0
    # How much of the past a new exporter counts.
    FIRST_LOOK_BACK_S = 3600.0

    def _restore(self, content: Any) -> None:
        self._ticks = _Ticks()
        if content:
            totals = Counter[Labels]({(name, status): count for name, status, count in content["totals"]})
            self._ticks = _Ticks(totals, content["counted"], content["newest"])

    def _count(self, instance: dg.DagsterInstance) -> None:
        now = self._clock()
        before = self._ticks
        since = min(before.newest, now) - self.LOOK_BACK_S if before.newest else now - self.FIRST_LOOK_BACK_S
        totals, counted, newest = Counter(before.totals), dict(before.counted), before.newest
        for state in instance.all_instigator_state():
            name = one_of(state.instigator_name, self._words.instigators)
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since):
                tick_id, status = f"{tick.tick_id}@{tick.timestamp}", tick.status.value.lower()
                if status in TICK_STATUSES and tick_id not in counted:
                    counted[tick_id] = tick.timestamp
                    totals[name, status] += 1
                    newest = max(newest, tick.timestamp)
        after = _Ticks(totals, {tick_id: at for tick_id, at in counted.items() if at >= since}, newest)
        if after != before:
            self._state.save(
                {
                    "totals": [[*key, count] for key, count in totals.items()],
                    "counted": after.counted,
                    "newest": newest,
                }
            )
            self._ticks = after

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002 - counters have no age
        """By sensor or schedule."""
        zeros: dict[Labels, float] = dict.fromkeys(product(self._words.instigators, TICK_STATUSES), 0)
        return [
            counter(
                "dagster_ticks",
                "Evaluations of sensors and schedules",
                ("instigator", "status"),
                {**zeros, **self._ticks.totals},
            )
        ]
