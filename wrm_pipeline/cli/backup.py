"""`wrm backup` and `wrm restore`: encrypted backups of everything that is not in the bucket anyway."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from wrm_pipeline.cli.command import Command, Group, apply_option, json_option, pass_settings
from wrm_pipeline.cli.output import print_json, print_table, printer
from wrm_pipeline.cli.progress import progress

if TYPE_CHECKING:
    from wrm_pipeline.flows.backup import OpenBackup, Places, Step
    from wrm_pipeline.lake.object_store import ObjectStore
    from wrm_pipeline.settings import Settings

Parameters = ParamSpec("Parameters")

NEW_KEY_NOTE = (
    "Set it as WRM_BACKUP_KEY, or put it in a file and set WRM_BACKUP_KEY_FILE, and keep a copy outside this machine: "
    "without the key nobody can open a backup."
)


def _explained(command: Callable[Parameters, int]) -> Callable[Parameters, int]:
    """Problems with a backup are exit status 1, with a message."""

    @wraps(command)
    def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> int:
        from wrm_pipeline.flows.backup import BackupError
        from wrm_pipeline.flows.encrypted_file import EncryptedFileError

        try:
            return command(*arguments, **options)
        except (BackupError, EncryptedFileError) as error:
            raise click.ClickException(str(error)) from error

    return run


@click.group(
    cls=Group,
    invoke_without_command=True,
    examples=[
        ("wrm backup", "take one now, as the timer wrm-backup does each night"),
        ("wrm backup --new-key", "print a key for WRM_BACKUP_KEY"),
        ("wrm backup list", "all backups"),
        ("wrm backup verify", "fetch the newest, open it and compare its content"),
    ],
)
@click.option("--new-key", is_flag=True, help="Print a new key and do nothing else.")
@click.pass_context
def backup(ctx: click.Context, new_key: bool) -> int | None:
    """Take a backup: encrypted, into the bucket, and read back.

    It contains everything that is not in the bucket anyway. It writes without --apply: a timer runs it.
    """
    if ctx.invoked_subcommand is not None:
        return None
    return _take(new_key=new_key)


@pass_settings
@_explained
def _take(settings: "Settings", *, new_key: bool) -> int:
    from wrm_pipeline.clients.retry import BACKUP_POLICY
    from wrm_pipeline.flows import encrypted_file
    from wrm_pipeline.flows.backup import take_backup
    from wrm_pipeline.resources.lake import connect_store

    if new_key:
        print(encrypted_file.new_key())
        print(NEW_KEY_NOTE, file=sys.stderr)
        return 0
    key = _key(settings)
    started = time.monotonic()
    with progress("backup", printer(as_json=False)) as bar:
        take_backup(
            connect_store(settings, BACKUP_POLICY),
            settings.layout,
            _places(settings),
            key,
            taken_at=datetime.now(UTC),
            facts=_facts(settings),
            retention=settings.backup_retention,
            say=bar.say,
            begin=bar.begin,
        )
    print(f"done in {time.monotonic() - started:.1f} s, encrypted with the key {encrypted_file.key_id(key)}")
    return 0


def _key(settings: "Settings") -> bytes:
    from wrm_pipeline.flows.encrypted_file import parse_key

    if settings.backup_key is None:
        raise click.ClickException(
            "WRM_BACKUP_KEY is not set, and backups are never stored unencrypted. `wrm backup --new-key` makes a key. "
            + NEW_KEY_NOTE
        )
    return parse_key(settings.backup_key.get_secret_value())


def _places(settings: "Settings") -> "Places":
    from wrm_pipeline.clients.postgres_dump import PostgresDatabase
    from wrm_pipeline.flows.backup import Places
    from wrm_pipeline.lake.spool import Spool
    from wrm_pipeline.resources.vault import secrets_of

    access = secrets_of(settings).postgres()
    home = Path(os.environ["DAGSTER_HOME"]) if os.environ.get("DAGSTER_HOME") else None
    postgres, sqlite = None, {}
    if access is not None and access.db and access.user:
        postgres = PostgresDatabase(access.host, access.port, access.db, access.user, access.password or "")
    elif home is not None:
        names = ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")
        sqlite = {f"dagster/{name}": home / name for name in names}
    files = [Path(part).absolute() for part in settings.backup_files.split(":") if part]
    if not files and home is not None and (home / "dagster.yaml").exists():
        files = [(home / "dagster.yaml").absolute()]
    return Places(
        postgres=postgres,
        sqlite=sqlite,
        database=settings.database_path,
        spool=Spool(settings.spool_dir, settings.spool_max_bytes),
        files=files,
        scratch=settings.data_dir / "backup.tmp",
        restored_files=settings.data_dir / "restored-files",
    )


def _facts(settings: "Settings") -> dict[str, Any]:
    """For a person who opens the backup years later. Settings without secrets."""
    import socket
    from importlib.metadata import version

    from wrm_pipeline.settings import is_secret

    shown = {name: value for name in type(settings).model_fields if (value := getattr(settings, name)) is not None}
    return {
        "host": socket.gethostname(),
        "versions": {name: version(name) for name in ("wrm-pipeline", "dagster", "duckdb")},
        "settings": {name: str(value) for name, value in shown.items() if not is_secret(name)},
    }


@backup.command(
    "list",
    examples=[
        ("wrm backup list", "all of them, with the key that each is encrypted with"),
        ("wrm backup list --json", "the same for a program"),
    ],
)
@json_option
@pass_settings
@_explained
def list_backups(settings: "Settings", as_json: bool) -> int:
    """List all backups, the newest first."""
    from wrm_pipeline.flows.backup import stored_backups
    from wrm_pipeline.flows.encrypted_file import key_id
    from wrm_pipeline.resources.lake import connect_store

    store = connect_store(settings)
    rows = _stored(store, settings, stored_backups(store, settings.layout))
    if as_json:
        print_json(rows)
    elif not rows:
        print(f"There is no backup below {settings.layout.backup_prefix} of {store.name}. `wrm backup` takes one.")
    else:
        print_table([list(row.values()) for row in rows], list(rows[0]), intfmt=",")
        if settings.backup_key is not None:
            print(f"\nThe key that is set is {key_id(_key(settings))}.")
    return 0


def _stored(store: "ObjectStore", settings: "Settings", found: Sequence[Any]) -> list[dict[str, Any]]:
    kept = settings.backup_retention.kept(backup.taken_at for backup in found)
    rows = []
    for stored in found:
        info = store.stat(stored.key)
        rows.append(
            {
                "name": stored.key.rpartition("/")[2],
                "taken_at": stored.taken_at.isoformat(timespec="seconds"),
                "bytes": stored.size_bytes,
                "key_id": info.metadata.get("key-id", "?") if info else "?",
                "stays": stored.taken_at in kept,
            }
        )
    return rows


@backup.command(
    examples=[
        ("wrm backup verify", "the newest"),
        ("wrm backup verify 2026-11-25 --json", "the one of a day, for a program"),
    ]
)
@click.argument("name", required=False)
@json_option
@pass_settings
@_explained
def verify(settings: "Settings", name: str | None, as_json: bool) -> int:
    """Fetch a backup, open it, compare its content and read its dump to the end.

    The alert RestoreUntried wants that once a month; a timer does it each week.
    NAME is its key, its name, or the beginning of its time; default the newest.
    """
    from wrm_pipeline.clients.retry import BACKUP_POLICY
    from wrm_pipeline.flows.backup import choose, opened
    from wrm_pipeline.flows.restore_record import note_tried
    from wrm_pipeline.resources.lake import connect_store

    store = connect_store(settings, BACKUP_POLICY)
    chosen = choose(store, settings.layout, name)
    key, scratch = _key(settings), _places(settings).scratch
    with progress("verify", printer(as_json)) as bar, opened(store, chosen, key, scratch, bar.begin) as found:
        members = [{"member": member, "bytes": facts["bytes"]} for member, facts in found.manifest["members"].items()]
        found.read_dump()
    note_tried(settings.data_dir, found.key, datetime.now(UTC))
    if as_json:
        print_json({"key": found.key, "taken_at": chosen.taken_at, "members": members, "dump": found.dump})
    else:
        print_table([list(row.values()) for row in members], ["member", "bytes"], intfmt=",")
        print(f"\n{found.key} is whole: {len(members)} members compared. {found.dump}".rstrip())
    return 0


@click.command(
    cls=Command,
    examples=[
        ("wrm restore", "what would be restored from the newest backup"),
        ("wrm restore 2026-11-25 --apply", "restore that of a day, without replacing anything"),
        ("wrm restore --only duckdb,spool --apply --overwrite", "only these parts, replacing existing data"),
    ],
)
@click.argument("name", required=False)
@click.option("--overwrite", is_flag=True, help="Replace existing data.")
@click.option("--only", metavar="PART[,PART]", help="Only these parts, as the first column names them.")
@apply_option()
@json_option
@pass_settings
@_explained
def restore(
    settings: "Settings", name: str | None, overwrite: bool, only: str | None, apply: bool, as_json: bool
) -> int:
    """Restore a backup. Stop Dagster's services first.

    NAME is its key, its name, or the beginning of its time; default the newest.
    """
    from wrm_pipeline.clients.retry import BACKUP_POLICY
    from wrm_pipeline.flows import backup as backups
    from wrm_pipeline.flows.restore_record import note_tried
    from wrm_pipeline.resources.lake import connect_store

    parts = backups.PARTS if only is None else only.split(",")
    if unknown := sorted(set(parts) - set(backups.PARTS)):
        raise click.ClickException(f"--only {','.join(unknown)}: there are {', '.join(backups.PARTS)}")
    store, places = connect_store(settings, BACKUP_POLICY), _places(settings)
    chosen = backups.choose(store, settings.layout, name)
    say = printer(as_json)
    with ExitStack() as stack:
        with progress("open", say) as bar:
            opened = stack.enter_context(backups.opened(store, chosen, _key(settings), places.scratch, bar.begin))
        steps = backups.plan_restore(opened, places, parts)
        if not as_json:
            _print_plan(opened, chosen.taken_at, steps)
        _put_back(steps, overwrite=overwrite, apply=apply, say=say)
    if apply:
        note_tried(settings.data_dir, opened.key, datetime.now(UTC))
        say(
            f"\nConfiguration is in {places.restored_files}, to be compared and put in place by hand. Start the "
            "services; `wrm rebuild --dry-run` says if partitions are missing."
        )
    if as_json:
        changes = [{"part": step.part, "to": step.target, "change": step.change} for step in steps]
        print_json({"key": opened.key, "taken_at": chosen.taken_at, "steps": changes, "applied": apply})
    return 0


def _print_plan(opened: "OpenBackup", taken_at: datetime, steps: Sequence["Step"]) -> None:
    age_h = (datetime.now(UTC) - taken_at).total_seconds() / 3600
    print(f"{opened.key}, taken {taken_at:%Y-%m-%d %H:%M} UTC ({age_h:.0f} h ago) {opened.dump}\n")
    print_table([[step.part, step.target, step.change] for step in steps], ["part", "to", ""])


def _put_back(steps: Sequence["Step"], *, overwrite: bool, apply: bool, say: Callable[[str], None]) -> None:
    """Carry out all steps or, if a target exists, none."""
    in_the_way = [step.target for step in steps if step.change == "replaces"]
    if apply and in_the_way and not overwrite:
        raise click.ClickException(
            f"Nothing was changed: {', '.join(in_the_way)} exists already. Add --overwrite to replace it, or omit it "
            f"with --only. Take a backup first if you may need it."
        )
    if not apply:
        say("\nNothing was changed. Stop Dagster's services, then add --apply to do it.")
        return
    to_do = [step for step in steps if step.change != "there already"]
    with progress("restore", say) as bar:
        for step in to_do:
            bar.begin(step.part, len(to_do))
            step.apply()
            bar.say(f"restored {step.target}")
