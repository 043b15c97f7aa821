"""How far two feeds of one city agree: stations that one lacks, counts that differ, the lag of one behind the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from wrm_pipeline.domain.distance import METRES_PER_DEGREE
from wrm_pipeline.domain.feeds.figures import NEAR_M, Places

# Two reads of a city within a minute differ by a few bikes.
MAX_APART = 3
MAX_LAG_MINUTES = 5


@dataclass(frozen=True, slots=True)
class FeedCounts:
    """A feed's last snapshots: its stations, and the bikes at them by the minute of the snapshot."""

    places: Places
    bikes: Mapping[datetime, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one feed compares with the published one.

    Attributes:
        share: Of the published feed's stations, those that this feed has with counts at most MAX_APART apart.
        missing: Stations of the published feed that this one lacks.
        apart: Stations whose counts differ by more than MAX_APART.
        lag_minutes: By how much this feed is behind the other (negative: ahead) where their counts agree best.
    """

    share: float
    missing: int
    apart: int
    lag_minutes: int

    def __str__(self) -> str:
        lag = f"; it lags by {self.lag_minutes} min" if self.lag_minutes > 0 else ""
        return f"{self.share:.0%} agree, {self.missing} stations missing, {self.apart} more than {MAX_APART} apart{lag}"


def agreement(published: FeedCounts, other: FeedCounts) -> Agreement | None:
    """Compare them at the newest minute that both have; None if there is none, or no station."""
    common = published.bikes.keys() & other.bikes.keys()
    pairs = matched(published.places, other.places)
    if not common or not len(published.places):
        return None
    newest = max(common)
    mine, theirs = published.bikes[newest], other.bikes[newest]
    known = [(a, b) for a, b in pairs.items() if a in mine and b in theirs]
    apart = sum(abs(mine[a] - theirs[b]) > MAX_APART for a, b in known)
    total = len(published.places)
    return Agreement((len(known) - apart) / total, total - len(pairs), apart, _lag(published, other, pairs))


def matched(mine: Places, theirs: Places) -> dict[str, str]:
    """The other feed's station by ours: of the same id, else of the nearest position within NEAR_M, each once."""
    pairs = {name: name for name in mine.ids if name in theirs.id_set}
    left = [n for n, name in enumerate(mine.ids) if name not in pairs]
    free = [n for n, name in enumerate(theirs.ids) if name not in pairs]
    if not left or not free:
        return pairs
    lat, lon = np.array(mine.lat)[left], np.array(mine.lon)[left]
    north = (lat[:, None] - np.array(theirs.lat)[free]) * METRES_PER_DEGREE
    east = (lon[:, None] - np.array(theirs.lon)[free]) * METRES_PER_DEGREE * np.cos(np.radians(lat))[:, None]
    metres = np.hypot(north, east)
    taken: set[int] = set()
    for row, column in zip(*np.unravel_index(np.argsort(metres, axis=None), metres.shape), strict=True):
        if metres[row, column] > NEAR_M:
            break
        name = mine.ids[left[row]]
        if name not in pairs and column not in taken:
            pairs[name] = theirs.ids[free[column]]
            taken.add(column)
    return pairs


def _lag(published: FeedCounts, other: FeedCounts, pairs: Mapping[str, str]) -> int:
    """The shift in minutes with the smallest mean difference of counts; the smallest such shift."""
    shifts: Sequence[int] = sorted(range(-MAX_LAG_MINUTES, MAX_LAG_MINUTES + 1), key=abs)
    best, best_error = 0, np.inf
    for shift in shifts:
        differences = [
            abs(count - theirs[pairs[name]])
            for at, mine in published.bikes.items()
            if (theirs := other.bikes.get(at + timedelta(minutes=shift))) is not None
            for name, count in mine.items()
            if name in pairs and pairs[name] in theirs
        ]
        error = float(np.mean(differences)) if differences else np.inf
        if error < best_error:
            best, best_error = shift, error
    return best
