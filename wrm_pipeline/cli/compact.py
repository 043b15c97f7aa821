"""`wrm compact`: pack the raw objects of old days into one archive per day, and unpack them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import click

from wrm_pipeline.cli.command import DAY, Command, CommandError, apply_option, json_option, pass_settings
from wrm_pipeline.cli.output import print_json, printer
from wrm_pipeline.cli.progress import progress

if TYPE_CHECKING:
    from wrm_pipeline.flows.compaction import Compaction
    from wrm_pipeline.settings import Settings


@click.command(
    cls=Command,
    examples=[
        ("wrm compact --older-than-days 90", "show which days would be packed"),
        ("wrm compact --older-than-days 90 --apply", "pack them"),
        ("wrm compact --date 2025-08-21 --restore --apply", "unpack a day"),
    ],
)
@click.option("--older-than-days", type=int, help="Default WRM_COMPACT_AFTER_DAYS.")
@click.option("--date", "days", type=DAY, multiple=True, help="Only this day; may be repeated.")
@click.option("--restore", is_flag=True, help="Unpack the days of --date instead.")
@apply_option("--write")
@json_option
@pass_settings
def compact(
    settings: "Settings",
    older_than_days: int | None,
    days: tuple[date, ...],
    restore: bool,
    apply: bool,
    as_json: bool,
) -> int:
    """Pack the raw objects of old days into one archive per day."""
    from wrm_pipeline.flows.compaction import MIN_AGE_DAYS

    age = older_than_days or settings.compact_after_days or (MIN_AGE_DAYS if days else None)
    if age is None or (restore and not days):
        raise CommandError("select days with --older-than-days N or --date, or set WRM_COMPACT_AFTER_DAYS")
    if restore:
        return _restore(settings, days, apply=apply, as_json=as_json)
    return _pack(settings, age, days, apply=apply, as_json=as_json)


def _restore(settings: "Settings", days: Sequence[date], *, apply: bool, as_json: bool) -> int:
    from wrm_pipeline.flows.compaction import restore_day
    from wrm_pipeline.lake.raw_objects import RawDay
    from wrm_pipeline.resources.lake import connect_store

    store, layout = connect_store(settings), settings.layout
    found = []
    with progress("unpack", printer(as_json)) as bar:
        for dt in days:
            bar.begin(dt.isoformat(), len(days))
            if apply:
                count = restore_day(store, layout, dt)
                bar.say(f"{dt}: {count} raw objects are back where they were.")
            else:
                index = RawDay.of(store, layout, dt).index
                count = len(index.members) if index else 0
                bar.say(f"{dt}: {count} raw objects are packed. Add --apply to unpack them.")
            found.append({"dt": dt, "objects": count, "applied": apply})
    if as_json:
        print_json(found)
    return 0


def _pack(settings: "Settings", age_days: int, days: Sequence[date], *, apply: bool, as_json: bool) -> int:
    from dataclasses import asdict

    from wrm_pipeline.domain.layout import local_date
    from wrm_pipeline.flows.compaction import compact_day, days_to_pack
    from wrm_pipeline.lake.dry_run_store import DryRunStore
    from wrm_pipeline.resources.lake import area_of, connect_store

    store, layout, today = connect_store(settings), settings.layout, local_date(datetime.now(UTC))
    area = area_of(settings, store if apply else DryRunStore(store))
    packed, say = [], printer(as_json)
    with progress("compact", say) as bar:
        for dt in days_to_pack(store, layout, today=today, older_than_days=age_days, begin=bar.begin):
            if days and dt not in days:
                continue
            done = compact_day(store, layout, dt, area=area, today=today, dry_run=not apply)
            packed.append(done)
            bar.say(_said_of(done, apply=apply))
    if as_json:
        print_json([{**asdict(done), "applied": apply and not done.refused} for done in packed])
    if not apply:
        say("Nothing was written. Add --apply to do it.")
    return 1 if any(done.refused for done in packed) else 0


def _said_of(done: "Compaction", *, apply: bool) -> str:
    what = f"{done.dt}: {done.packed} raw objects of {done.bytes_before} bytes"
    if done.refused:
        return f"{what} stay as they are: {done.refused}."
    return f"{what} are packed into {done.bytes_after} bytes." if apply else f"{what} would be packed."
