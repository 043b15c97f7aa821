"""The business rules: what is implausible but possible in kept rows, each with severity and reason.

A rule is a pandera check on *observations*: the rows of a day, each with the previous one of the same station. They are
plain columns in memory, so that a rule takes some milliseconds for a day of 590,000 rows.

Severities are those of the data contract, section 4. Rules that reject a line (`dead_letter`) are applied by the parser
(`snapshot/`); here they are only counted.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wrm_pipeline.domain.quality import MAX_SAMPLES
from wrm_pipeline.domain.rules import STALE_AFTER, ServiceArea
from wrm_pipeline.domain.schemas import FLAGS
from wrm_pipeline.domain.snapshot import CUT_MARK, MAX_NAME_CHARACTERS

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pandera

# Stored with a computed day: a different version means that it is computed again.
BUSINESS_RULES_VERSION = "4"

# It fires on lines, which are in the dead letters.
DRIFT_RULE = "feed_has_another_format"

FLAG, DEAD_LETTER = "flag", "dead_letter"

# A truck brings or takes 20 to 30 bikes, and its crew books them one by one; nothing moves 30 in a minute.
JUMP_BIKES_PER_MINUTE = 30
# Coordinates have a resolution of 1e-6 degrees (0.1 m). A station that moves across a square is worth a look.
MOVED_M = 100.0
# Clocks of docks and servers differ by seconds.
FUTURE_S = 300

_SECOND_US = 1_000_000
_M_PER_DEGREE = 111_195.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: As in `quality_rules` and in the data contract file.
        severity: FLAG or DEAD_LETTER.
        reason: What it looks for and why, for people.
        holds: Observations -> one boolean each: False where the rule fires. None for DEAD_LETTER.
        asked_of: A boolean column of the observations: the rule applies only where it is true. None: everywhere.
        shows: Columns of the observations in a sample, besides station, name and time.
    """

    name: str
    severity: str
    reason: str
    holds: "Callable[[pd.DataFrame], pd.Series[bool]] | None" = None
    asked_of: str | None = None
    shows: tuple[str, ...] = ()

    @property
    def check(self) -> "pandera.Check":
        """The rule as a pandera check on a frame of observations.

        Raises:
            LookupError: it is applied by the parser.
        """
        if self.holds is None:
            raise LookupError(f"rule {self.name!r} is applied by the parser")
        import pandera.pandas as pandera

        return pandera.Check(self.holds, name=self.name, error=self.reason, n_failure_cases=1, ignore_na=False)


def business_rules(area: ServiceArea) -> tuple[Rule, ...]:
    """All rules, for a service area."""
    hours = STALE_AFTER.total_seconds() / 3600
    return (
        Rule(
            "outside_service_area",
            FLAG,
            f"Outside latitude {area.lat_min} to {area.lat_max}, longitude {area.lon_min} to {area.lon_max} "
            "(WRM_SERVICE_AREA): some stations lie beyond the city, and bikes stand in depots far away",
            lambda rows: ~rows["outside_service_area"],
            shows=("lat", "lon"),
        ),
        Rule(
            "over_capacity",
            FLAG,
            "More bikes and free docks than docks: a third of the stations take bikes beside their docks",
            lambda rows: ~rows["over_capacity"],
            shows=("bikes", "spaces", "total_docks"),
        ),
        Rule(
            "no_docks",
            FLAG,
            "A station with 0 docks: a rack, or a station that is being built",
            lambda rows: ~rows["no_docks"],
            asked_of="is_station",
            shows=("bikes",),
        ),
        Rule(
            "pedelecs_above_bikes",
            FLAG,
            "More e-bikes than bikes: one of the two counts is wrong",
            lambda rows: ~(rows["pedelecs"] > rows["bikes"]),
            shows=("pedelecs", "bikes"),
        ),
        Rule(
            "count_capped",
            FLAG,
            "A count that the feed gives as 5+ or similar: the true one may be larger",
            lambda rows: ~rows["count_capped"],
            shows=("bikes", "spaces", "total_docks", "pedelecs"),
        ),
        Rule(
            "name_cut",
            FLAG,
            f"A name of more than {MAX_NAME_CHARACTERS:,} characters was cut: the raw object has all of it",
            lambda rows: ~rows["is_cut"],
        ),
        Rule(
            "unknown_kind",
            FLAG,
            "Neither a station (digits) nor a free-standing bike (fb… and BIKE …): the feed has a new kind of row",
            lambda rows: ~rows["is_unknown"],
        ),
        Rule(
            "stale",
            FLAG,
            f"The report is older than {hours:g} h: the same report is repeated, and the station sends nothing new",
            lambda rows: ~rows["stale"],
            shows=("reported_at",),
        ),
        Rule(
            "report_in_the_future",
            FLAG,
            f"The report's time is more than {FUTURE_S} s after the fetch: a clock is wrong",
            lambda rows: rows["reported_us"] <= rows["at_us"] + FUTURE_S * _SECOND_US,
            shows=("reported_at",),
        ),
        Rule(
            "report_goes_back",
            FLAG,
            "The report is older than this station's report in the previous snapshot: they are out of order",
            lambda rows: rows["reported_us"] >= rows["previous_reported_us"],
            asked_of="has_previous",
            shows=("reported_at", "previous_reported_at"),
        ),
        Rule(
            "station_moved",
            FLAG,
            f"A station more than {MOVED_M:g} m from its place in the previous snapshot: its number went elsewhere, "
            f"or a coordinate is wrong",
            lambda rows: rows["moved_m"] <= MOVED_M,
            asked_of="is_followed_station",
            shows=("lat", "lon", "moved_m"),
        ),
        Rule(
            "bikes_jump",
            FLAG,
            f"More than {JUMP_BIKES_PER_MINUTE} bikes came or went in each minute since the report before: no truck "
            "does that",
            lambda rows: rows["step"].abs() <= JUMP_BIKES_PER_MINUTE * rows["minutes"].clip(lower=1.0),
            asked_of="is_followed_station",
            shows=("bikes", "step", "minutes"),
        ),
        Rule(
            "station_vanished",
            FLAG,
            "A station's last row before a snapshot without it: it was taken down, or the feed left it out",
            lambda rows: ~rows["vanishes"],
            asked_of="is_station",
        ),
        Rule(
            "station_appeared",
            FLAG,
            "A station that was not in the previous snapshot: it is new, or it is back",
            lambda rows: ~rows["appears"],
            asked_of="is_station",
        ),
        Rule(
            "line_is_no_row",
            DEAD_LETTER,
            "A line that could not become a row (fields, id, times, places, counts or flags are not what the contract "
            "says): it is in the dead-letter queue, with the reason",
        ),
        Rule(
            DRIFT_RULE,
            DEAD_LETTER,
            "A line of a body in which a fifth of the lines or more failed with the same field and error: the feed's "
            "format has changed. It is in the dead-letter queue, or its body is in quarantine, until a release can "
            "read it",
        ),
    )


def observations(rows: pa.Table, bikes_before: Mapping[str, int] | None = None) -> "pd.DataFrame":
    """The rows of a day as observations, ordered by station and time.

    Args:
        rows: Enhanced rows in the order of the partition, strings dictionary-encoded, one chunk a column.
        bikes_before: The last count of each station present in the last hour of the day before; None if that day is
            unknown.

    Returns:
        A frame with `row` (position in `rows`), codes and values, and the values of the previous row of the same id.
    """
    import pandas as pd

    ids, times = rows["station_id"].chunk(0), rows["file_timestamp"].chunk(0).cast("int64").to_numpy()
    codes = ids.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    codes, times = codes[order], times[order]
    count = len(order)

    def sorted_column(name: str) -> NDArray[Any]:
        values = rows[name].chunk(0)
        if pa.types.is_timestamp(values.type):
            values = values.cast("int64")
        if values.null_count:
            values = values.fill_null(0)
        return np.asarray(values.to_numpy(zero_copy_only=False)[order])

    kinds = rows["record_type"].chunk(0)
    kind_of_code = kinds.dictionary.to_pylist()
    kind = kinds.indices.to_numpy()[order]
    is_station = kind == kind_of_code.index("station") if "station" in kind_of_code else np.zeros(count, dtype=bool)
    is_unknown = kind == kind_of_code.index("unknown") if "unknown" in kind_of_code else np.zeros(count, dtype=bool)

    has_previous = np.zeros(count, dtype=bool)
    has_previous[1:] = codes[1:] == codes[:-1]
    has_next = np.append(has_previous[1:], False)
    lat, lon, bikes, reported = (sorted_column(name) for name in ("lat", "lon", "bikes", "timestamp"))
    before = {"lat": _previous(lat), "lon": _previous(lon), "bikes": _previous(bikes), "reported": _previous(reported)}
    north = (lat - before["lat"]) * _M_PER_DEGREE
    east = (lon - before["lon"]) * _M_PER_DEGREE * np.cos(np.radians(lat))

    snapshot_times = np.unique(times)
    snapshot = np.searchsorted(snapshot_times, times)
    appears = np.where(has_previous, snapshot != _previous(snapshot) + 1, snapshot > 0)
    step = np.where(has_previous, bikes.astype(np.int64) - before["bikes"], 0)
    if bikes_before is not None:
        counts = np.array([bikes_before.get(name, -1) for name in ids.dictionary.to_pylist()], dtype=np.int64)[codes]
        first = ~has_previous & (snapshot == 0)
        appears |= first & (counts < 0)
        step = np.where(first & (counts >= 0), bikes - counts, step)
    following = np.append(snapshot[1:], 0)
    vanishes = np.where(has_next, following != snapshot + 1, snapshot < len(snapshot_times) - 1)

    # A station that rarely reports catches up on hours at once: the time since its previous report is what matters.
    elapsed = np.maximum(times - _previous(times), reported - before["reported"]) / (60 * _SECOND_US)
    frame = {
        "row": order,
        "station": codes,
        "at_us": times,
        "reported_us": reported,
        "previous_reported_us": before["reported"],
        "lat": lat,
        "lon": lon,
        "moved_m": np.hypot(north, east),
        "bikes": bikes,
        "step": step,
        "minutes": elapsed,
        "is_station": is_station,
        "is_unknown": is_unknown,
        "is_cut": _are_cut(rows["name"].chunk(0))[order],
        "has_previous": has_previous,
        "is_followed_station": is_station & has_previous,
        "appears": is_station & appears,
        "vanishes": is_station & vanishes,
    }
    for name in ("spaces", "total_docks", "pedelecs", *FLAGS):
        frame[name] = sorted_column(name)
    return pd.DataFrame(frame, copy=False)


def _are_cut(names: pa.DictionaryArray) -> NDArray[np.bool_]:
    """Which names the parser has truncated."""
    cut = [len(name) == MAX_NAME_CHARACTERS and name.endswith(CUT_MARK) for name in names.dictionary.to_pylist()]
    are_cut: NDArray[np.bool_] = np.array(cut, dtype=bool)[names.indices.to_numpy()]
    return are_cut


def _previous(values: NDArray[Any]) -> NDArray[Any]:
    """The value of the previous row; for the first row, its own."""
    return np.concatenate([values[:1], values[:-1]])


@dataclass(frozen=True, slots=True)
class RuleHits:
    """How often a rule fired, among how many rows, with at most MAX_SAMPLES samples."""

    rule: str
    hits: int
    rows_checked: int
    samples: tuple[dict[str, Any], ...] = ()


def apply_rules(rules: Collection[Rule], rows: pa.Table, observed: "pd.DataFrame") -> Iterator[RuleHits]:
    """Apply each rule that is not the parser's to the observations made from `rows`."""
    for rule in rules:
        if rule.holds is None:
            continue
        fires = ~rule.check(observed).check_output.to_numpy(dtype=bool)
        rows_checked = len(observed)
        if rule.asked_of is not None:
            asked = observed[rule.asked_of].to_numpy()
            fires &= asked
            rows_checked = int(asked.sum())
        positions = np.flatnonzero(fires)
        yield RuleHits(rule.name, len(positions), rows_checked, _samples(rule, rows, observed, positions))


def _samples(
    rule: Rule, rows: pa.Table, observed: "pd.DataFrame", positions: NDArray[np.intp]
) -> tuple[dict[str, Any], ...]:
    """The newest hit of each station, newest first: 20 rows of one station would say no more than one."""
    stations = observed["station"].to_numpy()[positions]
    newest_of_station = positions[np.append(stations[1:] != stations[:-1], True)] if len(positions) else positions
    newest_first = np.argsort(-observed["at_us"].to_numpy()[newest_of_station], kind="stable")
    samples = []
    for position in newest_of_station[newest_first[:MAX_SAMPLES]]:
        seen = observed.iloc[position]
        row = int(seen["row"])
        shown: dict[str, Any] = {
            "station_id": rows["station_id"][row].as_py(),
            "name": rows["name"][row].as_py(),
            "file_timestamp": _iso(seen["at_us"]),
        }
        for name in rule.shows:
            if name.endswith("_at"):
                shown[name] = _iso(seen[f"{name.removesuffix('_at')}_us"])
            else:
                shown[name] = round(float(seen[name]), 6) if observed[name].dtype.kind == "f" else int(seen[name])
        samples.append(shown)
    return tuple(samples)


def _iso(micros: Any) -> str:
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(micros)):%Y-%m-%dT%H:%M:%SZ}"
