"""Short words for Prometheus metric families."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

Labels = tuple[str, ...]
LabelsT = TypeVar("LabelsT", bound=Labels)


class Source(Protocol):
    """One thing that is looked at again and again, in a thread of its own.

    `families` is called by scrapes while `collect` runs, perhaps hanging: it only reads what the last complete
    `collect` left, by one assignment.
    """

    name: str

    def collect(self) -> None:
        """Look; whatever it raises makes this source stale, and changes nothing that is served."""
        ...

    def families(self, now: float) -> Sequence[Metric]:
        """What is served; `now` (Unix seconds) is for ages."""
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
