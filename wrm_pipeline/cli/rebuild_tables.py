"""The last part of `wrm rebuild`: what the database holds, by the jobs that make it each few minutes and each night."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any

import click
import dagster as dg

from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import folder_dates, local_date
from wrm_pipeline.jobs.processing import (
    wrm_analytics_job,
    wrm_city_rides_job,
    wrm_daily_analytics_job,
    wrm_forecast_job,
    wrm_stations_history_job,
)
from wrm_pipeline.partitions import range_tags, spans_of
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import Settings

# What the rides of a day are compared with; the rest of the job comes last, as it shows the comparison.
_ROWS_FIRST = (asset_names.VIEWS, asset_names.MATERIALIZED_VIEWS)
_UP_TO_NOW = {asset_names.MATERIALIZED_VIEWS: {"up_to_now": True}}
_KEPT_LISTS = {asset_names.CITY_RIDES: {"kept_only": True}}


def rebuild_tables(
    settings: Settings,
    days: Sequence[date],
    between: tuple[date, date],
    instance: dg.DagsterInstance | None,
    say: Callable[[str], None],
) -> None:
    """Make views, tables, published database, map and report.

    Of the city's own lists of rides those that are kept in `ledger/`, of the forecasts' scores those of models that are
    kept: neither fails the others.

    Args:
        settings: Of this process.
        days: The days of raw data that were rebuilt.
        between: First and last day that were asked for: there may be lists of rides of days without raw data.
        instance: Where the runs are recorded.
        say: Prints a line.

    Raises:
        ClickException: something failed.
    """
    logging.getLogger("dagster").setLevel(logging.WARNING)
    lake = LakeResource.of(settings)
    today, newest = local_date(datetime.now(UTC)), lake.newest_shown()
    runs = _Runs(build_defs(settings), instance, say)
    for first, last in spans_of(dt for dt in days if newest is not None and dt < newest):
        what = f"daily tables of {first} to {last}"
        runs.run(wrm_daily_analytics_job.name, what, tags=range_tags(first, last))
    runs.run(wrm_stations_history_job.name, "stations through names and places")

    failed = []
    kept = folder_dates(lake.store.list_folders(lake.layout.ledger_prefix))
    lists = [dt for dt in kept if between[0] <= dt <= between[1] and not lake.layout.not_a_partition(dt, today)]
    if lists:
        runs.run(wrm_analytics_job.name, "rides that were seen", config=_UP_TO_NOW, assets=_ROWS_FIRST)
    for first, last in spans_of(lists):
        what = f"the city's lists of rides of {first} to {last}"
        failed += runs.tried(wrm_city_rides_job.name, what, config=_KEPT_LISTS, tags=range_tags(first, last))
    for dt in folder_dates(lake.store.list_folders(lake.layout.forecast_prefix)):
        if dt in days and dt < today:
            score = {asset_names.FORECAST_SKILL: {"date": str(dt)}}
            what = f"score of the forecasts of {dt}"
            failed += runs.tried(wrm_forecast_job.name, what, config=score, assets=tuple(score))

    key = str(newest) if newest else None
    what = "tables, published database and map"
    runs.run(wrm_analytics_job.name, what, config=_UP_TO_NOW, partition_key=key)
    if failed:
        names = "; ".join(failed)
        raise click.ClickException(f"{names}. All else is done. See the errors above or the runs in the UI.")
    say(f"done: {settings.database_path}")


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of the jobs, in this process."""

    defs: dg.Definitions
    instance: dg.DagsterInstance | None
    say: Callable[[str], None]

    def run(self, job: str, what: str, **options: Any) -> None:
        """Run a job, or some of its assets; one that fails ends the command.

        Raises:
            ClickException: it failed.
        """
        if failed := self.tried(job, what, **options):
            raise click.ClickException(
                f"{failed[0]}; partitions are complete. See the error above or the run in the UI, then `wrm rebuild "
                "--layer analytics`."
            )

    def tried(
        self,
        job: str,
        what: str,
        *,
        config: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        assets: Sequence[str] = (),
        **options: Any,
    ) -> list[str]:
        """The same; returns what failed."""
        started = time.monotonic()
        self.say(f"{what}: {job} ...")
        done = self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config={
                "loggers": {"console": {"config": {"log_level": "ERROR"}}},
                "ops": {asset: {"config": values} for asset, values in config.items()},
            },
            asset_selection=[dg.AssetKey(name) for name in assets] or None,
            raise_on_error=False,
            **options,
        )
        if not done.success:
            return [f"{what}: {job} failed (run {done.run_id})"]
        self.say(f"{what}: made in {time.monotonic() - started:.1f} s")
        return []
