"""`wrm prune`: removes Dagster's old history, and superseded files that have expired."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from wrm_pipeline.cli.command import (
    NOTHING_CHANGED,
    Command,
    apply_option,
    dagster_instance,
    json_option,
    pass_settings,
)
from wrm_pipeline.cli.output import print_json, printer
from wrm_pipeline.cli.progress import progress

if TYPE_CHECKING:
    from wrm_pipeline.jobs.run_history import Pruned
    from wrm_pipeline.settings import Settings


@click.command(
    cls=Command,
    examples=[
        ("wrm prune", "count what would be removed"),
        ("wrm prune --apply", "what the timer wrm-prune does each night"),
        ("wrm prune --days 30 --json", "count for another age, for a program"),
    ],
)
@click.option("--days", type=float, help="Age of history to keep, default WRM_HISTORY_DAYS.")
@apply_option()
@json_option
@pass_settings
def prune(settings: "Settings", days: float | None, apply: bool, as_json: bool) -> int:
    """Remove Dagster's old history and superseded files."""
    from dataclasses import asdict

    from wrm_pipeline.jobs import history_size, run_history

    days = settings.history_days if days is None else days
    try:
        run_history.oldest_to_keep(days)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    instance = dagster_instance()
    if instance is None:
        raise click.ClickException("DAGSTER_HOME is not set, so it is unknown whose history to prune.")
    try:
        before = history_size.what_goes(instance, days, settings.history_max_bytes, datetime.now(UTC))
        with progress("prune", printer(as_json)) as bar:
            done = run_history.prune(instance, before=before, apply=apply, begin=bar.begin)
    except run_history.UnknownStorageError as error:
        raise click.ClickException(str(error)) from None
    if apply:
        printer(as_json)(_prune_superseded(settings))
    if as_json:
        print_json({**asdict(done), "before": before.isoformat(), "applied": apply})
    else:
        _print(done, before, apply=apply)
    return 0


def _print(done: "Pruned", before: datetime, *, apply: bool) -> None:
    verb = "removed" if apply else "would go"
    print(f"History from before {before:%Y-%m-%d %H:%M} UTC:")
    print(
        f"{done.runs:,} runs, {done.events:,} events, {done.check_results:,} check results, {done.ticks:,} ticks and "
        f"{done.files:,} files of runs ({done.file_bytes / 1e6:,.1f} MB) {verb}; {done.runs_left:,} runs and "
        f"{done.events_left:,} events stay."
    )
    for warning in done.warnings:
        print(warning)
    if not apply:
        print(NOTHING_CHANGED)


def _prune_superseded(settings: "Settings") -> str:
    """Remove expired files of other writers from superseded/; if the store fails, they wait for the next day."""
    from wrm_pipeline.clients.errors import ExternalError
    from wrm_pipeline.flows.take_over import remove_expired
    from wrm_pipeline.resources.lake import connect_store

    try:
        removed = remove_expired(connect_store(settings), settings.layout, now=datetime.now(UTC))
    except ExternalError as error:
        return f"Files in superseded/ were not checked: {error}"
    return f"{removed} files in superseded/ were older than 30 days and were removed."
