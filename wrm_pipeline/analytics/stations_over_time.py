"""Enhanced partitions and people's decisions -> station_observations, stations_history and the view over them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING

from wrm_pipeline.analytics.database import SCHEMA, AnalyticsDatabase, make_way, stored_views
from wrm_pipeline.analytics.refresh import (
    Part,
    Refresh,
    RefreshPlan,
    Source,
    TableSet,
    delete_rows,
    insert_rows,
    refresh,
    with_other_columns,
)
from wrm_pipeline.analytics.registry import Table, tables_of
from wrm_pipeline.analytics.registry.stations import STATION_OBSERVATIONS, STATIONS_HISTORY, STATIONS_KEYED
from wrm_pipeline.analytics.registry.types import rows_of
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.layout import local_date
from wrm_pipeline.domain.station_decisions import Decision, with_decisions
from wrm_pipeline.domain.station_observations import COLUMNS, days_of, observations_of, span_of
from wrm_pipeline.domain.stations_history import (
    HISTORY_VERSION,
    MIN_LASTING,
    Observation,
    Period,
    stations_history,
)
from wrm_pipeline.lake.published_partitions import PublishedPartitions
from wrm_pipeline.lake.station_decisions import KeptDecisions

if TYPE_CHECKING:
    import duckdb


def refresh_stations(
    database: AnalyticsDatabase, partitions: PublishedPartitions, decisions: KeptDecisions, *, refreshed_at: datetime
) -> tuple[Refresh, Mapping[Decision, str]]:
    """Bring the tables up to date; the database is not touched if they are.

    Returns:
        What was done, and why a decision could not be followed; without any if the history was not made again.

    Raises:
        ExternalError: the store failed; the tables are unchanged.
        PartitionGoneError: a partition was removed meanwhile; the tables are unchanged.
    """
    tables = StationTables(partitions, decisions, refreshed_at)
    return refresh(tables, database, refreshed_at=refreshed_at), tables.not_followed


class StationTables(TableSet):
    """The observations by day, and the history as a whole."""

    asset = asset_names.STATIONS_HISTORY
    source_columns = COLUMNS

    def __init__(self, partitions: PublishedPartitions, decisions: KeptDecisions, now: datetime) -> None:
        super().__init__(partitions)
        self._decisions = decisions
        self._today = local_date(now)
        self.not_followed: Mapping[Decision, str] = {}

    @property
    def tables(self) -> tuple[Table, ...]:
        """Without the view, which has no rows of its own."""
        return tuple(table for table in tables_of(self.asset) if not table.is_view)

    def sources(self, published: Mapping[date, str]) -> dict[Part, Source]:
        """The day's object; of the history, all days up to today, and the decisions."""
        # Later days stem from a clock that was ahead.
        days = {dt: etag for dt, etag in published.items() if dt <= self._today}
        all_days = hashlib.sha256(repr(sorted(days.items())).encode()).hexdigest()[:16]
        whole = Source(f"{all_days}-{self._decisions.identity}", HISTORY_VERSION)
        found: dict[Part, Source] = {(STATIONS_HISTORY.name, None): whole}
        for dt, etag in days.items():
            found[STATION_OBSERVATIONS.name, dt] = Source(etag, HISTORY_VERSION)
        return found

    def write_day(self, connection: "duckdb.DuckDBPyConnection", dt: date, names: Sequence[str]) -> Mapping[str, int]:
        """The states of the day; none if its object cannot be read."""
        rows = self.days.read(dt)
        seen = [] if rows is None else observations_of(rows)
        delete_rows(connection, [STATION_OBSERVATIONS], dt)
        given = rows_of(STATION_OBSERVATIONS, ({"dt": dt, **asdict(one)} for one in seen))
        insert_rows(connection, STATION_OBSERVATIONS, given)
        return dict.fromkeys(names, len(seen))

    def write_whole(self, connection: "duckdb.DuckDBPyConnection", plan: RefreshPlan) -> Mapping[str, int]:
        """The history, from all observations."""
        if (STATIONS_HISTORY.name, None) not in plan.write and not plan.asked_again:
            return {}
        by_rule = stations_history(self._days(connection))
        periods, self.not_followed = with_decisions(by_rule, self._decisions.decisions)
        delete_rows(connection, [STATIONS_HISTORY], None)
        insert_rows(connection, STATIONS_HISTORY, rows_of(STATIONS_HISTORY, map(asdict, periods)))
        if STATIONS_KEYED.sources[0] in stored_views(connection):
            make_way(connection, STATIONS_KEYED.name, "VIEW")
            connection.execute(f"CREATE OR REPLACE VIEW {SCHEMA}.{STATIONS_KEYED.name} AS {STATIONS_KEYED.sql}")
        return {STATIONS_HISTORY.name: len(periods)}

    def _days(self, connection: "duckdb.DuckDBPyConnection") -> list[list[Observation]]:
        names = [column.name for column in STATION_OBSERVATIONS.columns]
        rows = connection.execute(
            f"SELECT {', '.join(names)} FROM {SCHEMA}.{STATION_OBSERVATIONS.name} ORDER BY dt, station_id, first_seen"
        ).to_arrow_table()
        found = list(days_of((row.pop("dt"), Observation(**row)) for row in rows.to_pylist()))
        # A day that has just begun says nothing about what lasts.
        begun = rows.num_rows and rows["dt"][-1].as_py() == self._today and span_of(found[-1]) < MIN_LASTING
        return found[:-1] if begun and len(found) > 1 else found


def read_periods(connection: "duckdb.DuckDBPyConnection") -> list[Period]:
    """The rows of stations_history; none without that table."""
    if with_other_columns(connection, [STATIONS_HISTORY]):
        return []
    names = ", ".join(column.name for column in STATIONS_HISTORY.columns)
    rows = connection.execute(
        f"SELECT {names} FROM {SCHEMA}.{STATIONS_HISTORY.name} ORDER BY station_key, valid_from"
    ).to_arrow_table()
    return [Period(**row) for row in rows.to_pylist()]
