"""`wrm repair-clock` and `wrm raw move-future`: what a clock that was ahead has left, set right."""

import argparse
import os
from datetime import UTC, datetime
from typing import Any

from wrm_pipeline.settings import Settings

NOTHING_CHANGED = "Nothing was changed. Add --apply to do it."


def add_commands(commands: Any) -> None:
    """Add the commands to argparse's subparsers."""
    repair = commands.add_parser(
        "repair-clock", help="let sensors and schedules go on that wait for times to come, after the clock was ahead"
    )
    repair.set_defaults(command=_repair_clock)
    repair.add_argument("--apply", "--write", action="store_true", dest="apply", help="do it; without, only say what")

    raw = commands.add_parser("raw", help="look after raw objects")
    verbs = raw.add_subparsers(required=True, metavar="VERB")
    move = verbs.add_parser("move-future", help="move snapshots of times to come to the time of the reports inside")
    move.set_defaults(command=_move_future)
    move.add_argument("--apply", "--write", action="store_true", dest="apply", help="do it; without, only say what")


def _repair_clock(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - as all commands
    import dagster as dg

    from wrm_pipeline.resources.clock_repair import find_traces, is_believable, repair_clock

    if not os.environ.get("DAGSTER_HOME"):
        print("DAGSTER_HOME is not set, so it is not known whose sensors and schedules are meant.")
        return 2
    now = datetime.now(UTC)
    print(f"By this machine's clock it is {now:%Y-%m-%d %H:%M:%S} UTC.")
    if not is_believable(now):
        print("That is before this program was installed. Set the clock right first (`timedatectl`).")
        return 1
    with dg.DagsterInstance.get() as instance:
        found = repair_clock(instance, now) if options.apply else find_traces(instance, now)
    print(f"Found: {found}.")
    if not found.in_the_way:
        print("Nothing is in the way of sensors and schedules.")
        return 0
    for name in found.instigators:
        print(f"  {name} {'waited' if options.apply else 'waits'}")
    if options.apply:
        print("Set right. A daemon that has run since before the clock was wrong must be restarted, too.")
    else:
        print(NOTHING_CHANGED)
    return 0


def _move_future(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.domain.layout import local_date
    from wrm_pipeline.flows.future_raw import days_to_rebuild, move_future, remove_emptied
    from wrm_pipeline.flows.rebuild import rebuild_partition
    from wrm_pipeline.resources.lake import connect_store

    store, layout, now = connect_store(settings), settings.layout, datetime.now(UTC)
    moves = []
    for move in move_future(store, layout, now, write=options.apply):
        moves.append(move)
        what = f"{'moved to' if move.done else 'belongs to'} {move.target} (by {move.why})" if move.target else move.why
        print(f"{move.source}: {what}.")
    if not moves:
        print("No raw object is of a time to come.")
        return 0
    if not options.apply:
        print(NOTHING_CHANGED)
        return 0
    for dt, lost in days_to_rebuild(moves, now).items():
        if settings.layout.not_a_partition(dt, local_date(now)):
            continue
        built = rebuild_partition(store, layout, dt, area=settings.area, now=now, moved=lost)
        print(f"{dt}: built, {built.snapshots:,} snapshots, {built.counts.rows_out:,} rows.")
    for key in remove_emptied(store, layout, moves, now):
        print(f"{key}: removed, as each of its rows is from a snapshot that is elsewhere now.")
    return 0 if all(move.done for move in moves) else 1
