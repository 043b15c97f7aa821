"""Is a feed telling the truth? (data contract, section 4a) A body can be well formed and wrong.

`judged` looks at the figures of a day's snapshots of all feeds, in order of time, with what is known of the day before.
It needs no clock and no store, so a rebuild gives the same verdicts.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal
from zoneinfo import ZoneInfo

from wrm_pipeline.domain.feeds.figures import NO_PLACES, Figures, Places
from wrm_pipeline.domain.feeds.kinds import KINDS

VerdictKind = Literal["sound", "frozen", "shrunken", "elsewhere", "all_zero", "capped"]
SOUND: VerdictKind = "sound"
VERDICTS: tuple[VerdictKind, ...] = ("sound", "frozen", "shrunken", "elsewhere", "all_zero", "capped")

# Silence that is never real, where nothing is learnt yet: from 06 to 22 o'clock, and at night. The longest silence in
# four replayed days and 18 h of recorded events was 11 minutes, between 1 and 2 o'clock.
SILENT_BY_DAY, SILENT_AT_NIGHT = timedelta(minutes=20), timedelta(minutes=45)
# Of the longest silence of each day at that hour the second longest counts, so that one frozen night is not learnt.
LEARNT_FACTOR, LEARNT_AT_LEAST, LEARNT_DAYS = 3.0, timedelta(minutes=12), 3
MAX_DAYS_LEARNT, UNKNOWN = 7, -1
# Another feed that goes on moving shows the same sooner.
MOVED_BY_DAY, MOVED_AT_NIGHT, MOVES_OF_OTHER = timedelta(minutes=10), timedelta(minutes=15), 5

STATIONS_GONE, BIKES_GONE, BIKES_WITHIN = 0.2, 0.5, timedelta(minutes=10)
# Of fewer a share says nothing.
MIN_STATIONS, MIN_BIKES = 5, 20
SAME_CITY = 0.5
SMALL_COUNTS = (5, 10)
# Counts that are cut off pile up at the limit; usually one or two stations have the most.
MIN_AT_CAP, MIN_PEAK_FACTOR = 3, 1.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one snapshot.

    Attributes:
        kind: What it is.
        reason: What was seen, in words with figures; empty if it is sound.
        right_place: Whether its stations stand where those of the day before did; rows of another city are never
            published where there is a choice.
    """

    kind: VerdictKind
    reason: str = ""
    right_place: bool = True

    @property
    def sound(self) -> bool:
        """Whether the snapshot is believed."""
        return self.kind == SOUND


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is known of a feed from the day before.

    Attributes:
        places: Its stations; without ids, if they are those of another feed.
        bikes: Fewest bikes in a snapshot.
        peak: The lowest of the snapshots' highest counts.
        quiet: Its longest silence in minutes in each of the 24 local hours (UNKNOWN without snapshots), of up to
            MAX_DAYS_LEARNT days.
        fingerprint: Of its last snapshot.
        changed_at: Since when it had that fingerprint.
    """

    places: Places = NO_PLACES
    bikes: int = 0
    peak: int = 0
    quiet: tuple[tuple[int, ...], ...] = ()
    fingerprint: int | None = None
    changed_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "places": self.places.to_json(),
            "bikes": self.bikes,
            "peak": self.peak,
            "quiet": self.quiet,
            "fingerprint": self.fingerprint,
            "changed_at": self.changed_at.isoformat() if self.changed_at else None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Baseline":
        """Parse."""
        at = content["changed_at"]
        return cls(
            Places.from_json(content["places"]),
            content["bikes"],
            content["peak"],
            tuple(map(tuple, content["quiet"])),
            content["fingerprint"],
            datetime.fromisoformat(at) if at else None,
        )


NO_BASELINE = Baseline()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is judged: the feed's name, the time of the fetch (aware), and the figures."""

    feed: str
    at: datetime
    figures: Figures


def judged(snapshots: Iterable[Snapshot], baselines: Mapping[str, Baseline], zone: ZoneInfo) -> list[Verdict]:
    """The verdict on each snapshot; they must be in order of time."""
    feeds: dict[str, _Feed] = {}
    verdicts = []
    for snapshot in snapshots:
        feed = feeds.get(snapshot.feed)
        if feed is None:
            feed = feeds[snapshot.feed] = _Feed(baselines.get(snapshot.feed, NO_BASELINE), zone)
        feed.observe(snapshot)
        others = [(name, other) for name, other in feeds.items() if name != snapshot.feed]
        verdicts.append(feed.verdict(snapshot, others))
    return verdicts


class _Feed:
    """One feed up to the snapshot that was observed last."""

    def __init__(self, baseline: Baseline, zone: ZoneInfo) -> None:
        self._baseline = baseline
        self._zone = zone
        self._fingerprint = baseline.fingerprint
        self.changes: list[datetime] = [baseline.changed_at] if baseline.changed_at else []
        self._last: datetime | None = None
        self._bikes: deque[tuple[datetime, int]] = deque()
        # Bikes before most of them went; None while they are there.
        self._before_drop: tuple[datetime, int] | None = None

    def observe(self, snapshot: Snapshot) -> None:
        at, figures = snapshot.at, snapshot.figures
        if figures.fingerprint != self._fingerprint or not self.changes:
            self._fingerprint = figures.fingerprint
            self.changes.append(at)
        while self._bikes and self._bikes[0][0] < at - BIKES_WITHIN:
            self._bikes.popleft()
        most = max(self._bikes, key=lambda pair: pair[1], default=None)
        if self._before_drop is None and most and most[1] >= MIN_BIKES and _few(figures.bikes, most[1]):
            self._before_drop = most
        elif self._before_drop is not None and not _few(figures.bikes, self._before_drop[1]):
            self._before_drop = None
        self._bikes.append((at, figures.bikes))

    def verdict(self, snapshot: Snapshot, others: Sequence[tuple[str, "_Feed"]]) -> Verdict:
        figures = snapshot.figures
        return (
            self._elsewhere(figures)
            or self._all_zero(figures)
            or self._capped(figures)
            or self._shrunken(snapshot)
            or self._frozen(snapshot, others)
            or Verdict(SOUND)
        )

    def _elsewhere(self, figures: Figures) -> Verdict | None:
        places = self._baseline.places
        if len(places) < MIN_STATIONS or not figures.stations:
            return None
        if figures.known_places < SAME_CITY * figures.stations:
            reason = (
                f"{figures.known_places} of {figures.stations} stations are where one of the {len(places)} stations of "
                "the day before was: another city"
            )
            return Verdict("elsewhere", reason, right_place=False)
        if places.ids and figures.known_ids < SAME_CITY * figures.stations:
            reason = (
                f"{figures.known_ids} of {figures.stations} station ids are those of the day before, though "
                f"{figures.known_places} stations are where one was"
            )
            return Verdict("elsewhere", reason)
        return None

    def _all_zero(self, figures: Figures) -> Verdict | None:
        if (
            figures.bikes
            or figures.stations < MIN_STATIONS
            or (len(self._baseline.places) and not self._baseline.bikes)
        ):
            return None
        return Verdict("all_zero", f"all {figures.stations} stations have 0 bikes, and no bike stands outside one")

    def _capped(self, figures: Figures) -> Verdict | None:
        small = next((count for count in SMALL_COUNTS if figures.highest <= count), None)
        peak = self._baseline.peak
        if small is None or not figures.highest or peak < max(small + 1, MIN_PEAK_FACTOR * figures.highest):
            return None
        if figures.at_highest < MIN_AT_CAP:
            return None
        reason = (
            f"no station has more than {figures.highest} bikes and {figures.at_highest} have just that many; the day "
            f"before always had one with {peak} or more"
        )
        return Verdict("capped", reason)

    def _shrunken(self, snapshot: Snapshot) -> Verdict | None:
        figures, places = snapshot.figures, self._baseline.places
        there = figures.known_ids if places.ids else figures.known_places
        gone = len(places) - there
        if len(places) >= MIN_STATIONS and gone >= STATIONS_GONE * len(places):
            return Verdict("shrunken", f"{gone} of the {len(places)} stations of the day before are gone")
        if self._before_drop is not None:
            at, bikes = self._before_drop
            clock = f"{at.astimezone(self._zone):%H:%M}"
            return Verdict("shrunken", f"{bikes - figures.bikes} of the {bikes} bikes of {clock} are gone")
        return None

    def _frozen(self, snapshot: Snapshot, others: Sequence[tuple[str, "_Feed"]]) -> Verdict | None:
        since = self.changes[-1]
        silent = snapshot.at - since
        if silent < MOVED_BY_DAY:
            return None
        what = f"counts of all {snapshot.figures.stations} stations unchanged for {_minutes(silent)} minutes"
        limit = silence_limit(snapshot.at, self._baseline.quiet, self._zone)
        if silent >= limit:
            # Without times of its own the feed says nothing about when its counts are from.
            moving = " while report times move" if KINDS[snapshot.feed].reports_times else ""
            return Verdict("frozen", f"{what}{moving}; at this hour the city is never silent for {_minutes(limit)}")
        by_day = _is_day(snapshot.at, self._zone)
        if silent < max(MOVED_BY_DAY if by_day else MOVED_AT_NIGHT, 2 * self._usual_silence()):
            return None
        for name, other in others:
            moves = len(other.changes) - bisect_right(other.changes, since)
            if moves >= MOVES_OF_OTHER:
                return Verdict("frozen", f"{what} while those of {name} changed {moves} times")
        return None

    def _usual_silence(self) -> timedelta:
        """The longest but one of the last silences that ended: some feeds are made every 10 minutes."""
        gaps = sorted(after - before for before, after in pairwise(self.changes[-8:]))
        return gaps[-2] if len(gaps) >= 2 else timedelta()


def _few(bikes: int, before: int) -> bool:
    return bikes <= before * (1 - BIKES_GONE)


def _minutes(length: timedelta) -> int:
    return int(length.total_seconds() // 60)


def _is_day(at: datetime, zone: ZoneInfo) -> bool:
    return 6 <= at.astimezone(zone).hour < 22


def silence_limit(at: datetime, quiet: Sequence[Sequence[int]], zone: ZoneInfo) -> timedelta:
    """The silence from which on a feed is frozen, at a time of day: learnt from `quiet` (see Baseline), else as given.

    The hours beside it count too, as nights differ.
    """
    hour = at.astimezone(zone).hour
    by_day = [max(day[hour - 1], day[hour], day[(hour + 1) % 24]) for day in quiet if day[hour] != UNKNOWN]
    if len(by_day) < LEARNT_DAYS:
        return SILENT_BY_DAY if _is_day(at, zone) else SILENT_AT_NIGHT
    return max(LEARNT_AT_LEAST, LEARNT_FACTOR * timedelta(minutes=sorted(by_day)[-2]))


def quiet_hours(times: Sequence[datetime], fingerprints: Sequence[int], zone: ZoneInfo) -> tuple[int, ...]:
    """A day's longest silence in minutes by local hour, as in Baseline: of each silence that touches the hour."""
    longest = [UNKNOWN] * 24
    since: datetime | None = None
    last: int | None = None
    for at, fingerprint in zip(times, fingerprints, strict=True):
        if fingerprint != last or since is None:
            since, last = at, fingerprint
        hour = at.astimezone(zone).hour
        longest[hour] = max(longest[hour], _minutes(at - since))
        # A silence that goes on counts for the hours that it began in as well.
        begun = since.astimezone(zone).hour
        longest[begun] = max(longest[begun], _minutes(at - since))
    return tuple(longest)


def next_baseline(
    snapshots: Sequence[Snapshot], verdicts: Sequence[Verdict], places: Places, before: Baseline, zone: ZoneInfo
) -> Baseline:
    """The baseline of the day after, from one feed's day in order of time; `places` are its last believed stations."""
    sound = [found.figures for found, verdict in zip(snapshots, verdicts, strict=True) if verdict.sound]
    changed_at: datetime | None = before.changed_at
    fingerprint = before.fingerprint
    for snapshot in snapshots:
        if snapshot.figures.fingerprint != fingerprint or changed_at is None:
            fingerprint, changed_at = snapshot.figures.fingerprint, snapshot.at
    today = quiet_hours([found.at for found in snapshots], [found.figures.fingerprint for found in snapshots], zone)
    return Baseline(
        places,
        min((figures.bikes for figures in sound), default=0),
        min((figures.highest for figures in sound), default=0),
        (*before.quiet, today)[-MAX_DAYS_LEARNT:],
        fingerprint,
        changed_at,
    )
