"""Counters that outlive the runs they count, and the exporter itself."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import Any, Self

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from wrm_pipeline.domain.declared_metrics import Declaration, Recorded
from wrm_pipeline.exporter.families import Labels, counter
from wrm_pipeline.exporter.vocabulary import (
    ASSET_STATUSES,
    CACHE_RESULTS,
    REQUEST_OUTCOMES,
    ROW_OUTCOMES,
    RUN_STATUSES,
    TARGETS,
    USUAL_REQUESTS,
    Vocabulary,
    one_of,
    operation_label,
)

# A step takes from tenths of a second to a few minutes; a run is terminated after 900 s.
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What one ended run adds to the counters.

    Attributes:
        assets: What became of each asset of the run (ASSET_STATUSES).
        durations: Seconds of each completed step, by asset.
        rows: By (asset, outcome).
        requests: By (target, operation, outcome).
        declared: Metrics that assets have declared, by the process that recorded them.
    """

    job: str
    status: str
    assets: Mapping[str, str] = field(default_factory=dict)
    durations: Sequence[tuple[str, float]] = ()
    rows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    requests: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    cache: Mapping[str, int] = field(default_factory=dict)
    declared: Mapping[str, Recorded] = field(default_factory=dict)


@dataclass(slots=True)
class Durations:
    """A histogram: the count in each bucket (the last is beyond all bounds), and the sum."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Add one observation."""
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class Totals:
    """Everything counted so far. Values of labels are those of the vocabulary, or `other`."""

    assets: Counter[Labels] = field(default_factory=Counter)
    jobs: Counter[Labels] = field(default_factory=Counter)
    rows: Counter[Labels] = field(default_factory=Counter)
    requests: Counter[Labels] = field(default_factory=Counter)
    cache: Counter[Labels] = field(default_factory=Counter)
    durations: dict[str, Durations] = field(default_factory=dict)
    declared: Recorded = field(default_factory=Recorded)

    def add(self, run: RunFacts, words: Vocabulary) -> None:
        """Count an ended run."""
        self.jobs[one_of(run.job, words.jobs), one_of(run.status, RUN_STATUSES)] += 1
        for asset, status in run.assets.items():
            self.assets[one_of(asset, words.assets), one_of(status, ASSET_STATUSES)] += 1
        for asset, seconds in run.durations:
            self.durations.setdefault(one_of(asset, words.assets), Durations()).add(seconds)
        for (asset, outcome), count in run.rows.items():
            self.rows[one_of(asset, words.assets), one_of(outcome, ROW_OUTCOMES)] += count
        for (target, operation, outcome), count in run.requests.items():
            known = {key[1] for key in self.requests} | {key[1] for key in USUAL_REQUESTS}
            label = operation_label(operation, known)
            self.requests[one_of(target, TARGETS), label, one_of(outcome, REQUEST_OUTCOMES)] += count
        for result, count in run.cache.items():
            self.cache[(one_of(result, CACHE_RESULTS),)] += count
        for recorded in run.declared.values():
            self.declared.merge(recorded)

    def families(self, words: Vocabulary) -> list[Metric]:
        """All metric families; events that have not happened yet have 0."""
        retries: Counter[Labels] = Counter({(target,): 0 for target in TARGETS})
        for (target, _, outcome), count in self.requests.items():
            if outcome == "retried":
                retries[(target,)] += count
        usual = [(*request, outcome) for request, outcome in product(USUAL_REQUESTS, REQUEST_OUTCOMES)]
        return [
            counter(
                "dagster_asset_runs",
                "Runs that were to materialize the asset, by outcome; skipped: something before it failed",
                ("asset_name", "status"),
                _with_zeros(self.assets, product(words.assets, ASSET_STATUSES)),
            ),
            self._histogram(words),
            counter(
                "dagster_runs",
                "Ended runs",
                ("job_name", "status"),
                _with_zeros(self.jobs, product(words.jobs, RUN_STATUSES)),
            ),
            counter(
                "wrm_rows",
                "Rows that runs handled, by outcome",
                ("asset_name", "outcome"),
                _with_zeros(self.rows, product(words.assets, ROW_OUTCOMES)),
            ),
            counter(
                "wrm_external_requests",
                "Requests of runs to outside systems, each attempt counted",
                ("target", "operation", "outcome"),
                _with_zeros(self.requests, usual),
            ),
            counter("wrm_retries", "Failed requests that were followed by another attempt", ("target",), retries),
            counter(
                "wrm_cache_requests",
                "Look-ups in the cache",
                ("result",),
                _with_zeros(self.cache, ((result,) for result in CACHE_RESULTS)),
            ),
            *(declared_family(declaration, values) for declaration, values in self.declared.metrics.values()),
        ]

    def _histogram(self, words: Vocabulary) -> Metric:
        family = HistogramMetricFamily(
            "dagster_asset_run_duration_seconds",
            "Duration of an asset's step; steps whose process was killed have none",
            labels=("asset_name",),
        )
        for asset in sorted({*words.assets, *self.durations}):
            durations = self.durations.get(asset, Durations())
            bounds = [*map(str, BUCKETS_S), "+Inf"]
            family.add_metric(
                (asset,), list(zip(bounds, accumulate(durations.buckets), strict=True)), sum_value=durations.sum_s
            )
        return family

    def to_json(self) -> dict[str, Any]:
        """For the state file."""
        return {
            **{name: [[*key, value] for key, value in getattr(self, name).items()] for name in _COUNTERS},
            "durations": {asset: [d.sum_s, *d.buckets] for asset, d in self.durations.items()},
            "declared": self.declared.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From the state file."""
        counters = {name: Counter({tuple(key): value for *key, value in content[name]}) for name in _COUNTERS}
        durations = {asset: Durations(buckets, sum_s) for asset, (sum_s, *buckets) in content["durations"].items()}
        return cls(**counters, durations=durations, declared=Recorded.from_json(content.get("declared")))


_COUNTERS = ("assets", "jobs", "rows", "requests", "cache")


def declared_family(declaration: Declaration, values: Mapping[Labels, Sequence[float]]) -> Metric:
    """A metric that an asset has declared, in Prometheus' form."""
    name, text, labels = declaration.name, declaration.documentation or declaration.name, declaration.labels
    if declaration.kind == "counter":
        return counter(name, text, labels, {key: value[0] for key, value in values.items()})
    if declaration.kind == "gauge":
        gauge = GaugeMetricFamily(name, text, labels=labels)
        for key in sorted(values):
            gauge.add_metric(key, values[key][0])
        return gauge
    histogram = HistogramMetricFamily(name, text, labels=labels)
    bounds = [*map(str, declaration.buckets), "+Inf"]
    for key in sorted(values):
        total, *buckets = values[key]
        histogram.add_metric(key, list(zip(bounds, accumulate(buckets), strict=True)), sum_value=total)
    return histogram


def _with_zeros(values: Counter[Labels], keys: Any) -> dict[Labels, float]:
    return {**dict.fromkeys(map(tuple, keys), 0), **values}
