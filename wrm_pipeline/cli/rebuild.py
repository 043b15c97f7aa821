"""`wrm rebuild`: partitions and tables from scratch, from raw/ and dlq/ alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import click

from wrm_pipeline.cli.command import (
    DAY,
    NOTHING_CHANGED,
    Command,
    dagster_instance,
    dry_run_option,
    json_option,
    pass_settings,
)
from wrm_pipeline.cli.output import print_json, print_table, printer
from wrm_pipeline.cli.progress import Progress, progress
from wrm_pipeline.domain import asset_names

if TYPE_CHECKING:
    import dagster as dg

    from wrm_pipeline.flows.rebuild import Layer, RebuiltPartition
    from wrm_pipeline.lake.object_store import ObjectStore
    from wrm_pipeline.settings import Settings

ANALYTICS = "analytics"
# The layers of `flows.rebuild.LAYERS`, and the tables; not imported, to keep `--help` fast.
PARTS = ("processed", "enhanced", "bike_positions", ANALYTICS)


@dataclass(frozen=True, slots=True)
class _Order:
    """What was asked for."""

    layers: Sequence["Layer"]
    full: bool
    allow_shrink: bool
    apply: bool


@dataclass(slots=True)
class _Outcome:
    """The results of the days, in order; `days` is for --json."""

    days: list[dict[str, Any]] = field(default_factory=list)
    failed: list[date] = field(default_factory=list)
    refused: list[date] = field(default_factory=list)


@click.command(
    cls=Command,
    examples=[
        ("wrm rebuild --dry-run", "do everything in memory, and show what would be written"),
        ("wrm rebuild", "every day, then tables, published database and map"),
        ("wrm rebuild --from 2025-08-01 --to 2025-08-31", "the days of a month"),
        ("wrm rebuild --layer analytics", "tables, published database and map only"),
    ],
)
@click.option("--from", "first", type=DAY, help="Default the first day.")
@click.option("--to", "last", type=DAY, help="Default the last day.")
@click.option("--layer", "parts", type=click.Choice(PARTS), multiple=True, help="May be repeated; default all.")
@click.option("--full", is_flag=True, help="Parse all raw objects again, even of complete days.")
@click.option("--allow-shrink", is_flag=True, help="Permit the loss of rows whose raw objects are gone or refused.")
@dry_run_option
@json_option
@pass_settings
def rebuild(
    settings: "Settings",
    first: date | None,
    last: date | None,
    parts: tuple[str, ...],
    full: bool,
    allow_shrink: bool,
    apply: bool,
    as_json: bool,
) -> int:
    """Build partitions and tables from raw/ and dlq/ alone.

    It builds what is missing or differs, prints one line per day, and continues where it stopped if it was interrupted.
    """
    from wrm_pipeline.flows.rebuild import LAYERS
    from wrm_pipeline.resources.lake import connect_store

    say = printer(as_json)
    if not apply:
        say("A dry run: nothing is written.")
    store = connect_store(settings)
    days = _days(store, settings, first, last, say)
    state = _state(store, settings, days)
    if not as_json:
        print_table([list(row.values()) for row in state], list(state[0]))
        say("")
    wanted = parts or PARTS
    order = _Order([layer for layer in LAYERS if layer in wanted], full, allow_shrink, apply)
    instance = dagster_instance() if apply else None
    with progress("rebuild", say) as bar:
        outcome = _build_days(store, settings, days if order.layers else [], order, instance, bar)
    if as_json:
        print_json({"layers": state, "days": outcome.days, "applied": apply})
    if not apply:
        if ANALYTICS in wanted:
            say("Tables, published database and map would be refreshed.")
            if obstacle := _obstacle(settings):
                say(f"{obstacle}.")
        say(NOTHING_CHANGED)
        return 1 if outcome.failed else 0
    between = first or date.min, last or date.max
    return _finish(settings, outcome, days, between, instance, tables=ANALYTICS in wanted, say=say)


def _obstacle(settings: "Settings") -> str:
    from wrm_pipeline.analytics.database import AnalyticsDatabase
    from wrm_pipeline.analytics.obstacle import obstacle_to

    return obstacle_to(AnalyticsDatabase(settings.database_path))


def _days(
    store: "ObjectStore", settings: "Settings", first: date | None, last: date | None, say: Callable[[str], None]
) -> list[date]:
    """The days that can be built.

    Raises:
        ClickException: there is none; the message says why.
    """
    from wrm_pipeline.domain.layout import local_date
    from wrm_pipeline.flows.rebuild import days_of

    found, today = days_of(store, settings.layout, first, last), local_date(datetime.now(UTC))
    no_days = {dt: why for dt in found if (why := settings.layout.not_a_partition(dt, today))}
    for dt, why in no_days.items():
        say(f"{dt}  is left alone: {why}.")
    days = [dt for dt in found if dt not in no_days]
    if no_days and not days:
        dt = min(no_days)
        raise click.ClickException(
            f"No partition has raw data; {dt} has, but {no_days[dt]}. The same holds for sensors and UI."
        )
    if not days:
        raise click.ClickException(
            f"There is no raw snapshot of the selected days in {settings.layout.raw_prefix} of {store.name}. Check "
            f"the dates, "
            "BUCKET_NAME and WRM_STATIONS_S3_PREFIX."
        )
    return days


def _state(store: "ObjectStore", settings: "Settings", days: Sequence[date]) -> list[dict[str, Any]]:
    """The situation before: a row for raw and for each layer."""
    from wrm_pipeline.lake.published_partitions import PublishedPartitions

    partitions = PublishedPartitions(store, settings.layout)
    rows: list[dict[str, Any]] = [
        {"layer": "raw", "days": len(days), "missing": 0, "first": days[0], "last": days[-1]},
    ]
    layers = [layer for layer in PARTS if layer != ANALYTICS]
    for layer in layers:
        there = sorted(set(partitions.dates(layer)) & set(days))
        ends = (there[0], there[-1]) if there else ("", "")
        # Only days with an answer of the operator's feed have bike positions.
        missing = 0 if layer == "bike_positions" else len(days) - len(there)
        rows.append({"layer": layer, "days": len(there), "missing": missing, "first": ends[0], "last": ends[1]})
    return rows


def _build_days(
    store: "ObjectStore",
    settings: "Settings",
    days: Sequence[date],
    order: _Order,
    instance: "dg.DagsterInstance | None",
    bar: Progress,
) -> _Outcome:
    from wrm_pipeline.clients.errors import ExternalError
    from wrm_pipeline.domain.partition_build import PartitionWouldShrinkError
    from wrm_pipeline.flows.process import NoRawDataError

    history, outcome = _History(instance), _Outcome()
    for number, dt in enumerate(days, start=1):
        bar.begin(dt.isoformat(), len(days))
        started = time.monotonic()
        try:
            built = _build_day(store, settings, dt, order)
        except NoRawDataError as error:
            outcome.days.append({"dt": dt, "outcome": "nothing to do", "message": str(error)})
            bar.say(f"{dt}  nothing to do: {error}")
            continue
        except PartitionWouldShrinkError as error:
            outcome.refused.append(dt)
            outcome.days.append({"dt": dt, "outcome": "refused", "message": str(error)})
            bar.say(f"{dt}  {'' if order.apply else 'would be '}refused: {error}")
            continue
        except (ExternalError, RuntimeError, ValueError) as error:
            outcome.failed.append(dt)
            outcome.days.append({"dt": dt, "outcome": "failed", "message": str(error)})
            bar.say(f"{dt}  failed: {error}")
            continue
        history.report(built, order.layers)
        outcome.days.append(_as_json(built))
        seconds = f"({time.monotonic() - started:.1f} s; {number} of {len(days)})"
        bar.say(f"{dt}  {_said_of(built, apply=order.apply)} {seconds}")
        for warning in built.warnings:
            bar.say(f"            {warning}")
    return outcome


def _build_day(store: "ObjectStore", settings: "Settings", dt: date, order: _Order) -> "RebuiltPartition":
    from wrm_pipeline.flows.rebuild import rebuild_partition
    from wrm_pipeline.lake.dry_run_store import DryRunStore
    from wrm_pipeline.resources.lake import area_of

    target = store if order.apply else DryRunStore(store)
    return rebuild_partition(
        target,
        settings.layout,
        dt,
        area=area_of(settings, target),
        strict=settings.strict,
        now=datetime.now(UTC),
        layers=order.layers,
        full=order.full,
        allow_shrink=order.allow_shrink,
    )


def _as_json(built: "RebuiltPartition") -> dict[str, Any]:
    return {
        "dt": built.dt,
        "outcome": "written" if built.written else "there already",
        "written": built.written,
        "snapshots": built.snapshots,
        "rows": built.counts.rows_out,
        "dead_lettered": built.counts.dead_lettered,
        "rows_before": built.rows_before,
        "warnings": built.warnings,
    }


def _said_of(built: "RebuiltPartition", *, apply: bool) -> str:
    counts = built.counts
    what = f"{'+'.join(built.written)} {'written' if apply else 'would be written'}"
    said = (
        f"{built.snapshots:,} snapshots, {counts.rows_out:,} rows, {counts.dead_lettered:,} dead-lettered: "
        f"{what if built.written else 'there already'}"
    )
    others = [
        f"{o.row_count:,} in {o.file_count} other {layer} files" for layer, o in built.take_over.items() if o.file_count
    ]
    if apply and not others:
        return said
    return f"{said}; before: {built.rows_before:,} rows in ours{''.join(f', {text}' for text in others)}"


class _History:
    """Reports rebuilt partitions to Dagster: its UI shows only what was reported to it."""

    def __init__(self, instance: "dg.DagsterInstance | None") -> None:
        self._instance = instance
        if instance is None:
            return
        import dagster as dg

        self._keys = {
            "processed": dg.AssetKey(asset_names.PROCESSED),
            "enhanced": dg.AssetKey(asset_names.ENHANCED),
            "bike_positions": dg.AssetKey(asset_names.BIKE_POSITIONS),
        }
        self._known = {layer: instance.get_materialized_partitions(key) for layer, key in self._keys.items()}

    def report(self, built: "RebuiltPartition", layers: Sequence[str]) -> None:
        """The layers that were written, or that Dagster does not know yet."""
        if self._instance is None:
            return
        import dagster as dg

        day = built.dt.isoformat()
        for layer in layers:
            # Not every day has bike positions.
            if layer in built.written or (layer != "bike_positions" and day not in self._known[layer]):
                rows = built.counts.rows_out
                event = dg.AssetMaterialization(
                    asset_key=self._keys[layer],
                    partition=day,
                    metadata={"rebuilt_by": dg.MetadataValue.text("wrm rebuild"), "dagster/partition_row_count": rows},
                )
                self._instance.report_runless_asset_event(event)


def _finish(
    settings: "Settings",
    outcome: _Outcome,
    days: Sequence[date],
    between: tuple[date, date],
    instance: "dg.DagsterInstance | None",
    *,
    tables: bool,
    say: Callable[[str], None],
) -> int:
    """Refresh the tables if every day was built; returns the exit status."""
    failed, refused, day_count = outcome.failed, outcome.refused, len(days)
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {day_count} days failed ({', '.join(map(str, failed[:5]))}): see above. The others are "
            f"done; run the same command again to build what is missing. The tables were not refreshed."
        )
    if tables:
        from wrm_pipeline.cli.rebuild_tables import rebuild_tables

        rebuild_tables(settings, days, between, instance, say)
    if refused:
        raise click.ClickException(
            f"{len(refused)} of {day_count} days would lose rows and are unchanged "
            f"({', '.join(map(str, refused[:5]))}): see above. If the loss is intended: `wrm rebuild --from "
            f"{refused[0]} "
            f"--to {refused[0]} --allow-shrink`. The others are done."
        )
    return 0
