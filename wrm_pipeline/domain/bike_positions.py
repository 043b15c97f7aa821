"""A day's answers of the operator's feed -> its partition of bike positions: one row for each stay of a bike.

A day is a function of its own answers alone: a stay that goes on over midnight is one row in each of the two days.
The file is its own state. Its open stays (`left_at` null) are those of the last snapshot, and its footer lists the
answers that it was made from, so a build reads only later ones, with the same rows as a build from scratch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.distance import metres_between
from wrm_pipeline.domain.feeds import operator
from wrm_pipeline.domain.feeds.operator import Sighting
from wrm_pipeline.domain.feeds.translation import BodyError
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.schemas import BIKE_POSITIONS, arrow_schema, validate

# Stored with the partition: another version means that it is built from scratch.
POSITIONS_VERSION = "1"
FEED = "operator"

# A free-standing bike gets another GPS fix now and then: of those that stood for 1 to 4 h in 32 h of the operator's
# event log, 36 % had one, three quarters of them within 90 m. Within this distance of its first fix it has not moved.
SAME_PLACE_M = 100.0
# An answer with fewer of the bikes of the answer before is incomplete, or another city's, and is not used (data
# contract, section 4a: half of the bikes gone within 10 minutes).
MIN_SHARE_KEPT = 0.5
# After this time it is used all the same: the fleet may have been renumbered.
MAX_REFUSED_S = 3 * 3600

_MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the operator's answers as the store lists it; `at` is the time of the snapshot in microseconds."""

    key: str
    etag: str
    at: int


@dataclass(frozen=True, slots=True)
class PositionsState:
    """What a partition records about its answers.

    Attributes:
        answers: ETag and time (microseconds) by key.
        refused: Why an answer was not used, by key.
        first: Time of the first answer that was used; None without any.
        last: Time of the last one.
        seen: The sum over the used answers of the bikes in them.
        absent: The sum over the used answers, from the second on, of the bikes that had been seen before on that day
            and are not in it.
    """

    answers: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    first: int | None = None
    last: int | None = None
    seen: int = 0
    absent: int = 0

    def to_footer(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rules": POSITIONS_VERSION,
            "answers": [[key, etag, at] for key, (etag, at) in sorted(self.answers.items())],
            "refused": dict(self.refused),
            "first": self.first,
            "last": self.last,
            "seen": self.seen,
            "absent": self.absent,
        }

    @classmethod
    def of(cls, parts: ParquetParts | None) -> "PositionsState | None":
        """What a published partition records; None if it is of another version."""
        if parts is None or parts.footer_metadata.get("rules") != POSITIONS_VERSION:
            return None
        footer = parts.footer_metadata
        answers = {key: (etag, at) for key, etag, at in footer["answers"]}
        return cls(answers, footer["refused"], footer["first"], footer["last"], footer["seen"], footer["absent"])


@dataclass(frozen=True, slots=True)
class PositionsPlan:
    """What a build has to do.

    Attributes:
        read: The answers to read, in the order of time.
        keep: Whether the published stays are kept and go on.
        vanished: Answers that no longer exist, and whose stays are kept.
        late: Answers that are left out, as they are earlier than the last one used and a build from scratch would lose
            the vanished ones.
    """

    read: tuple[Answer, ...]
    keep: bool
    vanished: tuple[str, ...] = ()
    late: tuple[str, ...] = ()

    @property
    def nothing_to_do(self) -> bool:
        """Whether the published partition is up to date."""
        return self.keep and not self.read


def plan_positions(
    answers: Iterable[Answer],
    state: PositionsState | None,
    *,
    full_rebuild: bool = False,
    allow_shrink: bool = False,
) -> PositionsPlan:
    """Compare the existing answers with those of the published partition.

    Only answers later than all of the published ones can be added to it; for any other change the day is built from
    scratch, unless answers have vanished: their stays are given up only with `allow_shrink`.
    """
    found = sorted(answers, key=lambda answer: (answer.at, answer.key))
    if state is None:
        return PositionsPlan(tuple(found), keep=False)
    keys = {answer.key for answer in found}
    vanished = tuple(sorted(state.answers.keys() - keys))
    changed = [answer for answer in found if state.answers.get(answer.key) != (answer.etag, answer.at)]
    latest = max((at for _, at in state.answers.values()), default=-1)
    late = [answer for answer in changed if answer.at <= latest]
    if (full_rebuild or late or vanished) and (allow_shrink or not vanished):
        return PositionsPlan(tuple(found), keep=False)
    new = tuple(answer for answer in changed if answer.at > latest)
    return PositionsPlan(new, keep=True, vanished=vanished, late=tuple(answer.key for answer in late))


@dataclass(slots=True)
class _Stay:
    sighting: Sighting
    arrived_at: int
    battery_pct: int | None


@dataclass(frozen=True, slots=True)
class PositionsBuild:
    """A partition of bike positions, ready to be published."""

    data: bytes
    row_count: int
    state: PositionsState


class _Day:
    """The stays of a day, answer by answer."""

    def __init__(self, previous: ParquetParts | None, state: PositionsState) -> None:
        self.state = state
        self.first, self.last = state.first, state.last
        self.seen, self.absent = state.seen, state.absent
        self.answers, self.refused = dict(state.answers), dict(state.refused)
        self._closed_before, self._open = _rows_of(previous)
        self._known = set(self._open)
        if self._closed_before is not None:
            self._known.update(pc.unique(self._closed_before["bike_id"]).to_pylist())
        self._closed: list[tuple[_Stay, int]] = []

    def add(self, answer: Answer, body: bytes) -> None:
        """Take the next answer."""
        try:
            seen = operator.sightings(body)
        except BodyError as error:
            self.refuse(answer, str(error))
            return
        if self.last is not None and answer.at - self.last <= MAX_REFUSED_S * _MICROS:
            kept = len(self._open.keys() & seen.keys())
            if kept < MIN_SHARE_KEPT * len(self._open):
                self.refuse(answer, f"It has {kept} of the {len(self._open)} bikes of the answer before.")
                return
        self.answers[answer.key] = (answer.etag, answer.at)
        for bike_id in [bike_id for bike_id in self._open if bike_id not in seen]:
            self._close(bike_id)
        for bike_id, sighting in seen.items():
            stay = self._open.get(bike_id)
            if stay is not None:
                if _same_place(stay.sighting, sighting):
                    stay.battery_pct = sighting.battery_pct
                    continue
                self._close(bike_id)
            self._open[bike_id] = _Stay(sighting, answer.at, sighting.battery_pct)
        self._known.update(seen)
        self.first = answer.at if self.first is None else self.first
        self.last = answer.at
        self.seen += len(seen)
        self.absent += len(self._known) - len(seen)

    def refuse(self, answer: Answer, reason: str) -> None:
        """Record an answer without using it."""
        self.answers[answer.key] = (answer.etag, answer.at)
        self.refused[answer.key] = reason

    def _close(self, bike_id: str) -> None:
        if self.last is None:
            raise AssertionError("a stay is open, but no answer was used")
        self._closed.append((self._open.pop(bike_id), self.last))

    def rows(self) -> pa.Table:
        """All stays, sorted."""
        stays: list[tuple[_Stay, int | None]] = [*self._closed, *((stay, None) for stay in self._open.values())]
        made = pa.table(
            [
                [stay.sighting.bike_id for stay, _ in stays],
                [stay.sighting.station_id for stay, _ in stays],
                [stay.sighting.lat for stay, _ in stays],
                [stay.sighting.lon for stay, _ in stays],
                [stay.arrived_at for stay, _ in stays],
                [left_at for _, left_at in stays],
                [stay.sighting.bike_type for stay, _ in stays],
                [stay.battery_pct for stay, _ in stays],
                [FEED] * len(stays),
            ],
            schema=_PLAIN,
        ).cast(arrow_schema(BIKE_POSITIONS))
        rows = made if self._closed_before is None else pa.concat_tables([self._closed_before, made])
        return rows.take(pc.sort_indices(rows, sort_keys=[("bike_id", "ascending"), ("arrived_at", "ascending")]))

    def finished(self) -> PositionsState:
        return PositionsState(self.answers, self.refused, self.first, self.last, self.seen, self.absent)


# Times as numbers, as they are collected.
_PLAIN = pa.schema(
    [
        field.with_type(pa.int64()) if pa.types.is_timestamp(field.type) else field
        for field in arrow_schema(BIKE_POSITIONS)
    ]
)


def build_positions(
    plan: PositionsPlan,
    previous: ParquetParts | None,
    bodies: Iterable[tuple[str, bytes]],
    *,
    build_id: str,
    unreadable: Callable[[], Mapping[str, str]] = dict,
) -> PositionsBuild:
    """Build a partition from the answers of a plan; `bodies` gives key and content in its order.

    Answers that cannot be read are missing in `bodies`; asked afterwards, `unreadable` says why, by key. They are read
    again by a build from scratch.
    """
    base = previous if plan.keep else None
    day = _Day(base, (PositionsState.of(base) if base is not None else None) or PositionsState())
    by_key = {answer.key: answer for answer in plan.read}
    for key, body in bodies:
        day.add(by_key.pop(key), body)
    reasons = unreadable()
    for answer in by_key.values():
        day.refuse(answer, reasons.get(answer.key, "It cannot be read."))
    rows = day.rows()
    validate(_for_check(rows), BIKE_POSITIONS)
    writer = PartsWriter(arrow_schema(BIKE_POSITIONS), build_id)
    writer.write(rows)
    state = day.finished()
    return PositionsBuild(writer.finish(state.to_footer() | {"built_at": build_id}), rows.num_rows, state)


def _for_check(rows: pa.Table) -> pa.Table:
    """With the set of feeds as a dictionary, which is how it is checked without a frame."""
    position = rows.schema.get_field_index("feed")
    return rows.set_column(position, "feed", rows["feed"].dictionary_encode())


def _same_place(here: Sighting, there: Sighting) -> bool:
    if here.station_id is not None or there.station_id is not None:
        return here.station_id == there.station_id
    if (here.lat, here.lon) == (there.lat, there.lon):
        return True
    return metres_between(here.lat, here.lon, there.lat, there.lon) <= SAME_PLACE_M


def _rows_of(parts: ParquetParts | None) -> tuple[pa.Table | None, dict[str, _Stay]]:
    """The stays of a partition that have ended, and the open ones by bike."""
    if parts is None:
        return None, {}
    rows = read_positions(parts)
    ended = pc.is_valid(rows["left_at"])
    return rows.filter(ended), {stay.sighting.bike_id: stay for stay in _stays(rows.filter(pc.invert(ended)))}


def read_positions(parts: ParquetParts) -> pa.Table:
    """The rows of a partition."""
    groups = [group.cast(arrow_schema(BIKE_POSITIONS)) for group in parts.read_groups()]
    return pa.concat_tables(groups) if groups else arrow_schema(BIKE_POSITIONS).empty_table()


def _stays(rows: pa.Table) -> Iterator[_Stay]:
    times = rows["arrived_at"].cast(pa.int64()).to_pylist()
    names: Sequence[str] = ("bike_id", "station_id", "lat", "lon", "bike_type", "battery_pct")
    for at, *values in zip(times, *(rows[name].to_pylist() for name in names), strict=True):
        sighting = Sighting(*values)
        yield _Stay(sighting, at, sighting.battery_pct)
