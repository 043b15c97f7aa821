"""`wrm stations`: which station is which, and what people decide about it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from wrm_pipeline.cli.command import NOTHING_CHANGED, Group, apply_option, json_option, pass_settings, typed_time
from wrm_pipeline.cli.output import print_json, print_table

if TYPE_CHECKING:
    from wrm_pipeline.domain.station_decisions import Decision
    from wrm_pipeline.domain.stations_history import Period
    from wrm_pipeline.settings import Settings


@click.group(
    cls=Group,
    invoke_without_command=True,
    examples=[
        ("wrm stations", "the stations of now"),
        ("wrm stations list Rynek --all", "all times of stations that ever had such a name"),
        ("wrm stations merge 15001 15401 --reason 'moved across the street'", "show what would change"),
    ],
)
@click.pass_context
def stations(ctx: click.Context) -> None:
    """Look at the history of stations, and overrule it. Without a command: list the stations of now."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@stations.command(
    name="list",
    examples=[
        ("wrm stations list", "the stations of now"),
        ("wrm stations list 15001 --all", "one station through all of its names, places and numbers"),
    ],
)
@click.argument("text", default="")
@click.option("--all", "everything", is_flag=True, help="Also what is over.")
@json_option
@pass_settings
def list_(settings: "Settings", text: str, everything: bool, as_json: bool) -> int:
    """List stations by part of a name, or by number or key; old names and numbers are found, too."""
    periods = _periods(settings, or_none=as_json)
    wanted = text.casefold()
    keys = {
        period.station_key
        for period in periods
        if wanted in period.name.casefold() or text in (period.station_id, period.station_key)
    }
    _show([p for p in periods if p.station_key in keys and (everything or p.valid_to is None)], as_json)
    return 0


@stations.command(
    examples=[
        ("wrm stations decisions", "who decided what, when and why"),
        ("wrm stations decisions --json", "the same for a program"),
    ]
)
@json_option
@pass_settings
def decisions(settings: "Settings", as_json: bool) -> int:
    """List what people decided about stations."""
    from dataclasses import asdict

    from wrm_pipeline.lake.station_decisions import StationDecisions
    from wrm_pipeline.resources.lake import connect_store

    kept = StationDecisions(connect_store(settings), settings.layout).read()
    if as_json:
        print_json([asdict(decision) for decision in kept.decisions])
    else:
        print_table(
            [
                (f"{d.decided_at:%Y-%m-%d %H:%M}", d.decided_by, d.action, d.station_id, d.other_station_id, d.reason)
                for d in kept.decisions
            ],
            ["decided (UTC)", "by", "action", "station", "other", "reason"],
        )
    for key, why in kept.unreadable.items():
        click.echo(f"{key} cannot be read: {why}", err=True)
    return 1 if kept.unreadable else 0


_reason_option = click.option("--reason", required=True, help="Why, for those who look at it later.")
_by_option = click.option("--by", "decided_by", default="", help="Who decides. Default: your user name.")


@stations.command(
    examples=[
        ("wrm stations merge 15001 15401 --reason 'moved across the street'", "show what would change"),
        ("wrm stations merge 15001 15401 --reason 'moved across the street' --apply", "decide it"),
    ]
)
@click.argument("key")
@click.argument("other")
@_reason_option
@_by_option
@apply_option()
@pass_settings
def merge(settings: "Settings", key: str, other: str, reason: str, decided_by: str, apply: bool) -> int:
    """Decide that two stations are one. They are given by key, or by a number that only one station had."""
    from wrm_pipeline.domain.station_decisions import MERGE, Decision

    periods = _periods(settings)
    one, second = _first_of(periods, key), _first_of(periods, other)
    decision = Decision(
        MERGE,
        one.station_id,
        one.valid_from,
        second.station_id,
        second.valid_from,
        reason,
        *_made_by(decided_by),
    )
    return _decide(settings, periods, decision, apply)


@stations.command(
    examples=[
        ("wrm stations split 15001 --at 2026-03-29 --reason 'another place'", "show what would change"),
        ("wrm stations split 15001 --at 2026-03-29 --reason 'another place' --apply", "decide it"),
    ]
)
@click.argument("key")
@click.option("--at", "time", required=True, help="ISO 8601: from then on it is another station.")
@_reason_option
@_by_option
@apply_option()
@pass_settings
def split(settings: "Settings", key: str, time: str, reason: str, decided_by: str, apply: bool) -> int:
    """Decide that from an instant on, a station is another one. It is given by key, or by a number of its own."""
    from wrm_pipeline.domain.station_decisions import SPLIT, Decision

    at, assumed = typed_time(time, "--at")
    periods = _periods(settings)
    wanted = _first_of(periods, key).station_key
    begun = [period for period in periods if period.station_key == wanted and period.valid_from <= at]
    if not begun:
        raise click.ClickException(f"{wanted} begins after {at:%Y-%m-%d %H:%M} UTC. Give a later time (--at).")
    if assumed:
        click.echo(assumed)
    decision = Decision(SPLIT, begun[-1].station_id, at, "", None, reason, *_made_by(decided_by))
    return _decide(settings, periods, decision, apply)


def _periods(settings: "Settings", *, or_none: bool = False) -> list["Period"]:
    from wrm_pipeline.analytics.stations_over_time import read_periods
    from wrm_pipeline.resources.lake import LakeResource

    with LakeResource.of(settings).database.reading_if_any() as connection:
        periods = None if connection is None else read_periods(connection)
    if not periods and not or_none:
        raise click.ClickException("There is no history of stations yet. Materialize the asset stations_history.")
    return periods or []


def _first_of(periods: Sequence["Period"], text: str) -> "Period":
    """The first period of the station with that key or, if only one station had it, that number."""
    found = [period for period in periods if period.station_key == text]
    if not found:
        found = [period for period in periods if period.station_id == text]
    keys = sorted({period.station_key for period in found})
    if not keys:
        raise click.ClickException(f"There is no station {text!r}. `wrm stations list --all` has their keys.")
    if len(keys) > 1:
        raise click.ClickException(
            f"Several stations had the number {text}: {', '.join(keys)}. Give one of these keys."
        )
    return found[0]


def _made_by(name: str) -> tuple[str, datetime]:
    import getpass

    return name or getpass.getuser(), datetime.now(UTC)


def _decide(settings: "Settings", periods: Sequence["Period"], decision: "Decision", apply: bool) -> int:
    """Show the stations as they would be, and keep the decision if it can be followed."""
    from wrm_pipeline.domain.station_decisions import with_decisions
    from wrm_pipeline.lake.station_decisions import StationDecisions
    from wrm_pipeline.resources.lake import connect_store

    after, problems = with_decisions(periods, [decision])
    if problems:
        raise click.ClickException(f"This cannot be decided: {problems[decision]}.")
    changed = {period.station_key for period in set(after) - set(periods)}
    _show([period for period in after if period.station_key in changed], as_json=False)
    if not apply:
        print(NOTHING_CHANGED)
        return 0
    key = StationDecisions(connect_store(settings), settings.layout).add(decision)
    print(f"Decided: {key}. The next run of the asset stations_history follows it.")
    return 0


def _show(periods: Sequence["Period"], as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json([asdict(period) for period in periods])
        return
    rows = [
        (
            p.station_key,
            p.station_id,
            p.name,
            f"{p.lat:.5f}, {p.lon:.5f}",
            f"{p.valid_from:%Y-%m-%d %H:%M}",
            f"{p.valid_to:%Y-%m-%d %H:%M}" if p.valid_to else "",
            p.change,
            p.decided_by,
        )
        for p in periods
    ]
    # Numbers are names, not quantities.
    print_table(rows, ["key", "number", "name", "place", "from (UTC)", "to", "change", "by"], disable_numparse=True)
