"""Constructors of Prometheus metric families, and the interface of their sources."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

Labels = tuple[str, ...]
LabelsT = TypeVar("LabelsT", bound=Labels)


class Source(Protocol):
    """Something that is read periodically, in its own thread.

    Scrapes call `families` while `collect` runs, or hangs: it only reads what the last complete `collect` stored by a
    single assignment.
    """

    name: str

    def collect(self) -> None:
        """Read; any exception makes this source stale and leaves the served values unchanged."""
        ...

    def families(self, now: float) -> Sequence[Metric]:
        """The metrics to serve; `now` (Unix seconds) is for ages."""
        ...


def counter(name: str, text: str, labels: Sequence[str], values: Mapping[LabelsT, float]) -> Metric:
    """A family of counters; `name` without `_total`."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key in sorted(values):
        family.add_metric(key, values[key])
    return family


def gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A family of gauges with one label."""
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key in sorted(values):
        family.add_metric((key,), values[key])
    return family


def single(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)
