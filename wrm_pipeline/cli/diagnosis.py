"""`wrm doctor`, `config`, `trace` and `smoke`: read-only commands."""

from typing import TYPE_CHECKING

import click

from wrm_pipeline.cli.command import Command, json_option, pass_settings, typed_time
from wrm_pipeline.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wrm_pipeline.cli.doctor import Finding
    from wrm_pipeline.cli.host.examine import HostFinding
    from wrm_pipeline.settings import Settings


@click.command(
    cls=Command,
    examples=[
        ("wrm doctor", "one line per check, and what to do if it fails"),
        ("wrm doctor --json", "the same for a program; exit status 1 if anything failed"),
        ("wrm doctor --production", "the host instead, as root: units, files, ports, versions, backups, limits"),
    ],
)
@click.option("--production", is_flag=True, help="Check the host that the playbook set up; needs root.")
@json_option
def doctor(production: bool, as_json: bool) -> int:
    """Check all that the pipeline needs, and say what to do."""
    return _doctor_of_host(as_json) if production else _doctor(as_json)


@pass_settings
def _doctor(settings: "Settings", as_json: bool) -> int:
    from wrm_pipeline.cli.doctor import examine

    return _print_findings(examine(settings), as_json)


def _doctor_of_host(as_json: bool) -> int:
    """Needs no settings, so that it works when these are what is wrong."""
    import os

    from wrm_pipeline.cli.host.examine import examine_host

    if os.geteuid() != 0:
        raise click.ClickException("Only root can look at everything: run it as root, or with sudo")
    return _print_findings(examine_host(), as_json)


def _print_findings(findings: "Iterable[Finding | HostFinding]", as_json: bool) -> int:
    from dataclasses import asdict

    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            seconds = f" ({finding.seconds:.1f} s)" if hasattr(finding, "seconds") else ""
            print(f"{finding.status:<9} {finding.name:<13} {finding.tried}{seconds}")
            print(f"{'':<23} {finding.got}")
            if finding.todo:
                print(f"{'':<23} → {finding.todo}")
    if as_json:
        print_json([asdict(finding) for finding in seen])
    return 1 if any(finding.status == "failed" for finding in seen) else 0


@click.command(
    cls=Command,
    examples=[
        ("wrm config", "each variable with its value and origin"),
        ("wrm config --json", "the same for a program, with the purpose of each variable"),
    ],
)
@json_option
@pass_settings
def config(settings: "Settings", as_json: bool) -> int:
    """Show the effective settings and the origin of each.

    Secrets are masked.
    """
    from dataclasses import asdict

    from wrm_pipeline.cli.config import effective_values
    from wrm_pipeline.resources.vault import Secrets, open_vault
    from wrm_pipeline.settings import env_file_in_use

    values, problems = effective_values(Secrets(settings, open_vault(settings)))
    file = env_file_in_use()
    if as_json:
        print_json(
            {
                "settings": [asdict(value) for value in values],
                "env_file": file and str(file.path),
                "warnings": settings.warnings,
                "problems": problems,
            }
        )
    else:
        rows = [[value.name, value.value, value.origin] for value in values]
        print_table(rows, ["name", "value", "from"], disable_numparse=True)
        if file and file.values:
            print(f"\n{file.path} is read for what the environment does not set (WRM_DOTENV names another file).")
        for text in (*settings.warnings, *problems):
            print(f"\n{text}")
    return 1 if problems else 0


@click.command(
    cls=Command,
    examples=[
        ("wrm trace 15001 2025-08-21T15:04", "a station's row, the city's time"),
        ("wrm trace fb591106 2025-08-21T13:04Z --json", "a free-standing bike, UTC, for a program"),
    ],
)
@click.argument("station_id")
@click.argument("time")
@json_option
@pass_settings
def trace(settings: "Settings", station_id: str, time: str, as_json: bool) -> int:
    """Trace a published row back to the feed's line.

    It shows the runs in between. STATION_ID is as published: 15001, or fb591106 for a free-standing bike. TIME is ISO
    8601, in the city's time if it has no zone; the nearest snapshot at or before it is used.
    """
    from dataclasses import replace

    from wrm_pipeline.flows import trace as tracing
    from wrm_pipeline.resources.lake import connect_store

    at, assumed = typed_time(time)
    try:
        found = tracing.trace(connect_store(settings), settings.layout, station_id, at)
    except tracing.NothingToTraceError as error:
        raise click.ClickException(" ".join([assumed, str(error)]).strip()) from error
    found = replace(found, warnings=(*([assumed] if assumed else []), *found.warnings))
    if as_json:
        print_json(tracing.to_json(found), default=lambda value: value.isoformat())
    else:
        for text in tracing.to_text(found, settings.ui_url):
            print(text)
    return 0


@click.command(cls=Command, examples=[("wrm smoke", "the gate of a release; about half a minute")])
@pass_settings
def smoke(settings: "Settings") -> int:
    """Try this version's jobs on a copy of the newest data.

    They run in a scratch folder and do not write to the lake.
    """
    from wrm_pipeline.cli.smoke import SmokeError, run_smoke

    try:
        done = run_smoke(settings)
    except SmokeError as error:
        raise click.ClickException(str(error)) from error
    print(f"{done.partition}: {done.rows} rows from {done.snapshots} snapshots, in a scratch folder.")
    return 0
