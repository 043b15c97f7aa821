"""Figures of snapshots: what tells whether a feed is telling the truth (data contract, section 4a), from parsed rows.

A snapshot of 400 rows costs 0.1 ms among others.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wrm_pipeline.domain.distance import METRES_PER_DEGREE

FREE_BIKE = "fb"

# A station may be surveyed again; another station is rarely nearer.
NEAR_M = 50.0
_CELL_DEGREES = NEAR_M / METRES_PER_DEGREE

_ROWS = ("station_id", "lat", "lon", "bikes", "spaces", "total_docks", "pedelecs", "s3_source_key")
_ODD = tuple(np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Figures:
    """One snapshot in numbers.

    Attributes:
        stations: Stations in it.
        bikes: Bikes at stations and free-standing ones.
        docks: Docks of the stations, where known.
        highest: Most bikes at one station.
        at_highest: Stations with that number.
        known_ids: Stations whose id was there the day before; 0 if nothing is known of that day.
        known_places: Stations within about NEAR_M of a station of the day before.
        fingerprint: 64 bits over ids, positions and counts of all rows, without the reports' times.
    """

    stations: int
    bikes: int
    docks: int
    highest: int
    at_highest: int
    known_ids: int
    known_places: int
    fingerprint: int


@dataclass(frozen=True)
class Places:
    """The stations of a snapshot: ids (none if they are another feed's), names, and positions in degrees."""

    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    lat: tuple[float, ...] = ()
    lon: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.lat)

    @classmethod
    def of(cls, rows: pa.Table) -> "Places":
        """The stations among the rows of one snapshot."""
        found = rows.select(["station_id", "name", "lat", "lon"]).to_pylist()
        stations = [row for row in found if not row["station_id"].startswith(FREE_BIKE)]
        return cls(
            tuple(row["station_id"] for row in stations),
            tuple(row["name"] for row in stations),
            # 1 m.
            tuple(round(row["lat"], 5) for row in stations),
            tuple(round(row["lon"], 5) for row in stations),
        )

    def without_ids(self) -> "Places":
        """Only the positions, to compare with a feed that has other ids."""
        return Places((), self.names, self.lat, self.lon)

    @cached_property
    def id_set(self) -> frozenset[str]:
        """The ids."""
        return frozenset(self.ids)

    @cached_property
    def _cells(self) -> NDArray[np.int64]:
        lat, lon = self._cells_of(np.array(self.lat), np.array(self.lon))
        near = [_packed(lat + north, lon + east) for north in (-1, 0, 1) for east in (-1, 0, 1)]
        return np.unique(np.concatenate(near))

    def _cells_of(
        self, lat: NDArray[np.float64], lon: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # Degrees of longitude are shorter away from the equator.
        width = _CELL_DEGREES / max(float(np.cos(np.radians(np.mean(self.lat)))), 0.01)
        return np.floor(lat / _CELL_DEGREES).astype(np.int64), np.floor(lon / width).astype(np.int64)

    def near(self, lat: NDArray[np.float64], lon: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each position is in the same cell of NEAR_M as one of these stations, or in one beside it."""
        if not len(self):
            return np.zeros(len(lat), dtype=bool)
        return np.isin(_packed(*self._cells_of(lat, lon)), self._cells)

    def to_json(self) -> list[Any]:
        """As JSON."""
        return [self.ids, self.names, self.lat, self.lon]

    @classmethod
    def from_json(cls, content: Sequence[Any]) -> "Places":
        """Parse."""
        return cls(*map(tuple, content))


NO_PLACES = Places()


def _packed(lat: NDArray[np.int64], lon: NDArray[np.int64]) -> NDArray[np.int64]:
    return lat * 4_000_000 + lon


def figures_of(rows: pa.Table, before: Places = NO_PLACES) -> Mapping[str, Figures]:
    """The figures of each snapshot in these rows, by raw object; `before` are the stations of the day before."""
    if not rows.num_rows:
        return {}
    table = rows.select(list(_ROWS)).unify_dictionaries().combine_chunks()
    ids, id_codes = _dictionary(table["station_id"])
    keys, files = _dictionary(table["s3_source_key"])
    station = np.array([not name.startswith(FREE_BIKE) for name in ids], dtype=bool)[id_codes]
    numbers = {name: _numbers(table[name]) for name in _ROWS[1:7]}

    def per_file(values: NDArray[Any], mask: NDArray[np.bool_]) -> list[int]:
        found = np.bincount(files[mask], weights=values[mask], minlength=len(keys))
        return [int(value) for value in found]

    bikes, ones, every = numbers["bikes"], np.ones(len(files)), np.ones(len(files), dtype=bool)
    highest = np.zeros(len(keys))
    np.maximum.at(highest, files[station], bikes[station])
    known = np.array([name in before.id_set for name in ids], dtype=bool)[id_codes]
    columns = (
        per_file(ones, station),
        per_file(bikes, every),
        per_file(np.nan_to_num(numbers["total_docks"]), station),
        [int(value) for value in highest],
        per_file(ones, station & (bikes == highest[files])),
        per_file(ones, station & known),
        per_file(ones, station & before.near(numbers["lat"], numbers["lon"])),
        _fingerprints(ids, id_codes, numbers, files, len(keys)),
    )
    there = np.bincount(files, minlength=len(keys)) > 0
    return {key: Figures(*values) for key, present, *values in zip(keys, there, *columns, strict=True) if present}


def _dictionary(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    chunk = column.combine_chunks()
    chunk = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
    encoded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """As floats; unknown ones are NaN."""
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return values


def _fingerprints(
    ids: Sequence[str],
    id_codes: NDArray[np.int64],
    numbers: Mapping[str, NDArray[np.float64]],
    files: NDArray[np.int64],
    count: int,
) -> list[int]:
    """A sum over rows, so that their order does not matter."""
    mixed = np.array([_hash(name) for name in ids], dtype=np.uint64)[id_codes]
    for position, name in enumerate(numbers):
        # -1 is no count, so unknown differs from each number; 1e6 keeps 0.1 m.
        values = np.nan_to_num(numbers[name], nan=-1.0) * (1e6 if name in ("lat", "lon") else 1.0)
        mixed = _mix(mixed ^ (np.round(values).astype(np.int64).astype(np.uint64) * _ODD[position % 3]))
    # In halves, whose sums are exact as floats for up to two million rows: ten times as fast as `np.add.at`.
    halves = (mixed & np.uint64(0xFFFFFFFF), mixed >> np.uint64(32))
    low, high = (np.bincount(files, weights=half.astype(np.float64), minlength=count) for half in halves)
    return [((int(more) << 32) + int(less)) % 2**64 for less, more in zip(low, high, strict=True)]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: each bit of the input affects each of the output."""
    values = (values ^ (values >> np.uint64(30))) * _ODD[1]
    values = (values ^ (values >> np.uint64(27))) * _ODD[2]
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


@lru_cache(maxsize=4096)
def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
