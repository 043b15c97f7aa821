"""The city's list of a day's rides -> ledger/ as it came, and city_rides/ with instants and stations."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq

from wrm_pipeline.clients.ride_files import RideFile, RideFiles, safe_name
from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.domain.ride_ledger import Ledger, LedgerRide, read_ledger
from wrm_pipeline.domain.ride_names import NamedEnd, SeenRide, StationNames
from wrm_pipeline.domain.schemas import CITY_RIDES, arrow_schema
from wrm_pipeline.domain.stations_history import Period
from wrm_pipeline.lake.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class FoundList:
    """A day's list, and its key in the lake; empty while it is not kept."""

    file: RideFile
    key: str = ""


def find_list(files: RideFiles, store: ObjectStore, layout: Layout, dt: date) -> FoundList | None:
    """The list of a day where it is published, else the newest that is kept; None: it has not arrived.

    Raises:
        ExternalError: the server or the store failed.
        OSError: a file cannot be read.
    """
    file = files.find(dt)
    if file is not None:
        return FoundList(file)
    kept = max(store.list(layout.ledger_folder(dt)), key=lambda info: (info.last_modified, info.key), default=None)
    if kept is None:
        return None
    return FoundList(RideFile(kept.key.rpartition("/")[2], store.get(kept.key)), kept.key)


def keep_list(store: ObjectStore, layout: Layout, dt: date, found: FoundList) -> FoundList:
    """Keep a list as it came; one of the same name with another content stays beside it.

    Raises:
        ExternalError: the store failed.
    """
    if found.key:
        return found
    name, body = safe_name(found.file.name), found.file.body
    key = f"{layout.ledger_folder(dt)}{name}"
    if not store.put_if_absent(key, body) and store.get(key) != body:
        key = f"{layout.ledger_folder(dt)}{hashlib.sha256(body).hexdigest()[:12]}_{name}"
        store.put_if_absent(key, body)
    return FoundList(found.file, key)


def ride_rows(ledger: Ledger, periods: Sequence[Period], seen: Sequence[SeenRide]) -> pa.Table:
    """The rows of city_rides: rides with their stations."""
    ends = [end for ride in ledger.rides for end in _ends(ride)]
    names = StationNames(periods, ends, seen)
    rows = []
    for ride in ledger.rides:
        row = {field.name: getattr(ride, field.name) for field in fields(ride)}
        for side, name, at in (
            ("left", ride.left_name, ride.left_at),
            ("arrived", ride.arrived_name, ride.arrived_at),
        ):
            place = names.place(name, at)
            row |= {f"{side}_{field.name}": getattr(place, field.name) for field in fields(place)}
        rows.append(row)
    return pa.Table.from_pylist(rows, arrow_schema(CITY_RIDES))


def read_list(found: FoundList) -> Ledger:
    """The rides of a list, in the time zone of this process's city.

    Raises:
        NotALedgerError: it is not a list of rides.
    """
    return read_ledger(found.file.body, this_city().zone)


def to_parquet(rows: pa.Table) -> bytes:
    """A partition's file."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def _ends(ride: LedgerRide) -> tuple[NamedEnd, NamedEnd]:
    return (
        NamedEnd(ride.left_name, ride.bike_id, ride.left_at, leaves=True),
        NamedEnd(ride.arrived_name, ride.bike_id, ride.arrived_at, leaves=False),
    )
