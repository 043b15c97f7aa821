"""What `wrm doctor` reports about files in the lake: ignored ones, and ones with a problem."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from wrm_pipeline.domain.lake_findings import totals
from wrm_pipeline.domain.layout import Layout, folder_date
from wrm_pipeline.lake.findings import LakeFindings
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.lake.published_partitions import PublishedPartitions

# Time limit for listing raw/, where a year has half a million objects.
LISTING_S = 10.0
NAMED = 5


@dataclass(frozen=True, slots=True)
class LakeFiles:
    """Unused objects in the lake by kind, with one example each; `listed_to` is empty if everything was listed."""

    ignored: Counter[str]
    examples: dict[str, str]
    wrong: dict[str, int]
    named: tuple[str, ...]
    listed_to: str

    @property
    def text(self) -> str:
        """One line."""
        parts = [f"{count} {kind} ({self.examples[kind]})" for kind, count in self.ignored.most_common()]
        said = f"ignored: {', '.join(parts) or 'nothing'}"
        if self.listed_to:
            said += f"; raw/ was listed up to {self.listed_to}"
        wrong = ", ".join(f"{count} {kind}" for kind, count in self.wrong.items() if count)
        return f"{said}; wrong: {wrong} ({'; '.join(self.named)})" if wrong else said


def look_at_files(
    store: ObjectStore, layout: Layout, today: date, clock: Callable[[], float] = time.monotonic
) -> LakeFiles:
    """List `raw/` as far as time allows and the partitions' folders, and read the reconciliation's findings.

    Raises:
        ExternalError: the store failed.
    """
    ignored: Counter[str] = Counter()
    examples: dict[str, str] = {}

    def ignore(kind: str, key: str) -> None:
        ignored[kind] += 1
        examples.setdefault(kind, key.removeprefix(layout.prefix))

    folders_with_snapshots: set[str] = set()
    end, listed_to = clock() + LISTING_S, ""
    for info in store.list(layout.raw_prefix):
        if clock() > end:
            listed_to = info.key.removeprefix(layout.prefix)
            break
        folder, _, name = info.key.removeprefix(layout.raw_prefix).partition("/")
        dt = folder_date(folder)
        if dt is None or not layout.first_date <= dt <= today:
            ignore("objects outside any day", info.key)
        elif info.key == layout.archive_index_key(dt) or layout.is_raw_key(info.key):
            folders_with_snapshots.add(folder)
        elif not name.startswith("archive/"):
            ignore("objects that are not snapshots", info.key)
    for prefix in store.list_folders(layout.raw_prefix):
        folder = prefix.removeprefix(layout.raw_prefix).rstrip("/")
        if not listed_to and folder_date(folder) is not None and folder not in folders_with_snapshots:
            ignore("raw folders without a snapshot", prefix)
    findings = LakeFindings(store, layout).read()
    strays = [info.key for infos in PublishedPartitions(store, layout).strays_by_day().values() for info in infos]
    wrong = totals(findings) | {"foreign": len(strays)}
    named = [text for _, day in sorted(findings.items()) for found in day.found.values() for text in found.named]
    return LakeFiles(ignored, examples, wrong, tuple(dict.fromkeys([*named, *strays]))[:NAMED], listed_to)
