"""`wrm backup`, `restore`, `rebuild` and `prune`: what keeps the system for years, and brings it back."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.retry import BACKUP_POLICY
from wrm_pipeline.flows import backup as backups
from wrm_pipeline.flows import sealed_file
from wrm_pipeline.flows.backup import BackupError, Places
from wrm_pipeline.flows.sealed_file import SealError
from wrm_pipeline.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from wrm_pipeline.flows.rebuild import RebuiltPartition

Command = Callable[[argparse.Namespace, Settings], int]

NEW_KEY_NOTE = (
    "Give it as WRM_BACKUP_KEY, or as a file named by WRM_BACKUP_KEY_FILE, and keep a copy where the loss of this "
    "machine does not reach it: without it no backup can be opened, by anybody."
)


class RefusedError(Exception):
    """The command is not done as it was given; the message says why."""


def add_commands(commands: Any) -> None:
    """Add the commands to argparse's subparsers."""
    backup = commands.add_parser("backup", help="what the bucket does not have anyway, sealed, into the bucket")
    backup.set_defaults(command=_explained(_backup))
    backup.add_argument("--new-key", action="store_true", help="print a new key and do nothing else")
    verbs = backup.add_subparsers(metavar="VERB")
    listing = verbs.add_parser("list", help="all backups, the newest first")
    listing.set_defaults(command=_explained(_backup_list))
    listing.add_argument("--json", action="store_true", help="one JSON array")
    verify = verbs.add_parser("verify", help="fetch one, open it and compare everything in it")
    verify.set_defaults(command=_explained(_backup_verify))
    verify.add_argument("name", nargs="?", help="key, name, or enough of its time; default the newest")

    restore = commands.add_parser("restore", help="put a backup back; without --apply only say what would be done")
    restore.set_defaults(command=_explained(_restore))
    restore.add_argument("name", nargs="?", help="key, name, or enough of its time; default the newest")
    restore.add_argument("--apply", action="store_true", help="do it")
    restore.add_argument("--overwrite", action="store_true", help="replace what is there")
    restore.add_argument("--only", default=",".join(backups.PARTS), help=f"some of {','.join(backups.PARTS)}")

    rebuild = commands.add_parser("rebuild", help="partitions and tables anew from raw/ and dlq/")
    rebuild.set_defaults(command=_explained(_rebuild))
    rebuild.add_argument("--from", dest="first", type=date.fromisoformat, help="YYYY-MM-DD, default the first day")
    rebuild.add_argument("--to", dest="last", type=date.fromisoformat, help="YYYY-MM-DD, default the last day")
    rebuild.add_argument(
        "--layer", action="append", default=[], choices=["processed", "enhanced", "analytics"], help="may be repeated"
    )
    rebuild.add_argument("--full", action="store_true", help="parse all raw objects again, even of complete days")
    rebuild.add_argument("--dry-run", action="store_true", help="do all of it in memory, and say what would be written")
    rebuild.add_argument(
        "--allow-shrink", action="store_true", help="let rows leave whose raw objects or files are gone or refused"
    )

    prune = commands.add_parser(
        "prune", help="remove Dagster's old history and superseded files; without --apply only count"
    )
    prune.set_defaults(command=_explained(_prune))
    prune.add_argument("--days", type=float, help="age of what stays, default WRM_HISTORY_DAYS")
    prune.add_argument("--apply", action="store_true", help="do it")
    prune.add_argument("--json", action="store_true", help="one JSON object")


def _explained(command: Command) -> Command:
    def run(options: argparse.Namespace, settings: Settings) -> int:
        try:
            return command(options, settings)
        except (RefusedError, BackupError, SealError) as error:
            print(f"wrm: {error}", file=sys.stderr)
            return 1

    return run


# --- Backup and restore --------------------------------------------------------------------------------------------


def _backup(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.resources.lake import connect_store

    if options.new_key:
        print(sealed_file.new_key())
        print(NEW_KEY_NOTE, file=sys.stderr)
        return 0
    key = _key(settings)
    started = time.monotonic()
    backups.take_backup(
        connect_store(settings, BACKUP_POLICY),
        settings.layout,
        _places(settings),
        key,
        taken_at=datetime.now(UTC),
        facts=_facts(settings),
        retention=settings.backup_retention,
        say=lambda line: print(line, flush=True),
    )
    print(f"done in {time.monotonic() - started:.1f} s, sealed with the key {sealed_file.key_id(key)}")
    return 0


def _key(settings: Settings) -> bytes:
    if settings.backup_key is None:
        raise RefusedError(
            "WRM_BACKUP_KEY is not set, and backups are never stored unsealed. `wrm backup --new-key` makes a key. "
            + NEW_KEY_NOTE
        )
    return sealed_file.parse_key(settings.backup_key.get_secret_value())


def _places(settings: Settings) -> Places:
    from wrm_pipeline.clients.postgres_dump import PostgresDatabase
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


def _facts(settings: Settings) -> dict[str, Any]:
    """For whoever opens a backup years later. Settings without secrets."""
    import socket
    from importlib.metadata import version

    from wrm_pipeline.settings import is_secret

    shown = {name: value for name in type(settings).model_fields if (value := getattr(settings, name)) is not None}
    return {
        "host": socket.gethostname(),
        "versions": {name: version(name) for name in ("wrm-pipeline", "dagster", "duckdb")},
        "settings": {name: str(value) for name, value in shown.items() if not is_secret(name)},
    }


def _backup_list(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.resources.lake import connect_store

    store = connect_store(settings)
    found = backups.stored_backups(store, settings.layout)
    kept = settings.backup_retention.kept(backup.taken_at for backup in found)
    rows = []
    for backup in found:
        info = store.stat(backup.key)
        rows.append(
            {
                "name": backup.key.rpartition("/")[2],
                "taken_at": backup.taken_at.isoformat(timespec="seconds"),
                "bytes": backup.size_bytes,
                "key_id": info.metadata.get("key-id", "?") if info else "?",
                "stays": backup.taken_at in kept,
            }
        )
    if options.json:
        print(json.dumps(rows, indent=1))
    elif not rows:
        print(f"There is no backup below {settings.layout.backup_prefix} of {store.name}. `wrm backup` takes one.")
    else:
        print(tabulate(rows, headers="keys", tablefmt="simple", intfmt=","))
        if settings.backup_key is not None:
            print(f"\nThe key that is set is {sealed_file.key_id(_key(settings))}.")
    return 0


def _backup_verify(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.resources.lake import connect_store

    store = connect_store(settings, BACKUP_POLICY)
    chosen = backups.choose(store, settings.layout, options.name)
    with backups.opened(store, chosen, _key(settings), _places(settings).scratch) as opened:
        members = opened.manifest["members"]
        print(tabulate([[name, facts["bytes"]] for name, facts in members.items()], ["member", "bytes"], intfmt=","))
        print(f"\n{opened.key} is whole: {len(members)} members compared. {opened.dump}".rstrip())
    return 0


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.resources.lake import connect_store

    parts = options.only.split(",")
    if unknown := sorted(set(parts) - set(backups.PARTS)):
        raise RefusedError(f"--only {','.join(unknown)}: there are {', '.join(backups.PARTS)}")
    store, places = connect_store(settings, BACKUP_POLICY), _places(settings)
    chosen = backups.choose(store, settings.layout, options.name)
    with backups.opened(store, chosen, _key(settings), places.scratch) as opened:
        age_h = (datetime.now(UTC) - chosen.taken_at).total_seconds() / 3600
        print(f"{opened.key}, taken {chosen.taken_at:%Y-%m-%d %H:%M} UTC ({age_h:.0f} h ago) {opened.dump}\n")
        steps = backups.plan_restore(opened, places, parts)
        print(tabulate([[s.part, s.target, s.change] for s in steps], ["part", "to", ""], tablefmt="simple"))
        in_the_way = [step.target for step in steps if step.change == "replaces"]
        if options.apply and in_the_way and not options.overwrite:
            raise RefusedError(
                f"Nothing was changed: {', '.join(in_the_way)} is there already. Add --overwrite to replace it, or "
                "leave it out with --only. Take a backup first if it may be wanted."
            )
        if not options.apply:
            print("\nNothing was changed. Stop Dagster's services, then add --apply to do it.")
            return 0
        for step in steps:
            if step.change != "there already":
                step.apply()
                print(f"restored {step.target}", flush=True)
    print(
        f"\nConfiguration is in {places.restored_files}, to be compared and put in place by hand. Start the services; "
        "`wrm rebuild --dry-run` tells if partitions are missing."
    )
    return 0


# --- Rebuild -------------------------------------------------------------------------------------------------------


def _rebuild(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.domain.layout import local_date
    from wrm_pipeline.domain.partition_build import PartitionWouldShrinkError
    from wrm_pipeline.flows.process import NoRawDataError
    from wrm_pipeline.flows.rebuild import LAYERS, days_of
    from wrm_pipeline.lake.dry_run_store import DryRunStore
    from wrm_pipeline.resources.lake import connect_store

    store = connect_store(settings)
    found, today = days_of(store, settings.layout, options.first, options.last), local_date(datetime.now(UTC))
    no_days = {dt: why for dt in found if (why := settings.layout.not_a_partition(dt, today))}
    for dt, why in no_days.items():
        print(f"{dt}  is left alone: {why}.", flush=True)
    days = [dt for dt in found if dt not in no_days]
    wanted = options.layer or [*LAYERS, "analytics"]
    if no_days and not days:
        dt = min(no_days)
        raise RefusedError(f"No partition has raw data; {dt} has, but {no_days[dt]}. Sensors and UI see it likewise.")
    if not days:
        raise RefusedError(
            f"There is no raw snapshot of such a day in {settings.layout.raw_prefix} of {store.name}. Check the dates, "
            "BUCKET_NAME and WRM_STATIONS_S3_PREFIX."
        )
    _print_state(store, settings, days)
    instance = None if options.dry_run else _instance()
    history, failed, refused = _History(instance), list[date](), list[date]()
    layers = [layer for layer in LAYERS if layer in wanted]
    for number, dt in enumerate(days if layers else [], start=1):
        started = time.monotonic()
        place = DryRunStore(store) if options.dry_run else store
        try:
            built = _rebuild_day(place, settings, dt, layers, options)
        except NoRawDataError as error:
            print(f"{dt}  nothing to do: {error}", flush=True)
            continue
        except PartitionWouldShrinkError as error:
            refused.append(dt)
            print(f"{dt}  {'would be ' if options.dry_run else ''}refused: {error}", flush=True)
            continue
        except (ExternalError, RuntimeError, ValueError) as error:
            failed.append(dt)
            print(f"{dt}  failed: {error}", flush=True)
            continue
        history.tell(built, layers)
        seconds = f"({time.monotonic() - started:.1f} s; {number} of {len(days)})"
        print(f"{dt}  {_said_of(built, dry_run=options.dry_run)} {seconds}", flush=True)
        for remark in built.remarks:
            print(f"            {remark}", flush=True)
    if options.dry_run:
        print("Nothing was changed.")
        return 1 if failed else 0
    if failed:
        raise RefusedError(
            f"{len(failed)} of {len(days)} days failed ({', '.join(map(str, failed[:5]))}): see above. The others are "
            "done; the same command goes on with what is missing. The tables were not refreshed."
        )
    done = _rebuild_tables(settings, instance) if "analytics" in wanted else 0
    if refused:
        raise RefusedError(
            f"{len(refused)} of {len(days)} days would lose rows and are as they were "
            f"({', '.join(map(str, refused[:5]))}): see above. If the loss is meant: `wrm rebuild --from {refused[0]} "
            f"--to {refused[0]} --allow-shrink`. The others are done."
        )
    return done


def _said_of(built: "RebuiltPartition", *, dry_run: bool) -> str:
    counts = built.counts
    what = f"{'+'.join(built.written)} {'would be written' if dry_run else 'written'}"
    said = (
        f"{built.snapshots:,} snapshots, {counts.rows_out:,} rows, {counts.dead_lettered:,} dead-lettered: "
        f"{what if built.written else 'there already'}"
    )
    others = [
        f"{o.row_count:,} in {o.file_count} other {layer} files" for layer, o in built.take_over.items() if o.file_count
    ]
    if not dry_run and not others:
        return said
    return f"{said}; before: {built.rows_before:,} rows in ours{''.join(f', {text}' for text in others)}"


def _print_state(store: Any, settings: Settings, days: Sequence[date]) -> None:
    from wrm_pipeline.lake.published_partitions import PublishedPartitions

    partitions = PublishedPartitions(store, settings.layout)
    rows = [["raw", len(days), 0, days[0], days[-1]]]
    for layer in ("processed", "enhanced"):
        there = sorted(set(partitions.dates(layer)) & set(days))
        ends = (there[0], there[-1]) if there else ("", "")
        rows.append([layer, len(there), len(days) - len(there), *ends])
    print(tabulate(rows, headers=["layer", "days", "missing", "first", "last"], tablefmt="simple"))
    print(flush=True)


def _rebuild_day(
    store: Any, settings: Settings, dt: date, layers: Sequence[Any], options: argparse.Namespace
) -> "RebuiltPartition":
    from wrm_pipeline.flows.rebuild import rebuild_partition

    return rebuild_partition(
        store,
        settings.layout,
        dt,
        area=settings.area,
        now=datetime.now(UTC),
        layers=layers,
        full=options.full,
        allow_shrink=options.allow_shrink,
    )


def _instance() -> "dg.DagsterInstance | None":
    import dagster as dg

    return dg.DagsterInstance.get() if os.environ.get("DAGSTER_HOME") else None


class _History:
    """Tells Dagster what was rebuilt: the UI shows as materialized what it was told of, and a new one knows nothing."""

    def __init__(self, instance: "dg.DagsterInstance | None") -> None:
        from wrm_pipeline.assets.stations.enhanced_all import wrm_stations_enhanced_data_all
        from wrm_pipeline.assets.stations.processed_all import wrm_stations_processed_data_all

        self._instance = instance
        self._keys = {"processed": wrm_stations_processed_data_all.key, "enhanced": wrm_stations_enhanced_data_all.key}
        self._known = (
            {layer: instance.get_materialized_partitions(key) for layer, key in self._keys.items()} if instance else {}
        )

    def tell(self, built: "RebuiltPartition", layers: Sequence[str]) -> None:
        import dagster as dg

        if self._instance is None:
            return
        day = built.dt.isoformat()
        for layer in layers:
            if layer in built.written or day not in self._known[layer]:
                rows = built.counts.rows_out
                event = dg.AssetMaterialization(
                    asset_key=self._keys[layer],
                    partition=day,
                    metadata={"rebuilt_by": dg.MetadataValue.text("wrm rebuild"), "dagster/partition_row_count": rows},
                )
                self._instance.report_runless_asset_event(event)


def _rebuild_tables(settings: Settings, instance: "dg.DagsterInstance | None") -> int:
    """Views, tables, published database and map, by the job that makes them every few minutes."""
    import logging

    from wrm_pipeline.definitions import build_defs
    from wrm_pipeline.jobs.processing import wrm_analytics_job

    logging.getLogger("dagster").setLevel(logging.WARNING)
    started = time.monotonic()
    print("tables, published database and map: wrm_analytics_job ...", flush=True)
    done = (
        build_defs(settings)
        .resolve_job_def(wrm_analytics_job.name)
        .execute_in_process(
            instance=instance,
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
            raise_on_error=False,
        )
    )
    if not done.success:
        raise RefusedError(
            f"wrm_analytics_job failed (run {done.run_id}); partitions are complete. See the error above or the run in "
            "the UI, then `wrm rebuild --layer analytics`."
        )
    print(f"done ({time.monotonic() - started:.1f} s): {settings.database_path}")
    return 0


def _prune_superseded(settings: Settings) -> str:
    """Remove what other writers' files left in superseded/ after its time; what the store does not do waits a day."""
    from wrm_pipeline.flows.take_over import remove_expired
    from wrm_pipeline.resources.lake import connect_store

    try:
        removed = remove_expired(connect_store(settings), settings.layout, now=datetime.now(UTC))
    except ExternalError as error:
        return f"Files in superseded/ were not looked at: {error}"
    return f"{removed} files in superseded/ were older than 30 days and went."


# --- Dagster's history ---------------------------------------------------------------------------------------------


def _prune(options: argparse.Namespace, settings: Settings) -> int:
    from wrm_pipeline.jobs.run_history import UnknownStorageError, oldest_to_keep, prune

    try:
        before = oldest_to_keep(settings.history_days if options.days is None else options.days)
    except ValueError as error:
        raise RefusedError(str(error)) from None
    instance = _instance()
    if instance is None:
        raise RefusedError("DAGSTER_HOME is not set, so it is not known whose history is meant.")
    try:
        done = prune(instance, before=before, apply=options.apply)
    except UnknownStorageError as error:
        raise RefusedError(str(error)) from None
    if options.json:
        if options.apply:
            print(_prune_superseded(settings), file=sys.stderr)
        print(json.dumps({**asdict(done), "before": before.isoformat(), "applied": options.apply}, indent=1))
        return 0
    verb = "removed" if options.apply else "would go"
    if options.apply:
        print(_prune_superseded(settings))
    print(f"History from before {before:%Y-%m-%d %H:%M} UTC:")
    print(
        f"{done.runs:,} runs, {done.events:,} events, {done.check_results:,} check results, {done.ticks:,} ticks and "
        f"{done.files:,} files of runs ({done.file_bytes / 1e6:,.1f} MB) {verb}; {done.runs_left:,} runs and "
        f"{done.events_left:,} events stay."
    )
    for remark in done.remarks:
        print(remark)
    if not options.apply:
        print("Nothing was changed. Add --apply to do it.")
    return 0
