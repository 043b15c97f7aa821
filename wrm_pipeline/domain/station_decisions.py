"""What people decide about stations, against the rule: two are one (merge), or one is two (split)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Self

from wrm_pipeline.domain.stations_history import Period, changes_between

MERGE: Literal["merge"] = "merge"
SPLIT: Literal["split"] = "split"
MERGED, SPLIT_OFF = "merged", "split"

# Two numbers of one station may be in the feed together while one replaces the other.
MAX_OVERLAP = timedelta(days=31)

# A split is given to the minute: where a row begins soon after it, that row is meant.
MEANT_WITHIN = timedelta(hours=1)


class DecisionError(ValueError):
    """A decision cannot be applied to the stations that there are; the message says why."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision as it is kept in the lake.

    Stations are named by a number and an instant at which they bore it, so that a decision means the same stations
    when the history is made again.

    Attributes:
        action: `merge`, or `split`.
        station_id: A number of the station.
        at: When it bore that number (aware). Of a split: the instant from which on it is another one.
        other_station_id: Of a merge: a number of the other station; else empty.
        other_at: When the other station bore it.
        reason: In the words of who decided.
        decided_by: Who decided.
        decided_at: When (aware).
    """

    action: Literal["merge", "split"]
    station_id: str
    at: datetime
    other_station_id: str
    other_at: datetime | None
    reason: str
    decided_by: str
    decided_at: datetime

    def to_json(self) -> bytes:
        """UTF-8 JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1, default=datetime.isoformat).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Read a decision.

        Raises:
            ValueError: it is not one; the message says why.
        """
        try:
            found = json.loads(body)
            action, other_at = found["action"], found["other_at"]
            if action not in (MERGE, SPLIT):
                raise ValueError(f"action is {action!r} instead of {MERGE} or {SPLIT}")
            texts = {name: found[name] for name in ("station_id", "other_station_id", "reason", "decided_by")}
            if not all(isinstance(text, str) for text in texts.values()):
                raise ValueError(f"{', '.join(texts)} must be texts")
            return cls(
                action=action,
                at=_time(found["at"]),
                other_at=None if other_at is None else _time(other_at),
                decided_at=_time(found["decided_at"]),
                **texts,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a decision ({error!r})") from error


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text} has no offset")
    return at.astimezone(UTC)


def with_decisions(
    periods: Sequence[Period], decisions: Iterable[Decision]
) -> tuple[list[Period], dict[Decision, str]]:
    """Periods as people decided, and why a decision was not followed.

    Args:
        periods: As the rule made them.
        decisions: In any order; they are applied in the order in which they were made.
    """
    current, rule, problems = list(periods), _by_start(periods), dict[Decision, str]()
    for decision in sorted(decisions, key=lambda decision: decision.decided_at):
        try:
            current = _apply(current, decision, rule)
        except DecisionError as error:
            problems[decision] = str(error)
    return sorted(current, key=lambda period: (period.station_key, period.valid_from)), problems


def period_at(periods: Iterable[Period], station_id: str, at: datetime) -> Period:
    """The period in which a number was borne at an instant: the last that had begun.

    Raises:
        DecisionError: there is none.
    """
    begun = [period for period in periods if period.station_id == station_id and period.valid_from <= at]
    if not begun:
        raise DecisionError(f"no station had the number {station_id} by {at:%Y-%m-%d %H:%M} UTC")
    return max(begun, key=lambda period: period.valid_from)


def _apply(periods: Sequence[Period], decision: Decision, rule: dict[tuple[str, datetime], str]) -> list[Period]:
    if decision.action == SPLIT:
        return _split(periods, decision, rule)
    one = period_at(periods, decision.station_id, decision.at).station_key
    other = period_at(periods, decision.other_station_id, decision.other_at or decision.at).station_key
    return _merge(periods, one, other, decision.decided_by)


def _merge(periods: Sequence[Period], one: str, other: str, decided_by: str) -> list[Period]:
    if one == other:
        raise DecisionError(f"they are one station already, {one}")
    both = sorted((p for p in periods if p.station_key in (one, other)), key=lambda period: period.valid_from)
    key = both[0].station_key
    absorbed = next(period for period in both if period.station_key != key)
    joined: list[Period] = []
    for period in both:
        if joined:
            before = joined[-1]
            ends = before.valid_to or datetime.max.replace(tzinfo=UTC)
            overlap = min(ends, period.valid_to or ends) - period.valid_from
            if before.station_key != period.station_key and overlap > MAX_OVERLAP:
                raise DecisionError(
                    f"{one} and {other} were there at the same time for {overlap.days} days, from "
                    f"{period.valid_from:%Y-%m-%d} on: one station has one place at a time"
                )
            joined[-1] = replace(before, valid_to=min(ends, period.valid_from))
        if period is absorbed:
            changes = [MERGED, *changes_between(joined[-1], period)]
            period = replace(period, change="+".join(changes), decided_by=decided_by)  # noqa: PLW2901
        joined.append(period)
    others = [period for period in periods if period.station_key not in (one, other)]
    return others + [replace(period, station_key=key) for period in joined]


def _split(periods: Sequence[Period], decision: Decision, rule: dict[tuple[str, datetime], str]) -> list[Period]:
    at = decision.at
    cut = period_at(periods, decision.station_id, at)
    key = cut.station_key
    later = [p for p in periods if p.station_key == key and p.valid_from > at]
    following = min(later, key=lambda period: period.valid_from, default=None)
    ended = cut.valid_to is not None and cut.valid_to <= at
    if following is not None and (ended or following.valid_from - at <= MEANT_WITHIN):
        cut = following
    elif ended:
        raise DecisionError(f"{key} ended at {cut.valid_to:%Y-%m-%d %H:%M} UTC, before the split")
    begins = max(at, cut.valid_from)
    before = [p for p in periods if p.station_key == key and p.valid_from < cut.valid_from]
    after = [p for p in periods if p.station_key == key and p.valid_from > cut.valid_from]
    if cut.valid_from < at:
        before.append(replace(cut, valid_to=at))
    if not before:
        raise DecisionError(f"{key} begins at {cut.valid_from:%Y-%m-%d %H:%M} UTC: there is nothing before the split")
    others = [period for period in periods if period.station_key != key]
    used = {period.station_key for period in (*others, *before)}
    own = rule.get((cut.station_id, cut.valid_from), key)
    new_key = own if own not in used else _free_key(cut.station_id, used)
    first = replace(cut, valid_from=begins, change=SPLIT_OFF, decided_by=decision.decided_by)
    return [*others, *before, *(replace(period, station_key=new_key) for period in (first, *after))]


def _by_start(periods: Iterable[Period]) -> dict[tuple[str, datetime], str]:
    """The keys by the rule: a split of what was merged gives the station its own key again."""
    return {(period.station_id, period.valid_from): period.station_key for period in periods}


def _free_key(number: str, used: set[str]) -> str:
    """A key that the rule never gives."""
    letters = (f"{number}-{chr(letter)}" for letter in range(ord("a"), ord("z") + 1))
    found = next((key for key in letters if key not in used), None)
    if found is None:
        raise DecisionError(f"the number {number} was split 26 times")
    return found
