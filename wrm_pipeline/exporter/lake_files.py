"""The reconciliation's findings about files of the lake."""

from collections.abc import Mapping, Sequence

from prometheus_client.metrics_core import Metric

from wrm_pipeline.domain.lake_findings import totals
from wrm_pipeline.exporter.families import gauge
from wrm_pipeline.exporter.slow_sources import StoreSource
from wrm_pipeline.lake.findings import LakeFindings
from wrm_pipeline.lake.object_store import ObjectStore

# As often as the reconciliation runs.
LOOK_EVERY_S = 300.0


class LakeFilesSource(StoreSource):
    """Counts by kind; zero if nothing is wrong."""

    name = "lake_files"
    every_s = LOOK_EVERY_S
    _counts: Mapping[str, int] | None = None

    def look(self, store: ObjectStore) -> None:
        """One request."""
        self._counts = totals(LakeFindings(store, self.layout).read())

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """By kind of finding."""
        if self._counts is None:
            return []
        text = "Objects of the lake that are not as the pipeline left them; their rows stay published"
        return [gauge("wrm_lake_findings", text, "kind", self._counts)]
