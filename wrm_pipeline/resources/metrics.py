"""`metrics`: counters, gauges and histograms of any asset, which the exporter shows on /metrics."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._core.events import EngineEventData
from pydantic import Field, PrivateAttr

from wrm_pipeline.clients.metrics_log import MetricsLog, process_name
from wrm_pipeline.domain.declared_metrics import (
    ASSET_BLOCK,
    DEFAULT_BUCKETS,
    MAX_SERIES,
    Declaration,
    checked_amount,
    declare,
    label_values,
)
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.resources.base import BaseResource
from wrm_pipeline.resources.requests import requests_made
from wrm_pipeline.settings import Settings

# Metadata of the event in which a process leaves its sums for the exporter, with its own name.
DECLARED, PROCESS = "declared_metrics", "process"

_ASSET_BLOCK = Declaration(
    ASSET_BLOCK,
    "histogram",
    "Time in observe_asset, by how it ended",
    ("asset_name", "outcome"),
    # From a tenth of a second to the longest that a run takes.
    (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0),
)


class NotInARunError(RuntimeError):
    """A metric was used outside of a run."""


class Metric:
    """A declared metric, or one of its series; as of prometheus_client."""

    def __init__(self, log: MetricsLog, declaration: Declaration, series: tuple[str, ...] | None = None) -> None:
        self._log = log
        self._declaration = declaration
        self._series = series if declaration.labels else ()

    def labels(self, **values: object) -> Self:
        """The series of these labels, with known secrets masked.

        Raises:
            ValueError: other labels than were declared.
        """
        masked = {name: self._log.masked(str(value)) for name, value in values.items()}
        return type(self)(self._log, self._declaration, label_values(self._declaration, masked))

    def _record(self, amount: float) -> None:
        if self._series is None:
            label_values(self._declaration, {})  # names the missing ones
        self._log.record(self._declaration, self._series or (), checked_amount(self._declaration, amount))


class Counter(Metric):
    """A number that only rises."""

    def inc(self, amount: float = 1) -> None:
        """Count; durable when this returns.

        Raises:
            ValueError: a negative amount, or labels are missing.
        """
        self._record(amount)


class Gauge(Metric):
    """A number that is set; the exporter shows what was set last, by any run."""

    def set(self, value: float) -> None:
        """Set it; durable when this returns.

        Raises:
            ValueError: not a finite number, or labels are missing.
        """
        self._record(value)


class Histogram(Metric):
    """How many values fell into each bucket."""

    def observe(self, value: float) -> None:
        """Count a value; durable when this returns.

        Raises:
            ValueError: not a finite number, or labels are missing.
        """
        self._record(value)

    @contextmanager
    def time(self) -> Iterator[None]:
        """Observe how many seconds a block takes, whether it fails or not."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - began)


class ObservedAsset:
    """What an asset reports inside `observe_asset`."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def add_rows(self, out: int = 0, *, dead_lettered: int = 0, duplicate: int = 0) -> None:
        """Rows for `wrm_rows_total{asset_name}`."""
        for outcome, count in (("out", out), ("dead_lettered", dead_lettered), ("duplicate", duplicate)):
            self.rows[outcome] = self.rows.get(outcome, 0) + count


class MetricsResource(BaseResource):
    """Counters, gauges and histograms that assets declare by name and labels, right across runs, retries and crashes.

    Each record is on the disk when the call returns. When the process ends, its sums go into Dagster's event log; the
    exporter adds up the runs, those that were killed included.
    """

    folder: str = Field(description="$WRM_DATA_DIR/metrics, where the exporter looks for what killed processes left")
    max_series: int = Field(
        default=MAX_SERIES, ge=1, le=MAX_SERIES, description="Series of a metric in a run; the others are `other`"
    )
    _log: MetricsLog | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The resource as the settings want it."""
        return cls(folder=str(settings.metrics_dir))

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Dagster calls this when a run begins."""
        if context.run is not None:
            self._log = MetricsLog(Path(self.folder).expanduser(), context.run.run_id, self.max_series)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Dagster calls this before it reports a run's end: leave the sums for the exporter in the event log."""
        log = self._log
        if log is None or not log.recorded.metrics or context.run is None or context.instance is None:
            return
        metadata: dict[str, Any] = {
            DECLARED: dg.MetadataValue.json(log.recorded.to_json()),
            PROCESS: dg.MetadataValue.text(process_name()),
        }
        context.instance.report_engine_event("Metrics of this process", context.run, EngineEventData(metadata=metadata))
        log.close()

    def counter(self, name: str, documentation: str = "", labelnames: Iterable[str] = ()) -> Counter:
        """A counter; the exporter shows it as `name_total`.

        Raises:
            ValueError: Prometheus would not take the name or a label, or the name is the pipeline's own.
            NotInARunError: there is no run.
        """
        return Counter(*self._declared(declare(name, "counter", redact(documentation), labelnames)))

    def gauge(self, name: str, documentation: str = "", labelnames: Iterable[str] = ()) -> Gauge:
        """A gauge. Raises as `counter`."""
        return Gauge(*self._declared(declare(name, "gauge", redact(documentation), labelnames)))

    def histogram(
        self,
        name: str,
        documentation: str = "",
        labelnames: Iterable[str] = (),
        buckets: Iterable[float] = DEFAULT_BUCKETS,
    ) -> Histogram:
        """A histogram with these upper bounds. Raises as `counter`."""
        return Histogram(*self._declared(declare(name, "histogram", redact(documentation), labelnames, buckets)))

    @contextmanager
    def observe_asset(self, context: dg.AssetExecutionContext) -> Iterator[ObservedAsset]:
        """Measure an asset as the pipeline's own are: time, outcome, rows, and requests to outside systems.

        Rows and requests go into its metadata, and from there to `wrm_rows_total` and `wrm_external_requests_total`; if
        the block fails, into an observation. Time and outcome are the histogram
        `asset_block_seconds{asset_name,outcome}`.
        """
        name = context.asset_key.to_user_string()
        seconds = Histogram(*self._declared(_ASSET_BLOCK))
        observed, began = ObservedAsset(), time.perf_counter()
        try:
            yield observed
        except BaseException:
            seconds.labels(asset_name=name, outcome="failure").observe(time.perf_counter() - began)
            context.log_event(dg.AssetObservation(context.asset_key, metadata=_metadata(observed)))
            raise
        seconds.labels(asset_name=name, outcome="success").observe(time.perf_counter() - began)
        # Only one day of a range has it: the exporter would add up what each of them has.
        day = context.partition_keys[0] if context.has_partition_key or context.has_partition_key_range else None
        context.add_asset_metadata(_metadata(observed), partition_key=day)

    def _declared(self, declaration: Declaration) -> tuple[MetricsLog, Declaration]:
        if self._log is None:
            raise NotInARunError(
                f"{declaration.name} can only be recorded in a run: the exporter counts runs. Materialize the asset"
            )
        self._log.declare(declaration)
        return self._log, declaration


def _metadata(observed: ObservedAsset) -> Mapping[str, Any]:
    rows = {outcome: count for outcome, count in observed.rows.items() if count}
    return {**requests_made(), **({"handled_rows": rows} if rows else {})}
