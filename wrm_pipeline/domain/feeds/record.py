"""What a processed partition stores about the feeds of its day, if there are several: order, figures, verdicts.

With it a later build judges and chooses again without reading a body that it knows. A day of one feed has none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from wrm_pipeline.domain.feeds.figures import Figures, Places
from wrm_pipeline.domain.feeds.kinds import KINDS, UCL, kind_of
from wrm_pipeline.domain.feeds.soundness import VERDICTS, Baseline, Snapshot, VerdictKind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def feed_of(key: str) -> str:
    """The name of the kind of feed that a raw object is from."""
    return (kind_of(key) or UCL).name


@dataclass(frozen=True, slots=True)
class JudgedObject:
    """A raw object with rows: what identifies its content, its figures and the verdict."""

    etag: str
    at: datetime
    corrections_id: str
    figures: Figures
    verdict: VerdictKind


@dataclass(frozen=True, slots=True)
class FeedRecord:
    """The feeds of a day.

    Attributes:
        orders: Orders of trust, each with the minute from which it holds; the first holds from the beginning.
        baselines: What was known of each feed from the day before.
        latest: The stations of each feed's last sound snapshot of which they were kept, and its time.
        objects: The raw objects that have rows, by key, whether or not they are published.
    """

    orders: tuple[tuple[datetime, tuple[str, ...]], ...] = ()
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    latest: Mapping[str, tuple[datetime, Places]] = field(default_factory=dict)
    objects: Mapping[str, JudgedObject] = field(default_factory=dict)

    def rank(self, feed: str, at: datetime) -> int:
        """The place of a feed in the order that holds at that time; feeds that are not in it come last."""
        order = next((names for since, names in reversed(self.orders) if since <= at), ())
        return order.index(feed) if feed in order else len(order) + list(KINDS).index(feed)

    def with_order(self, order: tuple[str, ...]) -> "FeedRecord":
        """With this order from the next minute on: minutes that have a snapshot keep theirs."""
        if self.orders and self.orders[-1][1] == order:
            return self
        since = _EPOCH
        if self.orders:
            since = minute_of(max((known.at for known in self.objects.values()), default=_EPOCH)) + timedelta(minutes=1)
        earlier = tuple(entry for entry in self.orders if entry[0] < since)
        return replace(self, orders=(*earlier, (since, order)))

    def snapshots(self, feed: str = "") -> list[tuple[str, Snapshot]]:
        """The raw objects, or those of one feed, in order of time, with their keys."""
        found = [
            (key, Snapshot(name, known.at, known.figures))
            for key, known in self.objects.items()
            if (name := feed_of(key)) == feed or not feed
        ]
        return sorted(found, key=lambda pair: (pair[1].at, pair[0]))

    def to_json(self) -> dict[str, Any]:
        """As JSON, by columns: about 40 compressed bytes for each raw object."""
        keys = sorted(self.objects)
        known = [self.objects[key] for key in keys]
        return {
            "orders": [[_micros(since), list(order)] for since, order in self.orders],
            "baselines": {feed: baseline.to_json() for feed, baseline in self.baselines.items()},
            "latest": {feed: [_micros(at), places.to_json()] for feed, (at, places) in self.latest.items()},
            "keys": keys,
            "etags": [one.etag for one in known],
            "times": [_micros(one.at) for one in known],
            "corrections": {key: one.corrections_id for key, one in self.objects.items() if one.corrections_id},
            "figures": [list(values) for values in zip(*(astuple(one.figures) for one in known), strict=True)],
            "verdicts": [VERDICTS.index(one.verdict) for one in known],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "FeedRecord":
        """Parse."""
        figures = zip(*content["figures"], strict=True) if content["keys"] else ()
        columns = zip(content["keys"], content["etags"], content["times"], figures, content["verdicts"], strict=True)
        corrections = content["corrections"]
        return cls(
            tuple((_time(since), tuple(order)) for since, order in content["orders"]),
            {feed: Baseline.from_json(found) for feed, found in content["baselines"].items()},
            {feed: (_time(at), Places.from_json(places)) for feed, (at, places) in content["latest"].items()},
            {
                key: JudgedObject(etag, _time(at), corrections.get(key, ""), Figures(*numbers), VERDICTS[verdict])
                for key, etag, at, numbers, verdict in columns
            },
        )


def minute_of(at: datetime) -> datetime:
    """The beginning of its minute."""
    return at.replace(second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A raw object that may be published.

    Attributes:
        sound: The verdict.
        right_place: See Verdict.
        stays: Its rows are published and stay, whatever the others are: its raw object is gone, or was published by a
            version that did not judge.
    """

    key: str
    at: datetime
    sound: bool
    right_place: bool
    stays: bool = False


def select(candidates: Iterable[Candidate], record: FeedRecord) -> set[str]:
    """The keys to publish: in each UTC minute the objects of one feed.

    Of the feeds in order it is the first that is sound; where none is, the first that shows the right city, since its
    rows are the only ones that there are. Another city is not published.
    """
    minutes: dict[datetime, list[Candidate]] = {}
    for candidate in candidates:
        minutes.setdefault(minute_of(candidate.at), []).append(candidate)
    chosen: set[str] = set()
    for minute, found in minutes.items():
        if stay := [one.key for one in found if one.stays]:
            chosen.update(stay)
            continue
        usable = [one for one in found if one.sound] or [one for one in found if one.right_place]
        feed = min((feed_of(one.key) for one in usable), key=lambda name: record.rank(name, minute), default="")
        chosen.update(one.key for one in usable if feed_of(one.key) == feed)
    return chosen


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _time(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
