"""Metrics that assets declare themselves: counters, gauges and histograms, by name and labels.

A run sums up what it records (`Recorded`), and so does the exporter for all runs. Names, labels and the number of
series are limited, so that a scrape stays small whatever an asset puts into a label.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["counter", "gauge", "histogram"]
KINDS: tuple[Kind, ...] = ("counter", "gauge", "histogram")

DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The default buckets of prometheus_client, in seconds."""

MAX_METRICS = 200
MAX_SERIES = 500
"""Series of one metric. Further ones are combined into one series, with `OTHER` as the value of each label."""
MAX_NUMBERS = 20_000
"""Samples of all series together, where a histogram's series has one per bucket; about 2 MB of a scrape."""
OTHER = "other"
_MAX_LABELS = 10
_MAX_LABEL_BYTES = 200
_MAX_BUCKETS = 50
_MAX_DOCUMENTATION = 500

ASSET_BLOCK = "asset_block_seconds"
"""What `observe_asset` records."""

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,99}")
RESERVED_PREFIXES = ("wrm_", "dagster_", "exporter_", "process_", "python_")
# Prometheus appends them: a gauge `x_sum` and a histogram `x` would both write `x_sum`.
_SUFFIXES = ("_total", "_created", "_bucket", "_count", "_sum")


@dataclass(frozen=True, slots=True)
class Declaration:
    """The declaration of a metric; `name` has no `_total`, `buckets` are upper bounds without infinity.

    Raises:
        ValueError: Prometheus would reject it, it has too many labels or buckets, or its name is reserved.
    """

    name: str
    kind: Kind
    documentation: str = ""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not a metric's name: use letters, digits and _, at most 100")
        if self.name.startswith(RESERVED_PREFIXES):
            raise ValueError(
                f"{self.name!r} begins with {', '.join(RESERVED_PREFIXES)}, as our own metrics do. Choose another name"
            )
        if self.name.endswith(_SUFFIXES):
            raise ValueError(
                f"{self.name!r} ends with {', '.join(_SUFFIXES)}, which Prometheus appends. Choose another name"
            )
        if len(self.labels) > _MAX_LABELS or len(self.buckets) > _MAX_BUCKETS:
            raise ValueError(
                f"{self.name} has {len(self.labels)} labels and {len(self.buckets)} buckets. Use at most "
                f"{_MAX_LABELS} and {_MAX_BUCKETS}"
            )
        for label in self.labels:
            if not _NAME.fullmatch(label) or label.startswith("__") or label == "le":
                raise ValueError(
                    f"{label!r} of {self.name} is not a label's name: use letters, digits and _, but not `le`"
                )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"{self.name} has a label twice: {', '.join(self.labels)}. Remove one")
        if self.kind == "histogram" and not (self.buckets and _ascending(self.buckets)):
            raise ValueError(f"buckets of {self.name} are not ascending finite numbers: {self.buckets}. Sort them")

    def nothing(self) -> list[float]:
        """The value before anything was recorded."""
        return [0.0] * (len(self.buckets) + 2 if self.kind == "histogram" else 2 if self.kind == "gauge" else 1)

    def add(self, value: list[float], amount: float, at: float) -> None:
        """Record once.

        A counter's value is its sum; a gauge's is the last value and its time (Unix seconds); a histogram's is the sum
        and the number in each bucket, the last of which is beyond all bounds.
        """
        if self.kind == "counter":
            value[0] += amount
        elif self.kind == "histogram":
            value[0] += amount
            value[1 + bisect_left(self.buckets, amount)] += 1
        elif at >= value[1]:
            value[:] = [amount, at]

    def merge(self, value: list[float], other: Sequence[float]) -> None:
        """Merge what another process has recorded."""
        if self.kind == "gauge":
            if other[1] >= value[1]:
                value[:] = other
        else:
            value[:] = [mine + theirs for mine, theirs in zip(value, other, strict=True)]


def _ascending(buckets: Sequence[float]) -> bool:
    return all(map(math.isfinite, buckets)) and list(buckets) == sorted(set(buckets))


def declare(
    name: str, kind: Kind, documentation: str, labels: Iterable[str], buckets: Iterable[float] = ()
) -> Declaration:
    """A declaration, with the name as prometheus_client accepts it (`requests_total` is `requests`).

    Raises:
        ValueError: as `Declaration`, or the name is that of `observe_asset`.
    """
    if kind == "counter":
        name = name.removesuffix("_total")
    bounds = tuple(float(bound) for bound in buckets if bound != math.inf)
    if name == ASSET_BLOCK:
        raise ValueError(f"{name!r} is what observe_asset records. Choose another name")
    text = documentation[:_MAX_DOCUMENTATION]
    return Declaration(name, kind, text, tuple(labels), bounds if kind == "histogram" else ())


def label_values(declaration: Declaration, given: Mapping[str, object]) -> tuple[str, ...]:
    """Values of the labels in order, as text of limited length.

    Raises:
        ValueError: the labels differ from the declared ones.
    """
    if set(given) != set(declaration.labels):
        wanted, got = ", ".join(declaration.labels) or "none", ", ".join(sorted(given)) or "none"
        raise ValueError(f"labels of {declaration.name}: declared are {wanted}, given are {got}. Give those declared")
    return tuple(
        str(given[name]).encode("utf-8", "replace")[:_MAX_LABEL_BYTES].decode("utf-8", "ignore")
        for name in declaration.labels
    )


def checked_amount(declaration: Declaration, amount: float) -> float:
    """Check an amount.

    Raises:
        ValueError: it is not a finite number, or a counter would decrease.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not math.isfinite(amount):
        raise ValueError(f"{amount!r} for {declaration.name} is not a finite number")
    if declaration.kind == "counter" and amount < 0:
        raise ValueError(f"{amount} for {declaration.name} would let a counter fall")
    return float(amount)


@dataclass(slots=True)
class Recorded:
    """Values by metric and labels.

    Of two different declarations of one name the later one is used, and the values of the earlier one are dropped: the
    code has changed. Beyond MAX_METRICS, a new metric is not recorded.
    """

    metrics: dict[str, tuple[Declaration, dict[tuple[str, ...], list[float]]]] = field(default_factory=dict)
    max_series: int = MAX_SERIES

    def declare(self, declaration: Declaration) -> None:
        """Declare a metric. One without labels has a value from now on."""
        known = self.metrics.get(declaration.name)
        if known is not None and _same(known[0], declaration):
            self.metrics[declaration.name] = (declaration, known[1])
            return
        if known is None and len(self.metrics) >= MAX_METRICS:
            return
        self.metrics[declaration.name] = (declaration, {})
        if not declaration.labels and declaration.kind != "gauge":
            self.metrics[declaration.name][1][()] = declaration.nothing()

    def add(self, declaration: Declaration, labels: tuple[str, ...], amount: float, at: float) -> None:
        """Record once; `at` in Unix seconds."""
        value = self._value(declaration, labels)
        if value is not None:
            declaration.add(value, amount, at)

    def merge(self, other: "Recorded") -> None:
        """Merge what another process has recorded."""
        for declaration, values in other.metrics.values():
            self.declare(declaration)
            for labels, value in values.items():
                mine = self._value(declaration, labels)
                if mine is not None:
                    declaration.merge(mine, value)

    def _value(self, declaration: Declaration, labels: tuple[str, ...]) -> list[float] | None:
        known = self.metrics.get(declaration.name)
        if known is None or not _same(known[0], declaration):
            self.declare(declaration)
            known = self.metrics.get(declaration.name)
        if known is None:
            return None
        values = known[1]
        if labels not in values and (len(values) >= self.max_series or self._numbers() >= MAX_NUMBERS):
            labels = (OTHER,) * len(labels)
        return values.setdefault(labels, declaration.nothing())

    def _numbers(self) -> int:
        return sum(len(values) * len(declaration.nothing()) for declaration, values in self.metrics.values())

    def to_json(self) -> list[Any]:
        """As JSON for a state file or an event."""
        return [
            [
                d.name,
                d.kind,
                d.documentation,
                list(d.labels),
                list(d.buckets),
                [[*key, *v] for key, v in values.items()],
            ]
            for d, values in self.metrics.values()
        ]

    @classmethod
    def from_json(cls, content: Any) -> "Recorded":
        """Parse; invalid parts are ignored, since others may have written them."""
        recorded = cls()
        for entry in content if isinstance(content, list) else ():
            try:
                name, kind, documentation, labels, buckets, rows = entry
                if kind not in KINDS:
                    continue
                declaration = Declaration(name, kind, str(documentation), tuple(labels), tuple(map(float, buckets)))
                size, width = len(declaration.labels), len(declaration.nothing())
                values = {
                    tuple(map(str, row[:size])): [float(number) for number in row[size:]]
                    for row in rows
                    if len(row) == size + width and all(map(math.isfinite, map(float, row[size:])))
                }
            except (TypeError, ValueError, AttributeError):
                continue
            recorded.declare(declaration)
            if name in recorded.metrics:
                recorded.metrics[name][1].update(values)
        return recorded


def _same(one: Declaration, other: Declaration) -> bool:
    """Whether values of the two can be added."""
    return (one.kind, one.labels, one.buckets) == (other.kind, other.labels, other.buckets)
