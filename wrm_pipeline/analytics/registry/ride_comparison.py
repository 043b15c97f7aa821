"""The rides that the archive saw, beside those of the city's own list."""

from wrm_pipeline.analytics.registry.answers import latest_of
from wrm_pipeline.analytics.registry.model import Column, Refreshed, Table
from wrm_pipeline.domain import asset_names

_DAY = Column("dt", "DATE", "The day on which the rides ended")

RIDE_COMPARISON = Table(
    "ride_comparison",
    asset_names.RIDE_COMPARISON,
    "How well a day's rides were seen, beside the city's own list of them; one row per day whose list has arrived.",
    columns=(
        _DAY,
        Column("ledger_rides", "INTEGER", "Rides of the list, without vans and failed rentals", "rides"),
        Column("found", "INTEGER", "Of these, seen in mv_rides; null where no bikes are known", "rides"),
        Column("missed", "INTEGER", "Of these, not seen", "rides"),
        Column("invented", "INTEGER", "Rides of mv_rides that no ride of the list explains", "rides"),
        Column("seen_rides", "INTEGER", "Rides of mv_rides: kind ride", "rides"),
        Column("share_found", "DOUBLE", "found / ledger_rides", "share"),
        Column("share_missed", "DOUBLE", "missed / ledger_rides", "share"),
        Column("share_invented", "DOUBLE", "invented / seen_rides", "share"),
        Column("failed_rentals", "INTEGER", "Rentals that ended where they began within 2 minutes", "rentals"),
        Column(
            "station_rentals", "INTEGER", "Rentals that began at a station, failed ones included, vans not", "rentals"
        ),
        Column("van_rides", "INTEGER", "Rides from or to a van", "rides"),
        Column("unmatched_ends", "INTEGER", "Ends at a name that is no known station", "ends"),
    ),
    key=("dt",),
    refreshed=Refreshed.BY_PARTITION,
    formula=(
        "A ride is found if a row of mv_rides (kind ride, or same_place for a round trip) has the same bike and the "
        "same ends, both times within 6 minutes; each row explains one ride. docs/answers.md explains it."
    ),
    limits=(
        "Two rides with less than a snapshot in between are seen as one: two missed, one invented. A day whose list "
        "arrives before the day after is over may count a few arrivals otherwise."
    ),
    sources=(asset_names.CITY_RIDES, "mv_rides"),
    columns_from="",
)

RIDE_LEDGER_NAMES = Table(
    "ride_ledger_names",
    asset_names.RIDE_COMPARISON,
    "The names of places in the city's list of a day's rides, and what each is.",
    columns=(
        _DAY,
        Column("name", "VARCHAR", "The name in the list, without odd blanks"),
        Column("what", "VARCHAR", "station, outside, van, or unmatched"),
        Column("station_id", "VARCHAR", "Number of the station then; null if it is none"),
        Column("station_key", "VARCHAR", "Identity of the station (stations_history); null if it is none"),
        Column(
            "matched_by",
            "VARCHAR",
            "How it was found: name, former_name, spelling, word_order, or bikes (seen there at that moment)",
        ),
        Column("ends", "INTEGER", "Ends of rides with this name", "ends"),
    ),
    refreshed=Refreshed.BY_PARTITION,
    sources=(asset_names.CITY_RIDES,),
    columns_from="",
)

RIDE_COMPARISON_TABLES = (
    RIDE_COMPARISON,
    latest_of(RIDE_COMPARISON),
    RIDE_LEDGER_NAMES,
    latest_of(RIDE_LEDGER_NAMES),
)
