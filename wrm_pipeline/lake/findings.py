"""What the thorough look has found wrong with days of the lake: one small object, there while there is something."""

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
    """Read by a check, the doctor and the exporter, written by the reconciliation; all of them only look."""

    store: ObjectStore
    layout: Layout

    def read(self) -> dict[date, DayFindings]:
        """By day; empty where nothing is wrong. One request.

        Raises:
            ExternalError: the store failed.
        """
        try:
            return lake_findings.from_json(json.loads(self.store.get(self.layout.findings_key)))
        except ObjectNotFoundError:
            return {}
        except (ValueError, RecursionError):
            return {}  # someone else's; it is written again

    def update(self, compared: Mapping[date, DayFindings], days: Collection[date]) -> None:
        """Put the days that were just compared in; `days` are all that there are. Written only if that changes it.

        Raises:
            ExternalError: the store failed; the next look does it.
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
