"""What a day costs: groups of figures, each a function of a `Bench`. `groups.py` lists them all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from wrm_pipeline_tests.bench.figures import Figure, Wanted
from wrm_pipeline_tests.bench.lake import BenchLake
from wrm_pipeline_tests.bench.processes import in_child

Group = Callable[["Bench"], Iterator[Figure]]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where to work, how much, and whom to tell what goes on."""

    folder: Path
    quick: bool
    say: Callable[[str], None]
    minutes: float = 10.0
    """Of steady state, where a service is measured."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What a group has measured that a later one uses, too."""

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 3

    def lake(self, name: str, snapshots: int, stations: int, bikes: int) -> BenchLake:
        """A lake with a day of raw snapshots; a fortieth of them in a quick run."""
        lake = BenchLake(self.folder / name, snapshots // 40 if self.quick else snapshots, stations, bikes)
        self.say(f"{name}: {lake.snapshots} snapshots of {stations} stations and {bikes} bikes")
        in_child("fill", lake)
        return lake


def small_day(bench: Bench) -> Iterator[Figure]:
    """A day of the real system: a snapshot a minute; then one snapshot more."""
    lake = bench.lake("small", snapshots=1440, stations=260, bikes=152)
    ways = ["pandas", "duckdb", "typed_duckdb", "pipeline", "one_more"]
    # A tenth of a second is measured more often than seconds are.
    rounds = _build_rounds(bench, lake, ways, pandas_rounds=bench.rounds, more_rounds=0 if bench.quick else 4)
    yield from _build_figures("small", f"{lake.snapshots:,} × 410", rounds)
    of_full = [r["one_more"]["seconds"] / r["pipeline"]["seconds"] for r in rounds]
    yield Figure("one_more_time", "one snapshot more", median(_seconds(rounds, "one_more")), "s")
    yield Figure("one_more_share", "one snapshot more ÷ full build", median(of_full), "×", Wanted(high=0.15))
    requests = rounds[-1]["one_more"]["requests"]
    detail = ", ".join(f"{count} {kind}" for kind, count in sorted(requests.items()))
    what = f"one snapshot more: store requests ({detail})"
    yield Figure("one_more_requests", what, sum(requests.values()), "requests", Wanted(high=8))


def large_day(bench: Bench) -> Iterator[Figure]:
    """A larger city, two snapshots a minute."""
    lake = bench.lake("large", snapshots=2880, stations=760, bikes=376)
    rounds = _build_rounds(bench, lake, ["pandas", "duckdb", "typed_duckdb", "pipeline"], pandas_rounds=1)
    yield from _build_figures("large", f"{lake.snapshots:,} × 1,140", rounds)
    peak = max(r["pipeline"]["peak_mb"] for r in rounds)
    yield Figure("large_peak_memory", f"{lake.snapshots:,} × 1,140: peak memory of (c)", peak, "MB", Wanted(high=500))


def density(bench: Bench) -> Iterator[Figure]:
    """The grid over a day that has two snapshots."""
    lake = BenchLake(bench.folder / "two", 2, 260, 152)
    bench.say("density over two snapshots")
    in_child("fill", lake)
    seconds = in_child("density", lake)["seconds"]
    yield Figure("density_two_snapshots", "density grid over two snapshots", seconds * 1000, "ms", Wanted(high=100))


def spellings(bench: Bench) -> Iterator[Figure]:
    """Whole bodies in other spellings of the same facts, each compared with the usual one."""
    wanted = Wanted(high=1.5)
    lake = BenchLake(bench.folder / "spellings", 3 if bench.quick else 240, 260, 152)
    bench.say(f"{lake.snapshots} snapshots in every spelling of the data contract")
    lake.data_dir.mkdir()
    found = in_child("spellings", lake, limit=wanted.high)
    single, combined = (sorted(found[kind].items(), key=lambda item: item[1]) for kind in ("single", "combined"))
    bench.say(", ".join(f"{name}: {ratio:.2f}" for name, ratio in (*single[::-1], *combined)))
    name, ratio = single[-1]
    yield Figure(
        "spelling_slowest", f"the slowest of {len(single)} spellings ÷ the usual one ({name})", ratio, "×", wanted
    )
    yield Figure(
        "spelling_median", "the median of these spellings ÷ the usual one", median(found["single"].values()), "×"
    )
    name, ratio = combined[-1]
    yield Figure("spelling_combined", f"four deviations at once ÷ the usual spelling ({name})", ratio, "×")


def year_of_history(bench: Bench) -> Iterator[Figure]:
    """One changed day with a year before it, and with a month; what the tables and the views answer."""
    lake = BenchLake(bench.folder / "history", 1440, 260, 152)
    bench.say("a year of history: generating 365 days")
    rows = in_child("fill_year", lake)["rows"]
    bench.say(f"a year of history: measuring on {rows:,} rows")
    found = in_child("measure_year", lake)
    size = f"365 days, {rows:,} rows"
    for name, days in (("month", 30), ("year", 365)):
        what = f"tables after a day of 590,000 rows has changed, {days} days of history"
        yield Figure(f"{name}_refresh", what, median(found["refresh"][name]), "s")
    yield Figure("year_over_month", "the same: 365 days ÷ 30 days", found["ratio"], "×", Wanted(high=1.3))
    yield Figure("year_memory", f"{size}: peak memory of the refreshes", found["peak_mb"], "MB", Wanted(high=1000))
    yield Figure("year_database", f"{size}: size of the database", found["size_mb"]["year"], "MB")
    for name, table in (("latest", "mv_station_latest"), ("daily", "mv_daily_aggregates"), ("summary", "the summary")):
        yield Figure(f"year_{name}", f"{size}: {table} answers", found["ms"][name], "ms", Wanted(high=50))
    yield Figure("year_answer_cpu", f"{size}: processor time of the slowest of these", found["cpu_ms"], "ms")
    yield Figure("year_one_day", f"{size}: the view asked of one day answers", found["one_day_ms"], "ms")
    yield Figure("year_files", f"{size}: files that it reads", found["files"], "files", Wanted(high=1))


def forecast(bench: Bench) -> Iterator[Figure]:
    """What a night's learning takes, and one forecast of all stations."""
    lake = BenchLake(bench.folder / "forecast", 1440, 260, 152)
    bench.say("the forecast: a month of days")
    rows = in_child("fill_month", lake)["rows"]
    bench.say(f"the forecast: learning from {rows:,} rows")
    learnt, applied = (in_child(task, lake) for task in ("learn_forecast", "apply_forecast"))
    size = f"forecast, a month of {rows:,} rows"
    what = f"{size}: learning, from the newest {learnt['days']} days"
    yield Figure("forecast_learning", what, learnt["seconds"], "s", Wanted(high=60))
    yield Figure("forecast_learning_cpu", "… its processor time", learnt["cpu_s"], "s")
    yield Figure("forecast_memory", f"{size}: peak memory of learning", learnt["peak_mb"], "MB", Wanted(high=1000))
    what = f"forecast of {applied['stations']} stations, 6 horizons each, today's rows read"
    yield Figure("forecast_applying", what, applied["seconds"], "s", Wanted(high=1))
    yield Figure("forecast_applying_cpu", "… its processor time", applied["cpu_s"], "s")


_Round = dict[str, dict[str, Any]]


def _build_rounds(
    bench: Bench, lake: BenchLake, ways: list[str], *, pandas_rounds: int, more_rounds: int = 0
) -> list[_Round]:
    """Each way once a round, one after the other; the pandas way in the first rounds only."""
    rounds = []
    for number in range(bench.rounds + more_rounds):
        answers: _Round = {}
        for way in ways:
            if way != "pandas" or number < pandas_rounds:
                bench.say(f"{lake.data_dir.name}, round {number + 1}: {way}")
                answers[way] = in_child(f"build_{way}", lake)
        rows = {way: answer["rows"] for way, answer in answers.items() if way != "one_more"}
        if len(set(rows.values())) != 1:
            raise AssertionError(f"the ways do not give the same number of rows: {rows}")
        rounds.append(answers)
    return rounds


def _seconds(rounds: list[_Round], way: str) -> list[float]:
    return [answers[way]["seconds"] for answers in rounds if way in answers]


def _build_figures(name: str, size: str, rounds: list[_Round]) -> Iterator[Figure]:
    """Times are medians; a ratio is the median of the ratios within one round."""
    rows = rounds[0]["pipeline"]["rows"]
    titles = {
        "pandas": "(a) pandas",
        "duckdb": "(b) bare DuckDB",
        "typed_duckdb": "(b′) bare DuckDB, told the types",
        "pipeline": "(c) this pipeline",
    }
    for way, title in titles.items():
        what = f"{size}: {title}" + (f", {rows:,} rows" if way == "pipeline" else "")
        yield Figure(f"{name}_{way}", what, median(_seconds(rounds, way)), "s")
    faster = [r["pandas"]["seconds"] / r["pipeline"]["seconds"] for r in rounds if "pandas" in r]
    of_duckdb = [r["pipeline"]["seconds"] / r["duckdb"]["seconds"] for r in rounds]
    of_typed = [r["pipeline"]["seconds"] / r["typed_duckdb"]["seconds"] for r in rounds]
    yield Figure(f"{name}_pandas_over_pipeline", f"{size}: (a) ÷ (c)", median(faster), "×", Wanted(low=8))
    yield Figure(f"{name}_pipeline_over_duckdb", f"{size}: (c) ÷ (b)", median(of_duckdb), "×", Wanted(high=1.2))
    yield Figure(f"{name}_pipeline_over_typed_duckdb", f"{size}: (c) ÷ (b′)", median(of_typed), "×")
