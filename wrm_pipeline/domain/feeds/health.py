"""The state of the feeds now: for the check, the metrics and people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from wrm_pipeline.domain.feeds.agreement import Agreement
from wrm_pipeline.domain.feeds.record import minute_of
from wrm_pipeline.domain.feeds.soundness import SOUND, Snapshot, Verdict, VerdictKind

# With several feeds a run succeeds as long as one of them answers, so this says that another one does not.
SILENT_AFTER = timedelta(minutes=12)
# A feed may allow a fetch every few minutes only.
SILENT_INTERVALS = 3

HealthKind = Literal["silent"] | VerdictKind
HEALTH_KINDS: tuple[HealthKind, ...] = ("silent", "frozen", "shrunken", "elsewhere", "all_zero", "capped")


@dataclass(frozen=True, slots=True)
class FeedHealth:
    """One feed now.

    Attributes:
        kind: The verdict on its newest snapshot, or `silent`.
        reason: What was seen; empty if it is sound.
        published: Whether the newest published minute is its.
        agreement: With the published feed; None for that one, and where there is nothing to compare.
    """

    feed: str
    kind: HealthKind
    reason: str = ""
    published: bool = False
    agreement: Agreement | None = None

    @property
    def sound(self) -> bool:
        """Whether it is well."""
        return self.kind == SOUND

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        found = self.agreement
        return {
            "feed": self.feed,
            "verdict": self.kind,
            "reason": self.reason,
            "published": self.published,
            "agreement": None if found is None else round(found.share, 4),
            "missing": None if found is None else found.missing,
            "apart": None if found is None else found.apart,
            "lag_minutes": None if found is None else found.lag_minutes,
        }


def health_of(
    feeds: Sequence[str], snapshots: Sequence[Snapshot], verdicts: Sequence[Verdict], published: Mapping[str, datetime]
) -> list[FeedHealth]:
    """The state of each feed, as of the newest snapshot of any; `published` has the newest published one of each feed.

    Snapshots must be in order of time.
    """
    if not snapshots:
        return []
    now = snapshots[-1].at
    newest_published = max((minute_of(at) for at in published.values()), default=None)
    found = []
    for feed in feeds:
        own = [pair for pair in zip(snapshots, verdicts, strict=True) if pair[0].feed == feed]
        if not own and now - snapshots[0].at < SILENT_AFTER:
            continue  # the day has just begun
        health = _health(feed, [snapshot.at for snapshot, _ in own], own[-1][1] if own else None, now)
        shown = feed in published and minute_of(published[feed]) == newest_published
        found.append(replace(health, published=shown))
    return found


def _health(feed: str, times: Sequence[datetime], newest: Verdict | None, now: datetime) -> FeedHealth:
    if newest is None:
        return FeedHealth(feed, "silent", "no snapshot today")
    gaps = sorted(after - before for before, after in zip(times[-10:], times[-9:], strict=False))
    usual = gaps[len(gaps) // 2] if gaps else timedelta()
    silent = now - times[-1]
    if silent >= max(SILENT_AFTER, SILENT_INTERVALS * usual):
        minutes = int(silent.total_seconds() // 60)
        return FeedHealth(feed, "silent", f"no new snapshot for {minutes} minutes, while another feed gives some")
    return FeedHealth(feed, newest.kind, newest.reason)
