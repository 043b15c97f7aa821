"""`wrm reports`: copies the published reports to a web server's folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wrm_pipeline.cli.command import Command, pass_settings

if TYPE_CHECKING:
    from wrm_pipeline.settings import Settings


@click.command(cls=Command, examples=[("wrm reports /var/www/wrm", "what the unit wrm-reports does every few minutes")])
@click.argument("folder", type=click.Path(path_type=Path))
@pass_settings
def reports(settings: "Settings", folder: Path) -> int:
    """Copy the published reports to a web server's folder.

    Files in FOLDER that are not published are removed. It writes without --apply: a timer runs it.
    """
    from wrm_pipeline.flows.mirror import mirror
    from wrm_pipeline.resources.lake import connect_store

    done = mirror(connect_store(settings), settings.layout.report_key(""), folder)
    print(f"{folder}: {done.written} written, {done.removed} removed, {done.unchanged} unchanged.")
    return 0
