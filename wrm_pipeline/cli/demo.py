"""`make demo`: a simulated day from the feed to the map, through the code that runs in production.

The feed is a real HTTP server that misbehaves now and then; the sensors request runs; the jobs run on a real Dagster
instance, so that the UI can show them afterwards.
"""

import logging
import os
import shutil
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click
import dagster as dg
from dagster._core.execution.resources_init import get_transitive_required_resource_keys
from tabulate import tabulate

from wrm_pipeline.cli.command import Command
from wrm_pipeline.cli.progress import progress
from wrm_pipeline.clients.env_file import CHOICE as ENV_FILE
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.layout import local_date, partition_bounds
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.flows.ingest import IngestResult, take_snapshot, take_snapshots
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.sensors.lineage import wrm_lineage_sensor
from wrm_pipeline.sensors.raw_data import wrm_analytics_sensor, wrm_stations_raw_data_sensor
from wrm_pipeline.settings import Settings, load_settings
from wrm_pipeline.simulator.behaviour import Behaviour
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.lies import Lie
from wrm_pipeline.simulator.misbehaviour import Misbehaviour
from wrm_pipeline.simulator.server import serve

# Misbehaviour of the simulated feed, by minute of the day.
_MISHAPS = {
    180: Misbehaviour.HTML,
    240: Misbehaviour.EMPTY,
    400: Misbehaviour.CP1250,
    500: Misbehaviour.DEAD_LETTER_ROWS,
    555: Misbehaviour.FROZEN,
    640: Misbehaviour.UNCLOSED_QUOTE,
    700: Misbehaviour.MOJIBAKE,
    800: Misbehaviour.UNAVAILABLE,
    900: Misbehaviour.TRUNCATED_SILENTLY,
    1000: Misbehaviour.DUPLICATE_STATION,
}
# Minutes of the day in which the counts of the first feed stand still while its report times move; and those in which
# the second feed is fetched, too: it costs ten times as much as the first, and a whole day of it a minute.
_FROZEN = range(1150, 1195)
_SECOND_FEED = range(1145, 1200)
_FEEDS = "ucl,operator"
_MARKER = ".wrm-demo"


@dataclass(frozen=True, slots=True)
class _Clock:
    at: datetime

    def __call__(self) -> datetime:
        return self.at


@click.command(
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"]},
    examples=[
        ("make demo", "a simulated day, in data/demo"),
        ("make demo FEED=live", "one snapshot of the real feed"),
    ],
)
@click.option("--feed", type=click.Choice(["simulated", "live"]), default="simulated", show_default=True)
@click.option("--minutes", type=click.IntRange(min=1), help="Only the first minutes of the day.")
@click.option(
    "--dagster-yaml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("dagster.yaml"),
    show_default=True,
    help="Settings of Dagster's instance.",
)
def main(feed: str, minutes: int | None, dagster_yaml: Path) -> None:
    """Take a day from the feed to the map; exit status 0 if everything worked."""
    warnings.simplefilter("ignore")
    logging.getLogger("dagster").setLevel(logging.WARNING)
    started = time.monotonic()
    os.environ[ENV_FILE] = os.devnull  # a demonstration belongs into nobody's bucket
    if feed == "simulated":
        os.environ["WRM_FEEDS"] = _FEEDS
    settings = load_settings()
    _start_empty(settings.data_dir)
    shutil.copy(dagster_yaml, settings.data_dir / "dagster_home")
    fetched = _simulated_day(settings, minutes) if feed == "simulated" else _live_snapshot(settings)
    days = _run_what_is_due(settings)
    _report(settings, fetched, days, time.monotonic() - started)


def _start_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        sys.exit(f"{folder} contains something that is not from an earlier demo. Choose another WRM_DATA_DIR.")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "dagster_home").mkdir(parents=True)
    (folder / _MARKER).touch()


def _simulated_day(settings: Settings, first_minutes: int | None) -> Counter[str]:
    """Yesterday, minute by minute: 1,440 fetches (more or fewer on the days of clock change), or the first of them."""
    day = local_date(datetime.now(UTC)) - timedelta(days=1)
    start, end = partition_bounds(day)
    minutes = (end - start) // timedelta(minutes=1)
    minutes = min(minutes, first_minutes or minutes)
    print(f"Fetching {minutes} snapshots of {day} from a simulated feed ...", flush=True)
    lake = LakeResource.of(settings)
    outcome: Counter[str] = Counter()
    with serve(City(seed=1), clock=lambda: start) as server, progress("fetch", print) as bar:
        first = Feed(server.url, settings.feed_max_bytes)
        second = Feed(server.operator_url, settings.feed_max_bytes, kind=KINDS["operator"])
        for minute in range(minutes):
            bar.begin("", minutes)
            now = _Clock(start + timedelta(minutes=minute, seconds=2))
            server.clock = now
            if minute in _MISHAPS:
                server.plan(_MISHAPS[minute])
            if minute in (_FROZEN.start, _FROZEN.stop):
                server.behave("ucl", Behaviour(lie=Lie.FROZEN_COUNTS) if minute in _FROZEN else None)
            feeds = [replace(feed, now=now) for feed in ([first, second] if minute in _SECOND_FEED else [first])]
            taken = take_snapshots(feeds, lambda: lake.store, lake.layout, lake.spool)
            for error in taken.failures.values():
                raise error
            outcome.update(map(_outcome, taken.results))
    return outcome


def _live_snapshot(settings: Settings) -> Counter[str]:
    kind = settings.feed_kinds[0]
    url = settings.url_of(kind)
    print(f"Fetching a snapshot from {redact(url)} ...", flush=True)
    try:
        lake = LakeResource.of(settings)
        feed = Feed(url, settings.feed_max_bytes, kind=kind)
        return Counter([_outcome(take_snapshot(feed, lambda: lake.store, lake.layout, lake.spool))])
    except ExternalError as error:
        sys.exit(f"{error}\nWithout a network, `make demo` uses a simulated feed.")


def _outcome(result: IngestResult) -> str:
    if result.fault:
        return "quarantined"
    return "duplicate" if result.duplicate else "spooled" if result.spooled else "stored"


def _run_what_is_due(settings: Settings) -> list[date]:
    """Let the sensors request runs, and run them."""
    instance = dg.DagsterInstance.get()
    defs = build_defs(settings)
    days = []
    for sensor in (wrm_stations_raw_data_sensor, wrm_analytics_sensor):
        with _context_of(sensor, instance, defs) as context:
            result = sensor.evaluate_tick(context)
        for request in result.run_requests or ():
            job_name = request.job_name or str(sensor.job_name)
            print(f"{sensor.name} asks for {job_name} {request.partition_key or ''}", flush=True)
            run = defs.resolve_job_def(job_name).execute_in_process(
                instance=instance,
                partition_key=request.partition_key,
                run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
            )
            if not run.success:
                sys.exit(f"{job_name} failed; its log is in {settings.data_dir / 'dagster_home'}.")
            if request.partition_key and sensor is wrm_stations_raw_data_sensor:
                days.append(date.fromisoformat(request.partition_key))
    with _context_of(wrm_lineage_sensor, instance, defs) as context:
        wrm_lineage_sensor.evaluate_tick(context)
    return days


def _context_of(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, defs: dg.Definitions
) -> dg.SensorEvaluationContext:
    """A sensor's context as the daemon would create it: the instance, and the resources that it needs."""
    at_the_top = defs.get_repository_def().get_top_level_resources()
    needed = get_transitive_required_resource_keys(sensor.required_resource_keys, at_the_top)
    resources = {key: resource for key, resource in at_the_top.items() if key in needed}
    return dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def(), resources=resources)


def _report(settings: Settings, fetched: Counter[str], days: list[date], seconds: float) -> None:
    lake = LakeResource.of(settings)
    with lake.database.reading() as connection:
        rows = connection.execute(
            "SELECT count(*), count(DISTINCT file_timestamp), count(*) FILTER (record_type = 'station'), "
            "count(*) FILTER (record_type = 'bike'), count(*) FILTER (over_capacity), count(*) FILTER (no_docks), "
            "count(*) FILTER (outside_service_area), count(*) FILTER (stale) "
            "FROM wrm_analytics.wrm_stations_enhanced_data"
        ).fetchone()
        by_feed = connection.execute(
            "SELECT feed, count(DISTINCT file_timestamp), min(file_timestamp), max(file_timestamp) "
            "FROM wrm_analytics.wrm_stations_enhanced_data GROUP BY feed ORDER BY 2 DESC"
        ).fetchall()
    if rows is None:
        raise AssertionError("a query without GROUP BY gives one row")
    entries, lines = 0, Counter[str]()  # an entry of the queue holds all lines of a snapshot with one kind of error
    for letter in lake.dead_letters.all():
        entries += 1
        lines[letter.error_type] += letter.records_total
    place = lake.store.url(lake.layout.report_key("bike_density_map.html"))
    print()
    print(
        tabulate(
            [
                ["days", ", ".join(map(str, days))],
                ["snapshots stored", fetched["stored"]],
                ["snapshots published", rows[1]],
                *([f"  of the feed {feed}", _span(count, first, last)] for feed, count, first, last in by_feed),
                ["same as the one before", fetched["duplicate"]],
                ["in quarantine (not snapshots)", fetched["quarantined"]],
                ["rows published", rows[0]],
                ["  of stations / of bikes", f"{rows[2]} / {rows[3]}"],
                ["  flagged over_capacity", rows[4]],
                ["  flagged no_docks", rows[5]],
                ["  flagged outside_service_area", rows[6]],
                ["  flagged stale", rows[7]],
                ["dead letters, lines", lines.total()],
                *([f"  {kind}", count] for kind, count in sorted(lines.items())),
                ["dead letters, entries (wrm dlq list)", entries],
                ["time", f"{seconds:.0f} s"],
            ],
            tablefmt="simple",
            intfmt=",",
        )
    )
    print(f"\ndatabase  {settings.database_path}\nmap       {place}")
    print(f"report    {settings.reports_dir / 'site' / 'index.html'}")
    print(f"UI        make dev WRM_DATA_DIR={_shown(settings.data_dir)}")


def _span(count: int, first: datetime, last: datetime) -> str:
    """How many snapshots, and from when to when."""
    times = (f"{at.astimezone(this_city().zone):%H:%M}" for at in (first, last))
    return f"{count:,}, {' to '.join(times)}"


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
