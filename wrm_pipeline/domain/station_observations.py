"""A day's rows of stations -> the states that each station number showed: name and place, from when to when."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.distance import metres_between
from wrm_pipeline.domain.stations_history import MIN_LASTING, SAME_PLACE_M, Observation, same_name

# The columns of the enhanced rows that are read.
COLUMNS = ("station_id", "name", "lat", "lon", "file_timestamp", "record_type")
_STATE = ["station_id", "name", "lat", "lon"]
# If the lasting states fill less of the day, the feed changes its mind all the time, and the usual state counts.
_MIN_FILLED = 0.5


def observations_of(rows: pa.Table) -> list[Observation]:
    """The observations of a day, by number and time; nearly all numbers have one.

    States that last less than 3 h between two others are left out: misspelt names, and single wrong positions.

    Args:
        rows: With COLUMNS, of any record types.
    """
    stations = rows.filter(pc.equal(rows["record_type"], "station")).select([*_STATE, "file_timestamp"])
    if not stations.num_rows:
        return []
    plain = stations.cast(
        pa.schema(
            [
                ("station_id", pa.string()),
                ("name", pa.string()),
                ("lat", pa.float64()),
                ("lon", pa.float64()),
                ("file_timestamp", pa.timestamp("us", "UTC")),
            ]
        )
    )
    found: list[Observation] = []
    several: dict[str, int] = {}
    states = list(_states(plain))
    for state in states:
        several[state.station_id] = several.get(state.station_id, 0) + 1
    found.extend(state for state in states if several[state.station_id] == 1)
    unsettled = sorted(number for number, count in several.items() if count > 1)
    if unsettled:
        changing = plain.filter(pc.is_in(plain["station_id"], pa.array(unsettled)))
        found.extend(_runs_by_number(changing))
    return sorted(found, key=lambda seen: (seen.station_id, seen.first_seen))


def _states(rows: pa.Table) -> Iterator[Observation]:
    grouped = rows.group_by(_STATE).aggregate(
        [("file_timestamp", "min"), ("file_timestamp", "max"), ("file_timestamp", "count")]
    )
    for row in grouped.to_pylist():
        yield Observation(
            row["station_id"],
            row["name"],
            row["lat"],
            row["lon"],
            row["file_timestamp_min"],
            row["file_timestamp_max"],
            row["file_timestamp_count"],
        )


def _runs_by_number(rows: pa.Table) -> Iterator[Observation]:
    ordered = rows.sort_by([("station_id", "ascending"), ("file_timestamp", "ascending")])
    columns = [ordered[name].to_pylist() for name in (*_STATE, "file_timestamp")]
    of_number: list[Observation] = []
    for station_id, name, lat, lon, at in zip(*columns, strict=True):
        if of_number and of_number[-1].station_id != station_id:
            yield from _settled(of_number)
            of_number = []
        _extend(of_number, Observation(station_id, name, lat, lon, at, at))
    yield from _settled(of_number)


def _extend(runs: list[Observation], seen: Observation) -> None:
    """Add a state, to the last run if it is the same."""
    if runs and _is_same(runs[-1], seen):
        last = runs[-1]
        runs[-1] = replace(last, last_seen=seen.last_seen, snapshots=last.snapshots + seen.snapshots)
    else:
        runs.append(seen)


def _is_same(state: Observation, seen: Observation) -> bool:
    return (state.lat, state.lon, state.name) == (seen.lat, seen.lon, seen.name) or (
        same_name(state.name, seen.name) and metres_between(state.lat, state.lon, seen.lat, seen.lon) <= SAME_PLACE_M
    )


def _settled(runs: Sequence[Observation]) -> list[Observation]:
    """The runs of a number without those that do not last, except at the day's ends: they may go on beyond."""
    last = len(runs) - 1
    kept: list[Observation] = []
    for number, run in enumerate(runs):
        if number in (0, last) or run.last_seen - run.first_seen >= MIN_LASTING:
            _extend(kept, run)
    span = runs[-1].last_seen - runs[0].first_seen
    filled = sum((run.last_seen - run.first_seen for run in kept), timedelta())
    return kept if last <= 1 or filled >= span * _MIN_FILLED else [_usual(runs)]


def _usual(runs: Sequence[Observation]) -> Observation:
    """The state that most snapshots show, as that of the whole day."""
    most: list[Observation] = []
    for run in runs:
        same = next((number for number, state in enumerate(most) if _is_same(state, run)), None)
        if same is None:
            most.append(run)
        else:
            most[same] = replace(most[same], snapshots=most[same].snapshots + run.snapshots)
    usual = max(most, key=lambda state: state.snapshots)
    return replace(usual, first_seen=runs[0].first_seen, last_seen=runs[-1].last_seen)


def days_of(observations: Iterable[tuple[object, Observation]]) -> Iterator[list[Observation]]:
    """Observations with their days, in order of the days -> a list for each day."""
    day: object = None
    found: list[Observation] = []
    for dt, seen in observations:
        if found and dt != day:
            yield found
            found = []
        day = dt
        found.append(seen)
    if found:
        yield found


def span_of(observations: Sequence[Observation]) -> timedelta:
    """From a day's first snapshot to its last one; none without observations."""
    if not observations:
        return timedelta()
    first: datetime = min(seen.first_seen for seen in observations)
    return max(seen.last_seen for seen in observations) - first
