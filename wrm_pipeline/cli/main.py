"""`wrm`, the operator's commands: this module only combines the groups."""

import sys
from collections.abc import Sequence

import click
from click.exceptions import NoArgsIsHelpError

from wrm_pipeline.cli.alerts import alerts
from wrm_pipeline.cli.backup import backup, restore
from wrm_pipeline.cli.clock import raw, repair_clock
from wrm_pipeline.cli.command import Entrance, Group
from wrm_pipeline.cli.compact import compact
from wrm_pipeline.cli.dead_letters import dlq
from wrm_pipeline.cli.diagnosis import config, doctor, smoke, trace
from wrm_pipeline.cli.forecast import forecast
from wrm_pipeline.cli.gbfs import gbfs
from wrm_pipeline.cli.output import shown_safely
from wrm_pipeline.cli.prune import prune
from wrm_pipeline.cli.rebuild import rebuild
from wrm_pipeline.cli.reports import reports
from wrm_pipeline.cli.secrets import secrets
from wrm_pipeline.cli.stations import stations

# The shell's exit status of a program that SIGINT ended.
_INTERRUPTED = 130


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    examples=[
        ("wrm doctor", "always first: what works, and what to do about the rest"),
        ("wrm dlq list", "rows and bodies that could not be published"),
        ("wrm rebuild --from 2025-08-01 --dry-run", "show what would be built"),
    ],
)
@click.pass_context
def wrm(ctx: click.Context) -> None:
    """Commands for operators of wrm_pipeline.

    Commands write only with --apply; without it they print what they would do. `backup` and `reports`, which timers
    run, need no flag, and `gbfs` writes nothing but the folder that it is given.
    """
    ctx.obj = Entrance()


for command in (
    doctor,
    config,
    trace,
    forecast,
    smoke,
    dlq,
    rebuild,
    backup,
    restore,
    prune,
    compact,
    raw,
    repair_clock,
    secrets,
    reports,
    gbfs,
    stations,
    alerts,
):
    wrm.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; exit status 0: done, 1: failed, 2: not understood."""
    with shown_safely():
        try:
            status = wrm.main(arguments, prog_name="wrm", standalone_mode=False)
        except NoArgsIsHelpError as error:
            error.show()
            return error.exit_code
        except click.UsageError as error:
            if error.ctx is not None:
                print(error.ctx.get_usage(), file=sys.stderr)
                print(f"`{error.ctx.command_path} --help` explains it.", file=sys.stderr)
            print(f"wrm: {error.format_message()}", file=sys.stderr)
            return error.exit_code
        except click.ClickException as error:
            print(f"wrm: {error.format_message()}", file=sys.stderr)
            return error.exit_code
        except click.Abort:
            print("wrm: interrupted", file=sys.stderr)
            return _INTERRUPTED
    return int(status or 0)


if __name__ == "__main__":
    sys.exit(main())
