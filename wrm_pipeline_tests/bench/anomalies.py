"""How good the two ways of finding anomalies are: simulated weeks with planted anomalies.

    python -m wrm_pipeline_tests.bench.anomalies [--seed 2] [--days 7] [--interval 300]

prints precision, recall and false alarms per day of both, on the same data (docs/quality.md has the figures).
"""

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from wrm_pipeline.domain.anomalies import (
    DAYS_COMPARED,
    features,
    isolation_forest,
    last_counts,
    robust_z,
    station_hours,
    usual_of,
)
from wrm_pipeline.domain.anomaly_options import ISOLATION_FOREST, ROBUST_Z
from wrm_pipeline.domain.business_rules import observations
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.enhanced_build import enhance_rows
from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.domain.rules import DEFAULT_SERVICE_AREA
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.simulator.city import City

FIRST = date(2025, 8, 4)
FROZEN, JUMP, ZEROS, CITY_ZEROS = "frozen station", "jump", "night of zeros", "night of zeros everywhere"


@dataclass(frozen=True, slots=True)
class Planted:
    """An anomaly: `station` (None: every station) from `start` to before `end`."""

    kind: str
    station: str | None
    start: datetime
    end: datetime


def rows_of_day(city: City, dt: date, interval_s: int) -> pa.Table:
    """The enhanced rows of a simulated day with a snapshot each `interval_s` seconds."""
    at, end = partition_bounds(dt)
    files = []
    while at < end:
        files.append(RawSnapshot(f"raw/{at:%Y%m%d%H%M%S}.txt", at, city.snapshot(at)))
        at += timedelta(seconds=interval_s)
    rows = parse_snapshots(files).rows
    parsed = {file.source_key: end for file in files}
    return (
        enhance_rows(rows, area=DEFAULT_SERVICE_AREA, dt=dt, processed_at=parsed).unify_dictionaries().combine_chunks()
    )


def hours_of(rows: pa.Table, dt: date, before: pd.DataFrame | None = None) -> pd.DataFrame:
    """The day's station hours; `before` are those of the day before."""
    counts = None if before is None else last_counts(before)
    ids, names = rows["station_id"].chunk(0).dictionary.to_pylist(), rows["name"]
    return station_hours(observations(rows, counts), ids, lambda row: names[row].as_py()).assign(dt=dt)


def plant(rows: pa.Table, planted: list[Planted]) -> pa.Table:
    """The rows with anomalies in their counts of bikes."""
    bikes = rows["bikes"].to_numpy().copy()
    times = rows["file_timestamp"].to_numpy()
    ids = rows["station_id"].cast(pa.string()).to_numpy(zero_copy_only=False)
    stations = rows["record_type"].cast(pa.string()).to_numpy(zero_copy_only=False) == "station"
    for anomaly in planted:
        start, end = (np.datetime64(at.replace(tzinfo=None), "us") for at in (anomaly.start, anomaly.end))
        hit = stations & (times >= start) & (times < end)
        if anomaly.station is not None:
            hit &= ids == anomaly.station
        if anomaly.kind == FROZEN:
            bikes[hit] = bikes[hit][0]
        elif anomaly.kind == JUMP:
            bikes[hit] += 40
        else:
            bikes[hit] = 0
    return rows.set_column(rows.column_names.index("bikes"), "bikes", pa.array(bikes))


def local(dt: date, hour: float) -> datetime:
    """An hour of the local day, in UTC."""
    at = datetime(dt.year, dt.month, dt.day, int(hour), round(hour % 1 * 60), tzinfo=this_city().zone)
    return at.astimezone(partition_bounds(dt)[0].tzinfo)


def plans(earlier: pd.DataFrame, days: list[date], seed: int) -> Iterator[tuple[date, list[Planted]]]:
    """For each day three frozen stations, three jumps and three nights of zeros; everywhere on the last night.

    Frozen are stations at which at least 3 bikes come or go in an hour of the day, empty at night such as have at least
    5 bikes then: at others, nobody could tell.
    """
    rng = random.Random(seed)
    by_day = earlier[earlier["local_hour"].between(7, 18)].groupby("station_id")["moves"].mean()
    by_night = earlier[earlier["local_hour"] < 5].groupby("station_id")["bikes_mean"].median()
    busy, full = sorted(by_day[by_day >= 3].index), sorted(by_night[by_night >= 5].index)
    for dt in days:
        frozen, full_now = rng.sample(busy, 3), [station for station in full if station not in busy] or full
        jumps = rng.sample([station for station in sorted(by_day.index) if station not in frozen], 3)
        zeros = rng.sample([station for station in full_now if station not in {*frozen, *jumps}], 3)
        if dt == days[-1]:
            yield dt, [Planted(CITY_ZEROS, None, local(dt, 0), local(dt, 5))]
            continue
        yield (
            dt,
            [Planted(FROZEN, station, local(dt, 8), local(dt, 20)) for station in frozen]
            + [
                Planted(JUMP, station, local(dt, 9.5 + 3 * n), local(dt, 9.75 + 3 * n))
                for n, station in enumerate(jumps)
            ]
            + [Planted(ZEROS, station, local(dt, 0), local(dt, 5)) for station in zeros],
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """What a method found. An alarm is a run of consecutive anomalous hours of one station."""

    method: str
    precision: float
    recall: float
    hour_precision: float
    hour_recall: float
    false_alarms_per_day: float
    found: dict[str, tuple[int, int]]


def measure(city: City, *, seed: int, days: int, interval_s: int, reference_days: int = DAYS_COMPARED) -> list[Figures]:
    """Simulate, plant, find, compare."""
    calendar = [FIRST + timedelta(days=n) for n in range(reference_days + days)]
    rows = {dt: rows_of_day(city, dt, interval_s) for dt in calendar[reference_days:]}
    hours: dict[date, pd.DataFrame] = {}
    for dt in calendar:
        day = rows[dt] if dt in rows else rows_of_day(city, dt, interval_s)
        hours[dt] = hours_of(day, dt, hours.get(dt - timedelta(days=1)))
    clean = pd.concat([hours[dt] for dt in calendar[:reference_days]], ignore_index=True)
    usual = usual_of(clean)
    known = features(clean.sort_values(["station_id", "hour_start"], ignore_index=True), usual)
    planted, tested = [], []
    for dt, plan in plans(clean, calendar[reference_days:], seed):
        planted += plan
        day = hours_of(plant(rows[dt], plan), dt, hours[dt - timedelta(days=1)])
        # As in `judge_hours`: with the day before, here without what was planted in it.
        both = pd.concat([hours[dt - timedelta(days=1)], day], ignore_index=True)
        found = features(both.sort_values(["station_id", "hour_start"], ignore_index=True), usual)
        tested.append(found[found["dt"] == dt])
    table = pd.concat(tested, ignore_index=True)
    return [
        _figures(ROBUST_Z, table.assign(score=robust_z(table)), planted, days),
        _figures(ISOLATION_FOREST, table.assign(score=isolation_forest(table, known)), planted, days),
    ]


def _figures(method: str, table: pd.DataFrame, planted: list[Planted], days: int) -> Figures:
    truth = np.zeros(len(table), dtype=bool)
    excused = np.zeros(len(table), dtype=bool)
    alarm = (table["score"] > 1).to_numpy()
    found: dict[str, tuple[int, int]] = {}
    starts, stations = table["hour_start"], table["station_id"].to_numpy()
    for anomaly in planted:
        begun = pd.Timestamp(anomaly.start).floor("h")
        mine = ((starts >= begun) & (starts < anomaly.end)).to_numpy()
        # The hour after it holds the step back.
        after = ((starts >= begun) & (starts < anomaly.end + timedelta(hours=1))).to_numpy()
        if anomaly.station is not None:
            mine, after = mine & (stations == anomaly.station), after & (stations == anomaly.station)
        truth |= mine
        excused |= after
        hits, total = found.get(anomaly.kind, (0, 0))
        found[anomaly.kind] = (hits + bool((alarm & mine).any()), total + 1)
    false = table[alarm & ~excused].sort_values(["station_id", "hour_start"])
    runs = (false["station_id"] != false["station_id"].shift()) | (
        false["hour_start"] != false["hour_start"].shift() + pd.Timedelta(hours=1)
    )
    events = sum(hits for hits, _ in found.values())
    return Figures(
        method,
        precision=events / max(events + int(runs.sum()), 1),
        recall=events / len(planted),
        hour_precision=float((alarm & excused).sum() / max(alarm.sum(), 1)),
        hour_recall=float((alarm & truth).sum() / truth.sum()),
        false_alarms_per_day=float(runs.sum() / days),
        found=found,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--interval", type=int, default=300, help="seconds between snapshots")
    args = parser.parse_args()
    city = City(seed=args.seed, bike_count=0)
    sys.stdout.write(f"seed {args.seed}: {DAYS_COMPARED} clean days, {args.days} days with anomalies\n")
    for figures in measure(city, seed=args.seed, days=args.days, interval_s=args.interval):
        found = ", ".join(f"{kind} {hits}/{total}" for kind, (hits, total) in figures.found.items())
        sys.stdout.write(
            f"{figures.method}: precision {figures.precision:.2f}, recall {figures.recall:.2f} "
            f"(by hours {figures.hour_precision:.2f}, {figures.hour_recall:.2f}), "
            f"{figures.false_alarms_per_day:.2f} false alarms a day; found {found}\n"
        )


if __name__ == "__main__":
    main()
