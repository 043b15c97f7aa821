"""The city's own list of a day's rides, as CSV -> rides with their instants.

Its times are local and have no zone. In the hour that occurs twice, the length of the ride, the bike's other rides and
the order of the rentals' numbers say which one is meant; where they do not, the ride says so.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

LEDGER_VERSION = "1"

# A ride's columns in the file, by our names.
COLUMNS: Mapping[str, str] = {
    "rental_id": "UID wynajmu",
    "bike_id": "Numer roweru",
    "left": "Data wynajmu",
    "arrived": "Data zwrotu",
    "left_name": "Stacja wynajmu",
    "arrived_name": "Stacja zwrotu",
    "duration": "Czas trwania",
}
_SEPARATORS = ",;\t"
_LINE_END = re.compile(r"\r\n|\n|\r")
# A day of Wrocław has 0.9 MB.
MAX_BYTES = 256 * 2**20

# The file has whole minutes, rounded up or down: 29,958 of 29,958 rides in four files.
_LENGTH_TOLERANCE = timedelta(seconds=60)
# Numbers of rentals ascend with their time but for 46 s in the same files.
_ORDER_TOLERANCE = timedelta(minutes=2)

# How the instants were found where local times do not tell.
PLAIN, BY_DURATION, BY_ORDER = "", "repeated_hour_by_duration", "repeated_hour_by_order"
UNSURE, SKIPPED = "repeated_hour_unsure", "skipped_hour"


class NotALedgerError(ValueError):
    """A body is not a list of rides; the message says why."""


@dataclass(frozen=True, slots=True)
class LedgerRide:
    """A ride of the file, with its line number from 1; times are aware, `time_note` says how they were found."""

    line_number: int
    rental_id: str
    bike_id: str
    left_at: datetime
    arrived_at: datetime
    left_name: str
    arrived_name: str
    duration_min: int
    time_note: str = PLAIN


@dataclass(frozen=True, slots=True)
class DeadLine:
    """A line that is not a ride, and what is wrong with which of its fields."""

    line_number: int
    raw_data: str
    field: str
    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """A file: every line is a ride, dead, a duplicate of another rental, or a remark (header, blank)."""

    rides: list[LedgerRide]
    dead: list[DeadLine]
    duplicate_rows: int
    remark_lines: int

    @property
    def lines_in(self) -> int:
        """All lines."""
        return len(self.rides) + len(self.dead) + self.duplicate_rows + self.remark_lines


@dataclass(frozen=True, slots=True)
class _Line:
    """A line with its fields, before its times are known to be instants."""

    number: int
    raw: str
    fields: Mapping[str, str]
    left: datetime
    arrived: datetime
    duration: timedelta


class _DeadError(ValueError):
    def __init__(self, field: str, error_type: str, message: str) -> None:
        super().__init__(message)
        self.field, self.error_type = field, error_type


def read_ledger(body: bytes, zone: ZoneInfo) -> Ledger:
    """The rides of a file, CSV or CSV in gzip, whose local times are of `zone`.

    Raises:
        NotALedgerError: it is empty, damaged, or has no header with the columns; the message says which.
    """
    lines = _LINE_END.split(_text(body).rstrip("\r\n"))
    header_at, separator, positions = _header(lines)
    good: dict[str, _Line] = {}
    dead: list[DeadLine] = []
    remarks, duplicates = header_at + 1, 0
    for number, line in enumerate(lines[header_at + 1 :], start=header_at + 2):
        if not line.strip():
            remarks += 1
            continue
        try:
            found = _line(number, line, separator, positions)
        except _DeadError as error:
            dead.append(DeadLine(number, line, error.field, error.error_type, str(error)))
            continue
        if found.fields["rental_id"] in good:
            duplicates += 1
        good.setdefault(found.fields["rental_id"], found)
    rides, impossible = _with_instants(list(good.values()), zone)
    rides.sort(key=lambda ride: (ride.arrived_at, ride.rental_id))
    return Ledger(rides, sorted([*dead, *impossible], key=lambda line: line.line_number), duplicates, remarks)


def _text(body: bytes) -> str:
    if body[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(body)) as unpacked:
                body = unpacked.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise NotALedgerError(f"the file is damaged ({error})") from error
    if len(body) > MAX_BYTES:
        raise NotALedgerError(f"it has more than {MAX_BYTES} bytes")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return body.decode("cp1250", "replace")


def _header(lines: Sequence[str]) -> tuple[int, str, dict[str, int]]:
    """The number of the header's line from 0, the separator, and each column's position."""
    best: list[str] = []
    for number, line in enumerate(lines[:20]):
        for separator in _SEPARATORS:
            names = [" ".join(name.split()).casefold() for name in _fields(line, separator)]
            positions = {
                ours: names.index(name.casefold()) for ours, name in COLUMNS.items() if name.casefold() in names
            }
            if len(positions) == len(COLUMNS):
                return number, separator, positions
            best = max(best, [COLUMNS[ours] for ours in positions], key=len)
    missing = [name for name in COLUMNS.values() if name not in best]
    raise NotALedgerError(f"there is no header with the columns {', '.join(missing)}")


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def _line(number: int, line: str, separator: str, positions: Mapping[str, int]) -> _Line:
    values = _fields(line, separator)
    if len(values) <= max(positions.values()):
        raise _DeadError("", "wrong_field_count", f"it has {len(values)} fields")
    fields = {name: " ".join(values[at].split()) for name, at in positions.items()}
    for name in ("rental_id", "bike_id"):
        if not fields[name]:
            raise _DeadError(COLUMNS[name], "missing_value", f"{COLUMNS[name]} is empty")
    try:
        duration = timedelta(minutes=int(fields["duration"]))
    except (ValueError, OverflowError):
        text = fields["duration"]
        raise _DeadError(
            COLUMNS["duration"], "bad_duration", f"{text[:40]!r} is not a whole number of minutes"
        ) from None
    return _Line(number, line, fields, _time(fields, "left"), _time(fields, "arrived"), duration)


def _time(fields: Mapping[str, str], name: str) -> datetime:
    try:
        return datetime.fromisoformat(fields[name])
    except ValueError:
        message = f"{fields[name][:40]!r} is not a time like 2024-06-03 12:02:24"
        raise _DeadError(COLUMNS[name], "bad_time", message) from None


def _with_instants(lines: Sequence[_Line], zone: ZoneInfo) -> tuple[list[LedgerRide], list[DeadLine]]:
    settled: list[LedgerRide] = []
    open_lines: list[tuple[_Line, list[tuple[datetime, datetime]]]] = []
    dead: list[DeadLine] = []
    for line in lines:
        try:
            readings = _readings(line, zone)
        except _DeadError as error:
            dead.append(DeadLine(line.number, line.raw, error.field, error.error_type, str(error)))
            continue
        if len(readings) == 1:
            settled.append(_ride(line, readings[0], _note(line, zone)))
        else:
            open_lines.append((line, readings))
    if open_lines:
        settled.extend(_by_order(open_lines, settled))
    return settled, dead


def _readings(line: _Line, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """The instants that a line may mean: departure and arrival.

    Raises:
        _DeadError: none makes sense.
    """
    pairs = [
        (left, arrived)
        for left in _instants(line.left, zone)
        for arrived in _instants(line.arrived, zone)
        if left <= arrived
    ]
    fitting = [pair for pair in pairs if abs(pair[1] - pair[0] - line.duration) <= _LENGTH_TOLERANCE]
    skipped = _is_skipped(line.left, zone) or _is_skipped(line.arrived, zone)
    if skipped and not fitting:
        raise _DeadError(
            COLUMNS["left"] if _is_skipped(line.left, zone) else COLUMNS["arrived"],
            "time_in_skipped_hour",
            "the time does not exist, as clocks were put forward, and the duration does not say what is meant",
        )
    if not pairs:
        raise _DeadError(COLUMNS["arrived"], "arrived_before_left", f"{line.arrived} is before {line.left}")
    return fitting or pairs[:1]


def _instants(at: datetime, zone: ZoneInfo) -> list[datetime]:
    """One instant, or the two of the hour that occurs twice; a time that is skipped has its offset of before."""
    if at.tzinfo is not None:
        return [at.astimezone(UTC)]
    first = at.replace(tzinfo=zone).astimezone(UTC)
    if _is_skipped(at, zone):
        return [first]
    return sorted({first, at.replace(tzinfo=zone, fold=1).astimezone(UTC)})


def _is_skipped(at: datetime, zone: ZoneInfo) -> bool:
    if at.tzinfo is not None:
        return False
    return at.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) != at


def _note(line: _Line, zone: ZoneInfo) -> str:
    if _is_skipped(line.left, zone) or _is_skipped(line.arrived, zone):
        return SKIPPED
    twice = len(_instants(line.left, zone)) > 1 or len(_instants(line.arrived, zone)) > 1
    return BY_DURATION if twice else PLAIN


def _by_order(
    open_lines: Iterable[tuple[_Line, list[tuple[datetime, datetime]]]], settled: Sequence[LedgerRide]
) -> list[LedgerRide]:
    """Of several readings, the one in which the bike rides once at a time, and rentals are in the order of numbers."""
    by_bike: dict[str, list[LedgerRide]] = {}
    for ride in settled:
        by_bike.setdefault(ride.bike_id, []).append(ride)
    numbered = sorted((int(ride.rental_id), ride.left_at) for ride in settled if _is_number(ride.rental_id))
    found = []
    for line, readings in open_lines:
        others = by_bike.get(line.fields["bike_id"], [])
        free = [
            (left, arrived)
            for left, arrived in readings
            if all(arrived <= other.left_at or left >= other.arrived_at for other in others)
        ]
        chosen = free if len(free) == 1 else _in_order(line.fields["rental_id"], free or readings, numbered)
        ride = _ride(line, (chosen or readings)[0], BY_ORDER if len(chosen) == 1 else UNSURE)
        found.append(ride)
    return found


def _in_order(
    rental_id: str, readings: Sequence[tuple[datetime, datetime]], numbered: Sequence[tuple[int, datetime]]
) -> list[tuple[datetime, datetime]]:
    """The readings that lie between the rentals with the next lower and the next higher number."""
    if not _is_number(rental_id):
        return []
    number = int(rental_id)
    earliest = max((at for other, at in numbered if other < number), default=None)
    latest = min((at for other, at in numbered if other > number), default=None)
    return [
        reading
        for reading in readings
        if (earliest is None or reading[0] >= earliest - _ORDER_TOLERANCE)
        and (latest is None or reading[0] <= latest + _ORDER_TOLERANCE)
    ]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _ride(line: _Line, reading: tuple[datetime, datetime], note: str) -> LedgerRide:
    fields = line.fields
    return LedgerRide(
        line.number,
        fields["rental_id"],
        fields["bike_id"],
        *reading,
        fields["left_name"],
        fields["arrived_name"],
        line.duration // timedelta(minutes=1),
        note,
    )


def of_another_day(rides: Iterable[LedgerRide], dt: date, zone: ZoneInfo) -> int:
    """Rides that did not end on the day of the file."""
    return sum(ride.arrived_at.astimezone(zone).date() != dt for ride in rides)
