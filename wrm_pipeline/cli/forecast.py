"""`wrm forecast`: the forecasts that could have been made at an instant."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wrm_pipeline.cli.command import Command, pass_settings, typed_time

if TYPE_CHECKING:
    from wrm_pipeline.settings import Settings


@click.command(
    cls=Command,
    examples=[
        ("wrm forecast --output forecast.parquet", "as of the newest published snapshot"),
        ("wrm forecast --at 2025-08-21T15:00 --output forecast.parquet", "as of a past instant, the city's time"),
    ],
)
@click.option(
    "--at",
    "time",
    default="",
    help="ISO 8601, the city's time if it has no zone. Default: the newest published snapshot.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The Parquet file to write."
)
@pass_settings
def forecast(settings: "Settings", time: str, output: Path) -> int:
    """Forecast each station's bikes, 15 minutes to 6 hours ahead.

    The file has the columns of the table mv_forecast. Nothing later than --at is used: the model is learnt from the
    days before it, unless the lake has that day's, and the counts are those up to that instant.
    """
    from datetime import UTC, datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    from wrm_pipeline.clients.whole_files import write_whole
    from wrm_pipeline.domain.forecast.holidays import holidays_of
    from wrm_pipeline.domain.forecast.model import NoLibraryError
    from wrm_pipeline.domain.layout import local_date
    from wrm_pipeline.flows.forecast import Forecasts
    from wrm_pipeline.lake.published_partitions import PublishedPartitions
    from wrm_pipeline.resources.lake import connect_store

    forecasts = Forecasts(PublishedPartitions(connect_store(settings), settings.layout), holidays_of(settings.country))
    at, assumed = typed_time(time, "--at") if time else (forecasts.newest_snapshot() or datetime.now(UTC), "")
    day = local_date(at)
    try:
        model = forecasts.stored_model(day) or forecasts.learn(day)
    except NoLibraryError as error:
        print(error)
        model = None
    rows = forecasts.at(at, model)
    if not rows.num_rows:
        raise click.ClickException(
            f"No station was seen in the quarter of an hour before {at:%Y-%m-%d %H:%M} UTC, so there is nothing to "
            "start from. Give a time at which snapshots are published (--at)."
        )
    file = pa.BufferOutputStream()
    pq.write_table(rows, file)
    try:
        write_whole(output, file.getvalue().to_pybytes())
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error}.") from error
    if assumed:
        print(assumed)
    learnt = f"learnt from {model.first} to {model.last}" if model else "without a model: nothing changes"
    print(f"{output}: {rows.num_rows} forecasts made at {at:%Y-%m-%d %H:%M:%S} UTC, {learnt}.")
    return 0
