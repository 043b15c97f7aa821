"""The reconciliation's findings about files of the lake."""

import time
from collections.abc import Callable, Mapping, Sequence

from prometheus_client.metrics_core import Metric

from wrm_pipeline.domain.lake_findings import totals
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.exporter.connection import Connection
from wrm_pipeline.exporter.families import gauge
from wrm_pipeline.lake.findings import LakeFindings
from wrm_pipeline.lake.object_store import ObjectStore

# As often as the reconciliation runs.
LOOK_EVERY_S = 300.0


class LakeFilesSource:
    """Counts by kind; zero if nothing is wrong."""

    name = "lake_files"

    def __init__(
        self, connect: Callable[[], ObjectStore], layout: Layout, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = Connection(connect)
        self._layout = layout
        self._clock = clock
        self._looked_at: float | None = None
        self._counts: Mapping[str, int] | None = None

    def collect(self) -> None:
        """One request every few minutes."""
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at < LOOK_EVERY_S:
            return
        with self._connection.use() as store:
            counts = totals(LakeFindings(store, self._layout).read())
        self._counts, self._looked_at = counts, now

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """By kind of finding."""
        if self._counts is None:
            return []
        text = "Objects of the lake that are not as the pipeline left them; their rows stay published"
        return [gauge("wrm_lake_findings", text, "kind", self._counts)]
