"""`wrm smoke`: runs this version's code on today's data in a separate folder. It does not write to the lake.

The gate of a release: the newest raw snapshots are copied to a scratch lake, one more is fetched from the feed by the
ingest job, and the day is processed. It fails if the new code does, before anything depends on it.
"""

import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg

from wrm_pipeline.clients.env_file import CHOICE as ENV_FILE
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.domain.layout import Layout, folder_date, local_date
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.resources.lake import connect_store
from wrm_pipeline.settings import Settings, load_settings, variables_of

# An hour's worth: enough for every rule to have rows, and copied in seconds.
SNAPSHOTS = 60


class SmokeError(Exception):
    """The trial run failed; the message says why."""


@dataclass(frozen=True, slots=True)
class Smoke:
    """The result of a trial run: partition, number of input snapshots, number of published rows."""

    partition: date
    snapshots: int
    rows: int


def run_smoke(settings: Settings) -> Smoke:
    """Try the ingest and processing jobs on a copy of the newest data.

    Changes this process's environment to that of a local pipeline, so run it in a separate process.

    Raises:
        SmokeError: a job failed, or published nothing.
        ExternalError: the raw snapshots cannot be read.
    """
    store, layout = connect_store(settings), settings.layout
    with tempfile.TemporaryDirectory(prefix="wrm-smoke-") as folder:
        scratch = LocalObjectStore(Path(folder) / "lake")
        copied = 0
        for key in newest_raw_keys(store, layout, SNAPSHOTS):
            scratch.put(key, store.get(key))
            copied += 1
        _become_local(Path(folder))
        return _run_jobs(load_settings(), scratch, layout, copied)


def newest_raw_keys(store: ObjectStore, layout: Layout, count: int) -> list[str]:
    """Keys of the newest snapshots of the newest day that has some, oldest first."""
    today = local_date(datetime.now(UTC))
    days = sorted(filter(None, map(folder_date, store.list_folders(layout.raw_prefix))), reverse=True)
    for dt in days:
        if layout.not_a_partition(dt, today):
            continue
        if keys := sorted(info.key for info in store.list(layout.raw_folder(dt)) if layout.is_raw_key(info.key)):
            return keys[-count:]
    return []


def _become_local(folder: Path) -> None:
    """The environment of a pipeline without bucket, Vault and Redis; settings that affect rows are kept."""
    vault = ("vault_addr", "vault_role_id", "vault_secret_id", "vault_token")
    places = ("bucket_name", "redis_url", "postgres_host", "postgres_serving_host", "dask_scheduler_address")
    outside = (*vault, *places, "alert_webhook_url", "mail_to", "gbfs_out_dir")
    for name in (variable for field in outside for variable in variables_of(field)):
        os.environ.pop(name, None)
        os.environ.pop(f"{name}_FILE", None)
    os.environ.pop("CREDENTIALS_DIRECTORY", None)
    os.environ.update({"WRM_ENV": "local", "WRM_DATA_DIR": str(folder), ENV_FILE: os.devnull})


def _run_jobs(settings: Settings, scratch: LocalObjectStore, layout: Layout, copied: int) -> Smoke:
    from wrm_pipeline.definitions import build_defs

    defs = build_defs(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        _run(defs, instance, "wrm_stations_ingest_job", None)
        day = max(filter(None, map(folder_date, scratch.list_folders(layout.raw_prefix))))
        _run(defs, instance, "wrm_stations_processing_job", day)
    rows = _published_rows(scratch, layout, day)
    if rows == 0:
        raise SmokeError(f"{day} was processed from {copied + 1} snapshots, but has no rows")
    return Smoke(day, copied + 1, rows)


def _run(defs: dg.Definitions, instance: dg.DagsterInstance, name: str, day: date | None) -> None:
    result = defs.resolve_job_def(name).execute_in_process(
        instance=instance,
        partition_key=day.isoformat() if day else None,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
    )
    if not result.success:
        raise SmokeError(f"{name} failed; its messages are above")


def _published_rows(scratch: LocalObjectStore, layout: Layout, day: date) -> int:
    import io

    import pyarrow.parquet as pq

    try:
        body = scratch.get(layout.partition_key("enhanced", day))
    except ExternalError as error:
        raise SmokeError(f"{day} was processed, but there is no enhanced partition: {error}") from error
    return int(pq.read_metadata(io.BytesIO(body)).num_rows)
