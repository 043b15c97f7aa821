"""What a body must give, by the data contract and Python's csv module; shares no code with the parser."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

COMBINED = "timestamp|gmt_local_diff_sec|gmt_servertime_diff_sec"
BATTERY = "givesbonus_acceptspedelecs_fbbattlevel"
REQUIRED = ("name", "lat", "lon", "bikes", "spaces", "total_docks")
EARLIEST = datetime(2010, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Expected:
    """Lines of one body by fate; `stations` are the ids that are published."""

    stations: frozenset[str] = frozenset()
    lines_in: int = 0
    dead: int = 0
    duplicates: int = 0
    remarks: int = 0


def expected_of(body: bytes, fetched_at: datetime) -> Expected:
    """What a body that was fetched at `fetched_at` must give."""
    lines = [line for raw in body.removeprefix(b"\xef\xbb\xbf").split(b"\n") if (line := _decoded(raw)).strip()]
    if lines and _is_header(lines[0], ()) and not _is_header(lines[0]):
        return Expected(lines_in=len(lines), dead=len(lines))
    remarks_before = 0
    while lines and _is_remark(lines[0]) and not _is_header(lines[0]):
        del lines[0]
        remarks_before += 1
    if not lines or not _is_header(lines[0]):
        return Expected(lines_in=len(lines) + remarks_before, dead=len(lines), remarks=remarks_before)
    header = [name.strip() for name in _fields(lines[0]) or ()]
    remarks, dead, good = remarks_before, 0, []
    for line in lines[1:]:
        if _is_remark(line):
            remarks += 1
            continue
        fields = _fields(line)
        whole = fields is not None and len(fields) == len(header)
        station = _good_id(dict(zip(header, fields, strict=True)), fields[1], fetched_at) if whole else None
        if station is None:
            dead += 1
        else:
            good.append(station)
    return Expected(frozenset(good), remarks_before + len(lines) - 1, dead, len(good) - len(set(good)), remarks)


def _decoded(raw: bytes) -> str:
    raw = raw.removesuffix(b"\r")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1250", "replace")


def _fields(line: str) -> list[str] | None:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        return None


def _is_remark(line: str) -> bool:
    first = (_fields(line) or [line.partition(",")[0]])[0]
    return first == "src" or first.startswith("#")


def _is_header(line: str, required: Collection[str] = REQUIRED) -> bool:
    names = {name.strip() for name in _fields(line) or ()}
    return len(names) > 1 and bool(names & {"#id", "id", "station_id"}) and names.issuperset(required)


def _good_id(row: dict[str, str], second: str, fetched_at: datetime) -> str | None:
    """The id of a row that stays, None for one that leaves."""
    station = next(row[name] for name in ("#id", "id", "station_id") if name in row)
    try:
        seconds, _, _ = map(int, row.get(COMBINED, second).split("|"))
        lat, lon = float(row["lat"]), float(row["lon"])
        counts = [int(row[name]) for name in ("bikes", "spaces", "total_docks", "pedelecs") if name in row]
        flags = [row[name].lower() for name in ("installed", "locked", "temporary") if name in row]
        if row.get(BATTERY, "").strip().lower() not in {"", "true", "false"}:
            float(row[BATTERY])
    except ValueError:
        return None
    good = (
        station.strip()
        and EARLIEST <= seconds <= fetched_at.timestamp() + 86_400
        and math.isfinite(lat)
        and math.isfinite(lon)
        and abs(lat) <= 90
        and abs(lon) <= 180
        and (lat or lon)
        and all(0 <= count <= 100_000 for count in counts)
        and set(flags) <= {"true", "false"}
    )
    return station if good else None
