"""Columns and descriptions shared by several tables."""

from wrm_pipeline.analytics.registry.model import Column

DT = Column("dt", "DATE", "The partition: the city's calendar date of the fetch", sources=("dt",))
HOUR_START = Column(
    "hour_start",
    "TIMESTAMPTZ",
    "The instant at which the hour begins; 23 or 25 a day when clocks change",
    sources=("file_timestamp",),
)
LOCAL_HOUR = Column(
    "local_hour",
    "TINYINT",
    "The local hour, 0-23; one occurs twice on a 25 h day",
    "h",
    ("file_timestamp",),
)
STATION_ID = Column("station_id", "VARCHAR", "Station number", sources=("station_id",))
NAME = Column("name", "VARCHAR", "Name of the station, as reported last", sources=("name",))
LAT = Column("lat", "DOUBLE", "Latitude, WGS84", "deg", ("lat",))
LON = Column("lon", "DOUBLE", "Longitude, WGS84", "deg", ("lon",))
FILE_TIMESTAMP = Column("file_timestamp", "TIMESTAMPTZ", "Time of the snapshot", sources=("file_timestamp",))
OUTSIDE = Column("outside_service_area", "BOOLEAN", "Outside the configured box", sources=("outside_service_area",))

# The sources of a place: where something is seen, and when.
PLACE = ("lat", "lon", "file_timestamp")
# The sources of empty and full (domain/full_and_empty.py).
EMPTY = ("bikes", "spaces", "total_docks")
FULL = ("spaces", "total_docks")
