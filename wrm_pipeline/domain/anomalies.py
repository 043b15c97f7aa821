"""Station hours that are unlike the same station in the same local hour of the days before.

Each station hour is described by five features, all of them "0 is usual":

- `level`: mean bikes less the usual mean, in robust standard deviations (1.4826 x the median deviation);
- `silence`: bikes that would usually have come or gone since the count last changed, and did not: a frozen station;
- `step`: the largest change between two snapshots beyond the usual largest, in robust standard deviations;
- `emptied_step`: at a station that is empty all the hour, the bikes that left at once when it became so: a count
  that dropped to 0;
- `city_empty`: at a station that is empty all the hour, the share of stations that are so beyond the usual share, in
  robust standard deviations: a feed that says 0 everywhere.

Two methods combine them into one score: a robust z-score (the feature that is farthest beyond its threshold), and
scikit-learn's IsolationForest (how few random cuts separate the hour from those of the days before). docs/quality.md
has their measured precision and recall; the better one is the default (anomaly_options.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wrm_pipeline.domain.anomaly_options import DEFAULT_CONTAMINATION, ROBUST_Z, AnomalyOptions
from wrm_pipeline.domain.city import has_whole_hours, this_city

if TYPE_CHECKING:
    import pandas as pd

DAYS_COMPARED = 28
MIN_DAYS_COMPARED = 7
# Hours with fewer snapshots say little: the feed was down for most of the hour.
MIN_SNAPSHOTS_SHARE = 0.25

# A smaller deviation, in bikes, is not an anomaly, however steady a station usually is.
LEVEL_FLOOR_BIKES = 1.5
STEP_FLOOR_BIKES = 1.0
CITY_FLOOR_SHARE = 0.02
# A share of fewer stations than this says nothing about the city.
CITY_MIN_STATIONS = 10

# Thresholds of the robust z-score, chosen on simulated days without anomalies (docs/quality.md).
THRESHOLDS: Mapping[str, float] = {
    "level": 7.0,
    "silence": 25.0,
    "step": 6.0,
    "emptied_step": 3.9,
    "city_empty": 6.0,
}

FEATURES = tuple(THRESHOLDS)

FOREST_TREES = 100
# scikit-learn's default of 256 contains hardly any rare hours, so that all of them look alike.
FOREST_SAMPLES = 4096
FOREST_SEED = 1

_MAD_TO_SIGMA = 1.4826
_HOUR_US = 3_600_000_000

Scores = NDArray[np.float64]

DEFAULT_OPTIONS = AnomalyOptions()


def local_hours(at_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """The instants at which the local hours of instants began, in microseconds."""
    if has_whole_hours(zone := this_city().zone):
        return at_us // _HOUR_US * _HOUR_US
    import pandas as pd

    local = pd.to_datetime(at_us, unit="us", utc=True).tz_convert(zone).tz_localize(None).as_unit("us")
    return at_us - local.asi8 % _HOUR_US


def station_hours(
    observed: "pd.DataFrame", station_ids: list[str], names_of_rows: Callable[[int], str]
) -> "pd.DataFrame":
    """Describe each station in each hour.

    Args:
        observed: Observations (`business_rules.observations`), ordered by station and time.
        station_ids: Ids by station code.
        names_of_rows: The name in a row, by its position.

    Returns:
        Columns hour_start (UTC), local_hour, station_id, name, snapshots, bikes_mean, bikes_last, moves, largest_step,
        emptied; ordered by station id and hour.
    """
    import pandas as pd

    rows = observed[observed["is_station"].to_numpy()]
    bikes, signed_step = rows["bikes"].to_numpy(), rows["step"].to_numpy()
    station, hour = rows["station"].to_numpy(), local_hours(rows["at_us"].to_numpy())
    changes = (station[1:] != station[:-1]) | (hour[1:] != hour[:-1])
    starts: NDArray[np.intp] = np.flatnonzero(np.append(len(rows) > 0, changes)[: len(rows)])
    ends = np.append(starts[1:], len(rows))[: len(starts)] - 1
    step = np.abs(signed_step)
    # The bikes that left in the step that began the spell without bikes around a row, if it is in one.
    begins = (bikes > 0) | np.append(True, station[1:] != station[:-1])[: len(rows)] | (signed_step != 0)
    spell = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    emptied = np.where(bikes == 0, -signed_step[spell], 0)
    snapshots = ends - starts + 1
    hour_start = pd.to_datetime(hour[starts], unit="us", utc=True).as_unit("us")
    positions = rows["row"].to_numpy()[ends]
    frame = pd.DataFrame(
        {
            "hour_start": hour_start,
            "local_hour": hour_start.tz_convert(this_city().zone).hour.astype(np.int8),
            "station_id": [station_ids[code] for code in station[starts]],
            "name": [names_of_rows(int(position)) for position in positions],
            "snapshots": snapshots.astype(np.int32),
            "bikes_mean": _sums(bikes, starts) / np.maximum(snapshots, 1),
            "bikes_last": bikes[ends].astype(np.int32),
            "moves": _sums(step, starts).astype(np.int32),
            "largest_step": (np.maximum.reduceat(step, starts) if len(starts) else step).astype(np.int32),
            "emptied": emptied[ends].astype(np.int32),
        }
    )
    return frame.sort_values(["station_id", "hour_start"], ignore_index=True)


def _sums(values: NDArray[Any], starts: NDArray[np.intp]) -> NDArray[Any]:
    return np.add.reduceat(values.astype(np.int64), starts) if len(starts) else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Usual:
    """Usual values by station and local hour, computed from the station hours of earlier days."""

    by_station_hour: "pd.DataFrame"
    by_hour: "pd.DataFrame"
    snapshots_per_hour: float
    days: int


def usual_of(earlier: "pd.DataFrame") -> Usual:
    """Medians and median deviations of the station hours of earlier days (columns of `station_hours`, and `dt`)."""
    import pandas as pd

    keys = ["station_id", "local_hour"]
    groups = earlier.groupby(keys, sort=True, observed=True)
    medians = groups[["bikes_mean", "largest_step"]].median()
    joined = earlier[keys].join(medians, on=keys)
    deviations = (earlier[["bikes_mean", "largest_step"]] - joined[["bikes_mean", "largest_step"]]).abs()
    spread = pd.concat([earlier[keys], deviations], axis=1).groupby(keys, sort=True, observed=True).median()
    by_station_hour = pd.DataFrame(
        {
            "usual_bikes": medians["bikes_mean"],
            "usual_step": medians["largest_step"],
            "bikes_sigma": _sigma(spread["bikes_mean"], LEVEL_FLOOR_BIKES),
            "step_sigma": _sigma(spread["largest_step"], STEP_FLOOR_BIKES),
            # The median of rare moves would be 0, and a frozen station would never be noticed.
            "usual_moves": groups["moves"].mean(),
        }
    )
    empty = (earlier["bikes_mean"] == 0).groupby([earlier["hour_start"], earlier["local_hour"]]).mean()
    shares = empty.groupby("local_hour")
    median = shares.median()
    mad: pd.Series[float] = (empty - median.reindex(empty.index.get_level_values("local_hour")).to_numpy()).abs()
    by_hour = pd.DataFrame(
        {
            "usual_empty": median,
            "empty_sigma": np.maximum(_MAD_TO_SIGMA * mad.groupby("local_hour").median(), CITY_FLOOR_SHARE),
        }
    )
    return Usual(by_station_hour, by_hour, float(earlier["snapshots"].median()), int(earlier["dt"].nunique()))


def _sigma(deviations: "pd.Series[float]", floor: float) -> "pd.Series[float]":
    """Median deviations by station and hour, as standard deviations; at least the station's median and the floor.

    With 7 days, the values of some hours are close together by chance.
    """
    of_station = deviations.groupby("station_id").transform("median")
    return (_MAD_TO_SIGMA * deviations.clip(lower=of_station)).clip(lower=floor)


def features(hours: "pd.DataFrame", usual: Usual) -> "pd.DataFrame":
    """The features of station hours, with the usual values.

    Args:
        hours: As `station_hours`, ordered by station and hour, of one day or of several that follow each other.
        usual: Values to compare with.

    Returns:
        `hours` without hours of unknown stations or with too few snapshots, with FEATURES, `usual_bikes`, `usual_step`
        and `quiet_h` (hours since the count changed) added.
    """
    frame = hours.join(usual.by_station_hour, on=["station_id", "local_hour"])
    frame = frame.join(usual.by_hour, on="local_hour")
    frame["level"] = (frame["bikes_mean"] - frame["usual_bikes"]) / frame["bikes_sigma"]
    frame["step"] = ((frame["largest_step"] - frame["usual_step"]) / frame["step_sigma"]).clip(lower=0.0)
    frame["silence"], frame["quiet_h"] = _silence(frame)
    empty = frame["bikes_mean"] == 0
    frame["emptied_step"] = ((frame["emptied"] - frame["usual_step"]) / frame["step_sigma"]).clip(lower=0.0)
    frame["emptied_step"] = frame["emptied_step"].where(empty, 0.0)
    stations = empty.groupby(frame["hour_start"])
    share, enough_stations = stations.transform("mean"), stations.transform("size") >= CITY_MIN_STATIONS
    together = empty & enough_stations
    frame["city_empty"] = np.where(
        together, ((share - frame["usual_empty"]) / frame["empty_sigma"]).clip(lower=0.0), 0.0
    )
    enough = frame["snapshots"] >= MIN_SNAPSHOTS_SHARE * usual.snapshots_per_hour
    return frame[enough & frame["usual_bikes"].notna() & frame["usual_empty"].notna()].reset_index(drop=True)


def _silence(frame: "pd.DataFrame") -> tuple[Scores, Scores]:
    """Moves missing since the last one, and the hours since then, at the end of each station hour."""
    import pandas as pd

    station = frame["station_id"].to_numpy()
    expected = np.nan_to_num(frame["usual_moves"].to_numpy())
    moved = frame["moves"].to_numpy() > 0
    first = np.append(True, station[1:] != station[:-1]) if len(station) else np.zeros(0, dtype=bool)
    # Starts again after each hour with a move, and at each station's first hour.
    reset = moved | first
    run = np.cumsum(reset)
    counted = np.where(moved, 0.0, expected)
    total = pd.Series(counted).groupby(run).cumsum().to_numpy()
    hours = pd.Series(np.where(moved, 0.0, 1.0)).groupby(run).cumsum().to_numpy()
    return np.asarray(total, dtype=float), np.asarray(hours, dtype=float)


def robust_z(found: "pd.DataFrame") -> Scores:
    """How far each station hour is beyond the thresholds: above 1 is an anomaly."""
    parts = [found[name].abs().to_numpy() / threshold for name, threshold in THRESHOLDS.items()]
    return np.asarray(np.maximum.reduce(parts), dtype=float)


def isolation_forest(
    found: "pd.DataFrame",
    earlier: "pd.DataFrame",
    *,
    contamination: float = DEFAULT_CONTAMINATION,
    seed: int = FOREST_SEED,
) -> Scores:
    """The same with a forest trained on the station hours of earlier days (both as returned by `features`).

    A score of 1 is exceeded by a share `contamination` of the earlier hours.
    """
    from sklearn.ensemble import IsolationForest

    samples = min(FOREST_SAMPLES, len(earlier))
    forest = IsolationForest(n_estimators=FOREST_TREES, max_samples=samples, random_state=seed).fit(_matrix(earlier))
    known = -forest.score_samples(_matrix(earlier))
    threshold = np.quantile(known, 1 - contamination)
    return np.asarray(-forest.score_samples(_matrix(found)) / threshold, dtype=float)


def _matrix(found: "pd.DataFrame") -> NDArray[np.float64]:
    """Features on a scale that fits both usual and absurd values."""
    values = found[list(FEATURES)].to_numpy(dtype=float)
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)), dtype=float)


def judge_hours(
    hours: "pd.DataFrame",
    earlier: "pd.DataFrame",
    dt: date,
    options: AnomalyOptions = DEFAULT_OPTIONS,
    *,
    seed: int = FOREST_SEED,
) -> "pd.DataFrame":
    """Score the station hours of a day that can be judged: of stations that are known, with enough snapshots.

    Args:
        hours: The day's station hours.
        earlier: Station hours of up to DAYS_COMPARED days before, with `dt`; less than MIN_DAYS_COMPARED judge nothing.
        dt: The day.
        options: By which method.
        seed: Of the forest.

    Returns:
        The judged rows of `hours` as `features` gives them, with `score` (above 1 is an anomaly).
    """
    if not len(hours) or (earlier["dt"].nunique() if len(earlier) else 0) < MIN_DAYS_COMPARED:
        return hours.iloc[:0].assign(score=0.0)
    import pandas as pd

    usual = usual_of(earlier)
    # Includes the newest earlier day, so that a silence that began before midnight is measured in full.
    lead = earlier[earlier["dt"] == earlier["dt"].max()]
    together = pd.concat([lead, hours.assign(dt=dt)], ignore_index=True)
    together = together.sort_values(["station_id", "hour_start"], ignore_index=True)
    found = features(together, usual)
    found = found[found["dt"] == dt].reset_index(drop=True)
    if options.method == ROBUST_Z:
        score = robust_z(found)
    else:
        known = features(earlier.sort_values(["station_id", "hour_start"], ignore_index=True), usual)
        score = isolation_forest(found, known, contamination=options.contamination, seed=seed)
    return found.assign(score=score.round(4))


def find_anomalies(judged: "pd.DataFrame", options: AnomalyOptions = DEFAULT_OPTIONS) -> "pd.DataFrame":
    """The anomalous among judged station hours (as `judge_hours` gives them).

    Returns:
        Columns hour_start, local_hour, station_id, name, method, score, reason; the highest score first.
    """
    found = judged[judged["score"] > 1].sort_values(
        ["score", "station_id", "hour_start"], ascending=[False, True, True]
    )
    found = found.assign(method=options.method, reason=[_reason(row) for _, row in found.iterrows()])
    columns = ["hour_start", "local_hour", "station_id", "name", "method", "score", "reason"]
    return found[columns].reset_index(drop=True)


def _reason(row: "pd.Series[Any]") -> str:
    """The feature farthest beyond its threshold, in words."""
    feature = max(FEATURES, key=lambda name: abs(row[name]) / THRESHOLDS[name])
    if feature == "level":
        return f"{row['bikes_mean']:.1f} bikes on average; {row['usual_bikes']:.1f} are usual at this hour"
    if feature == "silence":
        return f"the count did not change for {row['quiet_h']:.0f} h, in which {row['silence']:.0f} bikes usually move"
    if feature == "emptied_step":
        return f"empty since {row['emptied']} bikes left at once; {row['usual_step']:.0f} at once is usual"
    if feature == "step":
        return f"{row['largest_step']} bikes came or went at once; {row['usual_step']:.0f} is usual"
    return "empty, as are far more stations than usual at this hour"


def last_counts(hours: "pd.DataFrame") -> dict[str, int]:
    """The last count of each station present in the last hour of a day."""
    last = hours[hours["hour_start"] == hours["hour_start"].max()]
    return dict(zip(last["station_id"].tolist(), last["bikes_last"].tolist(), strict=True))
