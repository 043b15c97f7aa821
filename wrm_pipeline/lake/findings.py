"""Findings of the reconciliation about days of the lake: one small object, which exists while there are any."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.domain import lake_findings
from wrm_pipeline.domain.lake_findings import DayFindings
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.lake.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class LakeFindings:
    """Written by the reconciliation; read by a check, the doctor and the exporter."""

    store: ObjectStore
    layout: Layout

    def read(self) -> dict[date, DayFindings]:
        """Findings by day; empty if nothing is wrong. One request.

        Raises:
            ExternalError: the store failed.
        """
        try:
            return lake_findings.from_json(json.loads(self.store.get(self.layout.findings_key)))
        except ObjectNotFoundError:
            return {}
        except (ValueError, RecursionError):
            return {}  # not ours; it is written again

    def update(self, compared: Mapping[date, DayFindings], days: Collection[date]) -> None:
        """Record the findings of days just compared; `days` are all existing ones. Written only if something changed.

        Raises:
            ExternalError: the store failed; the next reconciliation records it.
        """
        before = self.read()
        merged = {dt: day for dt, day in (before | dict(compared)).items() if day and dt in days}
        if merged == before:
            return
        if not merged:
            self.store.delete(self.layout.findings_key)
            return
        body = json.dumps(lake_findings.to_json(merged), ensure_ascii=False, indent=1).encode()
        self.store.put(self.layout.findings_key, body, content_type="application/json")
