"""`wrm gbfs`: writes a published snapshot as GBFS."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wrm_pipeline.cli.command import Command, CommandError, pass_settings, typed_time

if TYPE_CHECKING:
    from wrm_pipeline.settings import Settings


@click.command(
    cls=Command,
    examples=[
        ("wrm gbfs --output /tmp/now", "the newest snapshot"),
        ("wrm gbfs --at 2025-08-21T15:04 --output /tmp/then", "that of a past minute, local time"),
    ],
)
@click.option("--at", "time", help="ISO 8601; local time if it has no zone. Default: now.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Created if missing.")
@click.option("--url", help="Address that the folder is served at. Default: the folder itself, as file://….")
@pass_settings
def gbfs(settings: "Settings", time: str | None, output: Path, url: str | None) -> int:
    """Write a published snapshot as GBFS 2.3 and 3.0.

    It is the last one at or before the time, of that day or the day before. It writes without --apply: only to the
    folder of --output.
    """
    from wrm_pipeline.domain.configured import public_url
    from wrm_pipeline.flows import gbfs_out
    from wrm_pipeline.lake.published_partitions import PublishedPartitions
    from wrm_pipeline.resources.lake import connect_store

    at, assumed = typed_time(time, "--at") if time else (datetime.now(UTC), "")
    try:
        address = output.absolute().as_uri() if url is None else public_url(url)
    except ValueError as error:
        raise CommandError(f"--url {error}") from None
    partitions = PublishedPartitions(connect_store(settings), settings.layout)
    ids = gbfs_out.IdFiles(settings.gbfs_ids_dir)
    try:
        found = gbfs_out.write_snapshot(partitions, at, settings.public_system(address), output, ids)
    except gbfs_out.NoSnapshotError as error:
        raise click.ClickException(" ".join([assumed, f"{error}."]).strip()) from error
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error}.") from error
    if assumed:
        print(assumed)
    print(f"{output}: the snapshot of {found:%Y-%m-%d %H:%M:%S} UTC; begin with {address}/v3.0/gbfs.json.")
    return 0
