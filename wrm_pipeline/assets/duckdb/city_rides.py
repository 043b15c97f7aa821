"""The city's own list of each day's rides, and the rides that the archive saw beside it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wrm_pipeline.analytics.answers import replace_days
from wrm_pipeline.analytics.database import SCHEMA
from wrm_pipeline.analytics.registry.ride_comparison import RIDE_COMPARISON, RIDE_LEDGER_NAMES
from wrm_pipeline.analytics.ride_comparison import compared, ends_by, seen_rides
from wrm_pipeline.analytics.stations_over_time import read_periods
from wrm_pipeline.assets.duckdb.days import result_of_days
from wrm_pipeline.assets.duckdb.materialized_views import create_materialized_views
from wrm_pipeline.assets.duckdb.station_history import stations_history
from wrm_pipeline.assets.presentation import handled_rows, markdown_table, table_metadata, table_schema
from wrm_pipeline.assets.stations.fan_out import NOTHING, days_of
from wrm_pipeline.clients.ride_files import RideFiles
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.asset_letters import letter_of_asset
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.configured import names_of
from wrm_pipeline.domain.dead_letters import PENDING, DeadRecord
from wrm_pipeline.domain.masking import redact
from wrm_pipeline.domain.ride_ledger import DeadLine, Ledger, NotALedgerError, of_another_day
from wrm_pipeline.domain.ride_names import STATION
from wrm_pipeline.domain.schemas import CITY_RIDES
from wrm_pipeline.flows.city_rides import find_list, keep_list, read_list, ride_rows, to_parquet
from wrm_pipeline.lake.published_partitions import PartitionFile
from wrm_pipeline.partitions import daily_partitions
from wrm_pipeline.resources.dlq import DlqResource
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import Settings

_NOT_A_LEDGER = "file_not_a_list_of_rides"


def ride_files(settings: Settings) -> RideFiles:
    """Where the lists are, by the settings."""
    return RideFiles(
        settings.rides_dir,
        settings.rides_url,
        names_of(settings.feed_redirect_hosts),
        names_of(settings.private_hosts),
    )


class RidesConfig(dg.Config):
    """How to publish a list."""

    allow_shrink: bool = False
    """Whether a list may be replaced by one with less than 95 % of its rides."""
    kept_only: bool = False
    """Whether to read the newest list in `ledger/`, without asking the city's address or folder."""


@dg.asset(
    name=asset_names.CITY_RIDES,
    deps=[stations_history, create_materialized_views],
    partitions_def=daily_partitions,
    metadata={"dagster/column_schema": table_schema(CITY_RIDES)},
    group_name="analytics",
    kinds={"python", "arrow", "parquet"},
    owners=["team:wrm"],
    tags={"layer": "processed"},
    description=(
        "The city's own list of the rides that ended on a day (WRM_RIDES_URL or WRM_RIDES_DIR), which arrives days "
        "late: a schedule asks each night for those that are missing. Each list is kept as it came in `ledger/`, and "
        "every line is published here, dead-lettered, or a duplicate. Local times become instants, and names stations, "
        "through `stations_history`. docs/answers.md explains it."
    ),
)
def city_rides(
    context: dg.AssetExecutionContext, config: RidesConfig, lake: LakeResource, dlq: DlqResource
) -> dg.MaterializeResult[None]:
    """Publish the lists of the run's days."""
    return _each_day(context, lambda dt: _publish(context, config, lake, dlq, dt))


def _each_day(context: dg.AssetExecutionContext, build: Callable[[date], dict[str, Any]]) -> dg.MaterializeResult[None]:
    return result_of_days(context, {dt: build(dt) for dt in days_of(context)})


def _publish(
    context: dg.AssetExecutionContext, config: RidesConfig, lake: LakeResource, dlq: DlqResource, dt: date
) -> dict[str, Any]:
    files = RideFiles() if config.kept_only else ride_files(lake.settings)
    found = find_list(files, lake.store, lake.layout, dt)
    if found is None:
        where = "Set WRM_RIDES_URL or WRM_RIDES_DIR." if not lake.settings.has_ride_lists else "It may come later."
        return {NOTHING: f"The city's list of the rides of {dt} is not there. {where}"}
    try:
        ledger = read_list(found)
    except NotALedgerError as error:
        dlq.write(asset_names.CITY_RIDES, dt, _NOT_A_LEDGER, found.file.body, error, source=found.file.name)
        raise dg.Failure(
            f"{found.file.name} is not a list of rides: {redact(str(error))}. It is kept as a dead letter; look at it, "
            "and materialize the day again once it is right.",
            allow_retries=False,
        ) from error
    kept = keep_list(lake.store, lake.layout, dt, found)
    with lake.database.reading_if_any() as connection:
        periods = [] if connection is None else read_periods(connection)
        seen = seen_rides(connection, dt)
    if not periods:
        # Published now, it would count as done, with not one of its stations.
        raise dg.Failure(
            f"No station is known yet, so that no name in {found.file.name} can be found. The list is kept: "
            f"{lake.store.url(kept.key)}. Once snapshots are published, materialize stations_history, and "
            "then this day again.",
            allow_retries=False,
        )
    rows = ride_rows(ledger, periods, seen)
    partitions = replace(lake.partitions, run_id=context.run.run_id)
    before = partitions.read(asset_names.CITY_RIDES, dt)
    info = partitions.publish(
        asset_names.CITY_RIDES,
        dt,
        PartitionFile(to_parquet(rows), rows.num_rows, before.row_count if before else 0, config.allow_shrink),
    )
    _bury(dlq, dt, found.file.name, ledger.dead)
    return {**_metadata(ledger, rows, dt), "list": lake.store.url(kept.key), "path": lake.store.url(info.key)}


def _bury(dlq: DlqResource, dt: date, source: str, dead: list[DeadLine]) -> None:
    """A dead letter for each kind of error; those of before that are gone are settled."""
    open_letters = {letter.entry_id for letter in dlq.list(asset_names.CITY_RIDES, dt) if letter.status == PENDING}
    by_error: dict[str, list[DeadLine]] = {}
    for line in dead:
        by_error.setdefault(line.error_type, []).append(line)
    for error_type, lines in by_error.items():
        first = lines[0]
        letter = letter_of_asset(
            asset_names.CITY_RIDES,
            dt,
            error_type,
            first.raw_data,
            first.error_message,
            seen_at=dlq.clock.now(),
            source=source,
            line_number=first.line_number,
            field=first.field,
        )
        records = tuple(DeadRecord(line.line_number, line.raw_data, line.field, line.error_message) for line in lines)
        written = dlq.queue.add(replace(letter, records=records, records_total=len(records)))
        open_letters.discard(written.entry_id)
    for entry_id in open_letters:
        dlq.settle(entry_id, "the day's list was read again, without this")


def _metadata(ledger: Ledger, rows: pa.Table, dt: date) -> dict[str, Any]:
    names = ends_by(rows, ("name", "what", "matched_by"))
    odd = [
        {"name": name, "what": what, "matched_by": matched_by or "", "ends": count}
        for (name, what, matched_by), count in names.most_common()
        if what != STATION or matched_by != "name"
    ]
    notes = Counter(note for note in rows["time_note"].to_pylist() if note)
    return {
        "lines_in": ledger.lines_in,
        "rows_out": rows.num_rows,
        "dead_lettered": len(ledger.dead),
        "duplicate_rows": ledger.duplicate_rows,
        "remark_lines": ledger.remark_lines,
        **handled_rows(rows.num_rows, len(ledger.dead), ledger.duplicate_rows),
        "dagster/partition_row_count": rows.num_rows,
        "rides_of_other_days": of_another_day(ledger.rides, dt, this_city().zone),
        "bikes": len(pc.unique(rows["bike_id"])),
        "changed_clocks": ", ".join(f"{note}: {count}" for note, count in sorted(notes.items())) or "no ride",
        "names_not_of_now": dg.MetadataValue.md(markdown_table(odd[:40])),
    }


@dg.asset(
    name=asset_names.RIDE_COMPARISON,
    deps=[city_rides, create_materialized_views],
    partitions_def=daily_partitions,
    metadata=table_metadata(asset_names.RIDE_COMPARISON),
    group_name="quality",
    kinds={"duckdb", "table"},
    owners=["team:wrm"],
    tags={"layer": "analytics"},
    pool="duckdb",
    description=(
        "How well we saw a day's rides: those of the city's own list that `mv_rides` has (found) and has not (missed), "
        "and those that only `mv_rides` has (invented); tables `wrm_analytics.ride_comparison` and `ride_ledger_names`."
    ),
)
def ride_comparison(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[None]:
    """Compare the run's days."""
    return _each_day(context, lambda dt: _compare(lake, dt))


def _compare(lake: LakeResource, dt: date) -> dict[str, Any]:
    parts = lake.partitions.read(asset_names.CITY_RIDES, dt)
    if parts is None:
        return {NOTHING: f"The city's list of the rides of {dt} is not published."}
    rides = pq.read_table(pa.BufferReader(parts.data))
    with lake.database.reading_if_any() as connection:
        found, comparison, names = compared(rides, seen_rides(connection, dt), dt)
    replace_days(lake.database, RIDE_LEDGER_NAMES, {dt: names})
    row_count = replace_days(lake.database, RIDE_COMPARISON, {dt: comparison})
    metadata: dict[str, Any] = {
        "table": f"{SCHEMA}.{RIDE_COMPARISON.name}",
        "dagster/row_count": row_count,
        "ledger_rides": found.ledger_rides,
        "unmatched_ends": found.unmatched_ends,
        "comparison": dg.MetadataValue.md(markdown_table(comparison.to_pylist())),
    }
    if found.found is None:
        metadata["not_compared"] = f"mv_rides has no rides of {dt}: no feed named the bikes."
    else:
        metadata |= {"found": found.found, "missed": found.missed, "invented": found.invented}
    return metadata
