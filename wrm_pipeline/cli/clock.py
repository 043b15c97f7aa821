"""`wrm repair-clock` and `wrm raw`: repair what a clock that was ahead has left behind."""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from wrm_pipeline.cli.command import NOTHING_CHANGED, Command, Group, apply_option, json_option, pass_settings
from wrm_pipeline.cli.output import print_json, printer
from wrm_pipeline.cli.progress import progress

if TYPE_CHECKING:
    from wrm_pipeline.flows.future_raw import Move
    from wrm_pipeline.lake.object_store import ObjectStore
    from wrm_pipeline.settings import Settings


@click.command(
    "repair-clock",
    cls=Command,
    examples=[
        ("wrm repair-clock", "what waits for a time in the future"),
        ("wrm repair-clock --apply", "repair it, then restart the daemon"),
    ],
)
@apply_option("--write")
@json_option
@pass_settings
def repair_clock(settings: "Settings", apply: bool, as_json: bool) -> int:  # noqa: ARG001 - as all commands
    """Free sensors and schedules after the clock was ahead.

    They wait for a time in the future.
    """
    from dataclasses import asdict

    import dagster as dg

    from wrm_pipeline.resources import clock_repair

    say = printer(as_json)
    if not os.environ.get("DAGSTER_HOME"):
        say("DAGSTER_HOME is not set, so it is unknown which sensors and schedules to repair.")
        return 2
    now = datetime.now(UTC)
    say(f"By this machine's clock it is {now:%Y-%m-%d %H:%M:%S} UTC.")
    if not clock_repair.is_believable(now):
        say("That is before this program was installed. Correct the clock first (`timedatectl`).")
        return 1
    with dg.DagsterInstance.get() as instance:
        found = clock_repair.repair_clock(instance, now) if apply else clock_repair.find_traces(instance, now)
    if as_json:
        print_json({**asdict(found), "applied": apply and found.in_the_way})
    say(f"Found: {found}.")
    if not found.in_the_way:
        say("Nothing blocks sensors and schedules.")
        return 0
    for name in found.instigators:
        say(f"  {name} {'waited' if apply else 'waits'}")
    if apply:
        say("Repaired. A daemon that has been running since before the clock was wrong must be restarted, too.")
    else:
        say(NOTHING_CHANGED)
    return 0


@click.group(cls=Group, examples=[("wrm raw move-future", "snapshots dated in the future, and where they belong")])
def raw() -> None:
    """Maintain raw objects."""


@raw.command(
    "move-future",
    examples=[
        ("wrm raw move-future", "show where each belongs"),
        ("wrm raw move-future --apply", "move them, and build their days"),
    ],
)
@apply_option("--write")
@json_option
@pass_settings
def move_future(settings: "Settings", apply: bool, as_json: bool) -> int:
    """Move snapshots dated in the future to the time of the reports inside."""
    from dataclasses import asdict

    from wrm_pipeline.flows import future_raw
    from wrm_pipeline.resources.lake import connect_store

    say = printer(as_json)
    store, now = connect_store(settings), datetime.now(UTC)
    moves = []
    with progress("move", say) as bar:
        for move in future_raw.move_future(store, settings.layout, now, write=apply, begin=bar.begin):
            moves.append(move)
            where = f"{'moved to' if move.done else 'belongs to'} {move.target} (by {move.why})"
            bar.say(f"{move.source}: {where if move.target else move.why}.")
    content: dict[str, Any] = {"moves": [asdict(move) for move in moves], "built": [], "applied": apply}
    if not moves:
        say("No raw object is dated in the future.")
    elif not apply:
        say(NOTHING_CHANGED)
    else:
        content["built"] = _build_days(store, settings, moves, now, say)
        for key in future_raw.remove_emptied(store, settings.layout, moves, now):
            say(f"{key}: removed, as all of its rows are from snapshots that were moved.")
    if as_json:
        print_json(content)
    return 1 if apply and not all(move.done for move in moves) else 0


def _build_days(
    store: "ObjectStore", settings: "Settings", moves: Sequence["Move"], now: datetime, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Build the days that lost or gained a snapshot."""
    from wrm_pipeline.domain.layout import local_date
    from wrm_pipeline.flows.future_raw import days_to_rebuild
    from wrm_pipeline.flows.rebuild import rebuild_partition
    from wrm_pipeline.resources.lake import area_of

    layout = settings.layout
    days = {
        dt: lost for dt, lost in days_to_rebuild(moves, now).items() if not layout.not_a_partition(dt, local_date(now))
    }
    done = []
    with progress("build", say) as bar:
        for dt, lost in days.items():
            bar.begin(dt.isoformat(), len(days))
            built = rebuild_partition(
                store, layout, dt, area=area_of(settings, store), strict=settings.strict, now=now, moved=lost
            )
            bar.say(f"{dt}: built, {built.snapshots:,} snapshots, {built.counts.rows_out:,} rows.")
            done.append({"dt": dt, "snapshots": built.snapshots, "rows": built.counts.rows_out})
    return done
