"""Findings of the reconciliation about days of the lake: one small object, which exists while there are any."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

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


@dataclass(frozen=True, slots=True)
class FeedStates:
    """The state of each feed; written by the check of the feeds, read by the exporter and the report."""

    store: ObjectStore
    layout: Layout

    def read(self) -> list[dict[str, Any]]:
        """The states (`FeedHealth.to_json`); empty if there are none. One request.

        Raises:
            ExternalError: the store failed.
        """
        try:
            content = json.loads(self.store.get(self.layout.feeds_key))
        except (ObjectNotFoundError, ValueError, RecursionError):
            return []
        found = content.get("feeds") if isinstance(content, dict) else None
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def update(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Replace them. Written only if something changed.

        Raises:
            ExternalError: the store failed; the next check writes them.
        """
        if list(states) != self.read():
            body = json.dumps({"feeds": list(states)}, ensure_ascii=False, indent=1).encode()
            self.store.put(self.layout.feeds_key, body, content_type="application/json")
