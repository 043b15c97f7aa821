"""Stations through time: what each number showed, and which station it was."""

from dataclasses import replace

from wrm_pipeline.analytics.registry.columns import DT, LAT, LON, STATION_ID
from wrm_pipeline.analytics.registry.model import SCHEMA, Column, Refreshed, Table
from wrm_pipeline.analytics.registry.views import STATIONS_ONLY
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.stations_history import BESIDE_M, MIN_LASTING, NEAR_M

_STATE = ("station_id", "name", "lat", "lon")
_SEEN = (*_STATE, "file_timestamp")
_HOURS = f"{MIN_LASTING.total_seconds() / 3600:.0f} h"
_NAME = Column("name", "VARCHAR", "Its name then", sources=("name",))

STATION_OBSERVATIONS = Table(
    "station_observations",
    asset_names.STATIONS_HISTORY,
    "The states that each station number showed on a day; nearly always one.",
    columns=(
        DT,
        STATION_ID,
        _NAME,
        LAT,
        LON,
        Column("first_seen", "TIMESTAMPTZ", "Time of the first snapshot that shows it", sources=_SEEN),
        Column("last_seen", "TIMESTAMPTZ", "Time of the last one before another state", sources=_SEEN),
        Column("snapshots", "INTEGER", "Snapshots that show it", "snapshots", _SEEN),
    ),
    key=("dt", "station_id", "first_seen"),
    refreshed=Refreshed.BY_DAY,
    formula=f"A state between two others that lasts less than {_HOURS} is left out: a misspelt name, a wrong position.",
    sources=("wrm_stations_only",),
)

STATIONS_HISTORY = Table(
    "stations_history",
    asset_names.STATIONS_HISTORY,
    "Which station is which: one row for each time in which a station had one number, name and place.",
    columns=(
        Column("station_key", "VARCHAR", "Identity of the station, through all changes", sources=_SEEN),
        STATION_ID,
        _NAME,
        LAT,
        LON,
        Column("valid_from", "TIMESTAMPTZ", "When this began", sources=_SEEN),
        Column("valid_to", "TIMESTAMPTZ", "When it ended, exclusive; null: it is still so", sources=_SEEN),
        Column(
            "change",
            "VARCHAR",
            "Why the row began: first, renamed, moved, number_changed, number_reused, returned, merged or split; "
            "several are joined by +",
            sources=_SEEN,
        ),
        Column("decided_by", "VARCHAR", "rule, or the person who decided"),
    ),
    key=("station_key", "valid_from"),
    refreshed=Refreshed.WITH_OTHERS,
    formula=(
        "Two of number, name and place that agree make two states one station, one alone does not. Places agree within "
        f"{NEAR_M:.0f} m, and half within {BESIDE_M:.0f} m, where the closer pair wins. docs/stations.md has the "
        "rules, and how to overrule them."
    ),
    limits=(
        "At most one change of a station and day is kept, the one in force at its end. A station with another number "
        "and another name at the same place is taken for another one."
    ),
    sources=("station_observations",),
)

STATIONS_KEYED = replace(
    STATIONS_ONLY,
    name="wrm_stations_keyed",
    asset=asset_names.STATIONS_HISTORY,
    description="The rows of stations, each with the identity of its station and the station's newest name.",
    columns=(
        *STATIONS_ONLY.columns,
        Column("station_key", "VARCHAR", "Identity of the station; null before it is settled", sources=_SEEN),
        Column("current_name", "VARCHAR", "The newest name of the station", sources=_SEEN),
    ),
    # The row that a number began last: a few snapshots after a station's end are still of that station.
    sql=f"""
SELECT one.*, history.station_key, named.name AS current_name
FROM {SCHEMA}.wrm_stations_only AS one
ASOF LEFT JOIN {SCHEMA}.{STATIONS_HISTORY.name} AS history
    ON one.station_id = history.station_id AND one.file_timestamp >= history.valid_from
LEFT JOIN (
    SELECT station_key, arg_max(name, valid_from) AS name FROM {SCHEMA}.{STATIONS_HISTORY.name} GROUP BY station_key
) AS named ON history.station_key = named.station_key
""".strip(),
    sources=("wrm_stations_only", STATIONS_HISTORY.name),
)

STATIONS_REFRESHES = Table(
    "stations_history_refreshes",
    asset_names.STATIONS_HISTORY,
    "The content of station_observations and stations_history: one row per day, or for the whole table.",
    columns=(
        Column("table_name", "VARCHAR", "The table, without the schema"),
        Column("dt", "DATE", "The partition; null for a table that is replaced as a whole"),
        Column("refreshed_at", "TIMESTAMPTZ", "When the rows were written"),
        Column("rows", "INTEGER", "Number of rows", "rows"),
        Column("source", "VARCHAR", "Identity of what they were made from"),
    ),
    refreshed=Refreshed.LEDGER,
)

STATION_TABLES = (STATION_OBSERVATIONS, STATIONS_HISTORY, STATIONS_KEYED, STATIONS_REFRESHES)
