"""`wrm`: the operator's commands."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from pathlib import Path

from tabulate import tabulate

from wrm_pipeline.cli import clock as clock_commands
from wrm_pipeline.cli import dead_letters as dead_letter_commands
from wrm_pipeline.cli import maintenance as upkeep
from wrm_pipeline.cli.dead_letters import DeadLetterCommandError
from wrm_pipeline.cli.output import shown_safely
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.logs import guard_process
from wrm_pipeline.settings import Settings, SettingsError, load_settings


class UsageError(Exception):
    """The command cannot be done as it was given; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; exit status 0 done, 1 something is wrong, 2 not understood."""
    options = _parser().parse_args(arguments)
    with shown_safely():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    guard_process()
    command: Callable[[argparse.Namespace, Settings], int] = options.command
    try:
        return command(options, load_settings())
    except (UsageError, DeadLetterCommandError, SettingsError) as error:
        print(f"wrm: {error}", file=sys.stderr)
        return 2
    except ExternalError as error:
        print(f"wrm: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # `wrm dlq list | head` ends the reader first; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wrm", description="Commands for whoever runs wrm_pipeline.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="try everything that the pipeline needs, and say what to do")
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--json", action="store_true", help="one JSON array")

    config = commands.add_parser("config", help="the effective settings and where each comes from; secrets are masked")
    config.set_defaults(command=_config)
    config.add_argument("--json", action="store_true", help="one JSON object")

    trace = commands.add_parser("trace", help="from a published row back to the feed's line, and the runs in between")
    trace.set_defaults(command=_trace)
    trace.add_argument("station_id", help="as published: 15001, or fb591106 for a free-standing bike")
    trace.add_argument("time", help="ISO 8601, without zone Warsaw time; the nearest snapshot at or before it counts")
    trace.add_argument("--json", action="store_true", help="one JSON object")

    secrets = commands.add_parser("secrets", help="move credentials to Vault, and find those left lying about")
    kinds = secrets.add_subparsers(required=True, metavar="VERB")

    moving = kinds.add_parser("import", help="move the credentials of a .env file to Vault; shows names only")
    moving.set_defaults(command=_secrets_import)
    moving.add_argument("file", type=Path)
    moving.add_argument("--write", action="store_true", help="do it; without, only say what would be written")

    scan = kinds.add_parser("scan", help="find credentials in files and in the git history; shows places only")
    scan.set_defaults(command=_secrets_scan)
    scan.add_argument("path", type=Path, nargs="?", default=Path(), help="folder or file, default here")
    scan.add_argument("--json", action="store_true", help="one JSON array")

    compact = commands.add_parser("compact", help="pack the raw objects of old days into one archive a day")
    compact.set_defaults(command=_compact)
    compact.add_argument("--older-than-days", type=int, help="default WRM_COMPACT_AFTER_DAYS")
    compact.add_argument("--date", action="append", type=date.fromisoformat, default=[], help="YYYY-MM-DD; repeatable")
    compact.add_argument("--write", action="store_true", help="do it; without, only say what would be packed")
    compact.add_argument("--restore", action="store_true", help="unpack the days of --date instead; needs --write, too")

    upkeep.add_commands(commands)
    clock_commands.add_commands(commands)

    smoke = commands.add_parser(
        "smoke", help="try this version's jobs on a copy of the newest data, in a scratch folder"
    )
    smoke.set_defaults(command=_smoke)

    reports = commands.add_parser("reports", help="copy the published reports into a folder, for a web server")
    reports.set_defaults(command=_reports)
    reports.add_argument("folder", type=Path)

    dead_letter_commands.add_commands(commands)
    return parser


def _compact(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.domain.layout import local_date
    from wrm_pipeline.flows.compaction import MIN_AGE_DAYS, compact_day, days_to_pack, restore_day
    from wrm_pipeline.lake.raw_objects import RawDay
    from wrm_pipeline.resources.lake import connect_store

    age = options.older_than_days or settings.compact_after_days or (MIN_AGE_DAYS if options.date else None)
    if age is None or (options.restore and not options.date):
        raise UsageError("say which days: --older-than-days N, or --date, or set WRM_COMPACT_AFTER_DAYS")
    store, layout, today = connect_store(settings), settings.layout, local_date(datetime.now(UTC))
    if options.restore:
        for dt in options.date:
            if options.write:
                print(f"{dt}: {restore_day(store, layout, dt)} raw objects are back where they were.")
            else:
                index = RawDay.of(store, layout, dt).index
                print(f"{dt}: {len(index.members) if index else 0} raw objects are packed. Add --write to unpack them.")
        return 0
    refused = 0
    for dt in days_to_pack(store, layout, today=today, older_than_days=age):
        if options.date and dt not in options.date:
            continue
        done = compact_day(store, layout, dt, area=settings.area, today=today, dry_run=not options.write)
        refused += bool(done.refused)
        what = f"{done.packed} raw objects of {done.bytes_before} bytes"
        if done.refused:
            print(f"{dt}: {what} stay as they are: {done.refused}.")
        elif options.write:
            print(f"{dt}: {what} are packed into {done.bytes_after} bytes.")
        else:
            print(f"{dt}: {what} would be packed.")
    if not options.write:
        print("Nothing was written. Add --write to do it.")
    return 1 if refused else 0


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.cli.doctor import examine

    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not options.json:
            print(f"{finding.status:<9} {finding.name:<13} {finding.tried} ({finding.seconds:.1f} s)")
            print(f"{'':<23} {finding.got}")
            if finding.todo:
                print(f"{'':<23} → {finding.todo}")
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=1))
    return 1 if any(finding.status == "failed" for finding in findings) else 0


def _config(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.cli.config import effective_values
    from wrm_pipeline.resources.vault import Secrets, open_vault

    values, problems = effective_values(Secrets(settings, open_vault(settings)))
    if options.json:
        content = {"settings": [asdict(v) for v in values], "remarks": settings.remarks, "problems": problems}
        print(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        rows = [[value.name, value.value, value.origin] for value in values]
        print(tabulate(rows, headers=["name", "value", "from"], tablefmt="simple", disable_numparse=True))
        for text in (*settings.remarks, *problems):
            print(f"\n{text}")
    return 1 if problems else 0


def _secrets_import(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.cli.config import plan_import
    from wrm_pipeline.resources.vault import open_vault

    vault = open_vault(settings)
    if vault is None:
        raise UsageError("VAULT_ADDR is not set: there is no Vault to write to")
    try:
        plan = plan_import(options.file, vault)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{options.file} cannot be read: {error}") from None
    rows = [[move.variable, f"{vault.mount_point}/{move.path}", move.key, move.change] for move in plan.moves]
    print(tabulate(rows, headers=["variable", "path in Vault", "key", ""], tablefmt="simple"))
    if plan.staying:
        print(f"\nNot for Vault, these stay: {', '.join(plan.staying)}")
    if not plan.versions:
        print("\nNothing to write.")
    elif options.write:
        plan.write(vault)
        print(
            f"\nWritten to {', '.join(plan.versions)} and read back. Now remove these lines from {options.file}, and "
            "run `wrm secrets scan`: what was ever committed must be replaced by a new one."
        )
    else:
        print(f"\nNothing is written yet. Add --write to write {', '.join(plan.versions)}.")
    return 0


def _secrets_scan(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.clients.secret_scan import Scanner, is_repository
    from wrm_pipeline.settings import is_secret, variables_of

    if not options.path.exists():
        raise UsageError(f"there is no {options.path}")
    names = [name for name in Settings.model_fields if is_secret(name)]
    in_use = {
        variables_of(n)[0]: value.get_secret_value() for n in names if (value := getattr(settings, n)) is not None
    }
    scanner = Scanner(in_use)
    leaks = list(scanner.tree(options.path))
    has_history = is_repository(options.path)
    if has_history:
        leaks += scanner.history(options.path)
    if options.json:
        print(json.dumps([asdict(leak) for leak in leaks], ensure_ascii=False, indent=1))
        return 1 if leaks else 0
    for leak in leaks:
        print(leak)
    looked_at = "the files and the git history" if has_history else "the files (there is no git history)"
    print(f"{len(leaks)} found in {looked_at} of {options.path.resolve()}.")
    if leaks:
        print("Replace each by a new one where it is issued: removing the line does not take it back.")
    return 1 if leaks else 0


def _trace(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.flows.trace import NothingToTraceError, parse_time, to_json, to_text, trace
    from wrm_pipeline.resources.lake import connect_store

    try:
        at, assumed = parse_time(options.time)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{options.time!r} is no ISO 8601 time; give one like 2025-08-21T15:04 (Warsaw) or 2025-08-21T13:04Z"
        ) from None
    try:
        found = trace(connect_store(settings), settings.layout, options.station_id, at)
    except NothingToTraceError as error:
        print(f"wrm: {' '.join([assumed, str(error)]).strip()}", file=sys.stderr)
        return 1
    found = replace(found, remarks=(*([assumed] if assumed else []), *found.remarks))
    if options.json:
        print(json.dumps(to_json(found), ensure_ascii=False, indent=1, default=lambda value: value.isoformat()))
    else:
        for text in to_text(found, settings.ui_url):
            print(text)
    return 0


def _smoke(options: argparse.Namespace, settings: Settings) -> int:  # noqa: ARG001 - as all commands
    from wrm_pipeline.cli.smoke import SmokeError, run_smoke

    try:
        smoke = run_smoke(settings)
    except SmokeError as error:
        print(f"wrm: {error}", file=sys.stderr)
        return 1
    print(f"{smoke.partition}: {smoke.rows} rows from {smoke.snapshots} snapshots, in a scratch folder.")
    return 0


def _reports(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.flows.mirror import mirror
    from wrm_pipeline.resources.lake import connect_store

    done = mirror(connect_store(settings), settings.layout.report_key(""), options.folder)
    print(f"{options.folder}: {done.written} written, {done.removed} removed, {done.unchanged} unchanged.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
