"""Problems of a day in the lake that only a person can fix, as found by the thorough scan."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from wrm_pipeline.domain.layout import folder_date

# Rows stay published, but their raw objects have changed or vanished.
VANISHED, REFUSED, UNREADABLE = "vanished", "refused", "unreadable"
# Files in the folder of a partition that are not ours, and ours that cannot be read and cannot be built again.
FOREIGN, DAMAGED = "foreign", "damaged"
KINDS = (VANISHED, REFUSED, UNREADABLE, FOREIGN, DAMAGED)

# Objects listed by name per kind and day; the rest is only counted.
NAMED = 5


@dataclass(frozen=True, slots=True)
class Found:
    """The number of objects of a day, and some of them with details."""

    count: int
    named: tuple[str, ...]

    @classmethod
    def of(cls, objects: Iterable[str]) -> "Found":
        """Count them, and keep the first ones in order."""
        everything = sorted(objects)
        return cls(len(everything), tuple(everything[:NAMED]))


@dataclass(frozen=True, slots=True)
class DayFindings:
    """The problems of one day by kind; kinds without any are absent."""

    found: Mapping[str, Found] = field(default_factory=dict)

    @classmethod
    def of(cls, **kinds: Iterable[str]) -> "DayFindings":
        """From objects by kind."""
        return cls({kind: found for kind, objects in kinds.items() if (found := Found.of(objects)).count})

    def without(self, *kinds: str) -> "DayFindings":
        """The others."""
        return DayFindings({kind: found for kind, found in self.found.items() if kind not in kinds})

    def __bool__(self) -> bool:
        return bool(self.found)


def to_json(findings: Mapping[date, DayFindings]) -> dict[str, Any]:
    """As a JSON value, in the order of days."""
    return {
        dt.isoformat(): {kind: {"count": f.count, "named": list(f.named)} for kind, f in sorted(day.found.items())}
        for dt, day in sorted(findings.items())
    }


def from_json(content: Any) -> dict[date, DayFindings]:
    """Parse; invalid entries are ignored, since the next scans find them again."""
    findings: dict[date, DayFindings] = {}
    for text, kinds in content.items() if isinstance(content, dict) else ():
        dt = folder_date(f"dt={text}")
        if dt is None or not isinstance(kinds, dict):
            continue
        found = {kind: _found(kinds[kind]) for kind in KINDS if kind in kinds}
        findings[dt] = DayFindings({kind: one for kind, one in found.items() if one is not None})
    return {dt: day for dt, day in findings.items() if day}


def _found(value: Any) -> Found | None:
    if not isinstance(value, dict) or type(value.get("count")) is not int or not isinstance(value.get("named"), list):
        return None
    return Found(value["count"], tuple(map(str, value["named"][:NAMED])))


def totals(findings: Mapping[date, DayFindings]) -> dict[str, int]:
    """Objects by kind, over all days."""
    return {kind: sum(day.found[kind].count for day in findings.values() if kind in day.found) for kind in KINDS}
