"""What bikes did between their stays: a partition for each day of bike positions."""

from wrm_pipeline.analytics.registry.columns import DT
from wrm_pipeline.analytics.registry.daily import DETAIL_DAYS
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.domain import asset_names

_BIKE = ("bike_id",)
_LEFT, _ARRIVED = ("left_at",), ("arrived_at",)

MV_RIDES = Table(
    "mv_rides",
    asset_names.MATERIALIZED_VIEWS,
    "What a bike did between two stays: a ride, a relocation, or no movement at all; one row per pair of stays.",
    columns=(
        DT,
        Column("bike_id", "VARCHAR", "Bike number", sources=_BIKE),
        Column("left_at", "TIMESTAMPTZ", "Last seen where it stood", sources=_LEFT),
        Column("left_station_id", "VARCHAR", "Station that it left; null outside stations", sources=("station_id",)),
        Column("left_lat", "DOUBLE", "Where it stood: latitude, WGS84", "deg", ("lat",)),
        Column("left_lon", "DOUBLE", "Where it stood: longitude, WGS84", "deg", ("lon",)),
        Column("arrived_at", "TIMESTAMPTZ", "First seen where it stood next", sources=_ARRIVED),
        Column(
            "arrived_station_id",
            "VARCHAR",
            "Station at which it arrived; null outside stations",
            sources=("station_id",),
        ),
        Column("arrived_lat", "DOUBLE", "Where it stood next: latitude, WGS84", "deg", ("lat",)),
        Column("arrived_lon", "DOUBLE", "Where it stood next: longitude, WGS84", "deg", ("lon",)),
        Column("duration_s", "INTEGER", "From left_at to arrived_at", "s", (*_LEFT, *_ARRIVED)),
        Column("distance_m", "INTEGER", "Great circle between the two places", "m", ("lat", "lon")),
        Column(
            "kind",
            "VARCHAR",
            "ride, relocation, same_place or flicker",
            sources=("bike_id", "station_id", "lat", "lon", "arrived_at", "left_at"),
        ),
    ),
    key=("dt", "bike_id", "arrived_at"),
    refreshed=Refreshed.BY_DAY_OF_BIKES,
    formula=(
        "Each pair of consecutive stays of a bike in bike_positions is one row, of the day of arrival; a stay that "
        "goes on over midnight is one. kind is flicker where the bike cannot have moved (it is in two places within "
        "90 s, or faster than 30 km/h, or beside its station), same_place where it is back where it was, relocation "
        "where it looks like a van's move, ride otherwise. A ride's ends are those without the flickers. "
        "docs/rides.md has the rules."
    ),
    limits=(
        "Empty without the operator's feed. Two rides with less than a minute in between look like one: 1 % of the "
        "rides. A single bike in a van looks much like a ride: a fifth to a third of these are taken for one. "
        "duration_s includes up to a minute of standing at each end. A bike that is away for longer than the day "
        "before has no row. The kind of an arrival may change until the day after is over."
    ),
    kept_days=DETAIL_DAYS,
    sources=(asset_names.BIKE_POSITIONS,),
    columns_from=asset_names.BIKE_POSITIONS,
)
