"""Bikes per square of 1000 m²: a sparse grid over the service area."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.rules import ServiceArea

CELL_AREA_M2 = 1000.0
CELL_SIDE_M = math.sqrt(CELL_AREA_M2)  # 31.6228 m

# WGS 84 ellipsoid (NGA.STND.0036): semi-major axis in metres, first eccentricity squared.
_WGS84_A_M = 6_378_137.0
_WGS84_E2 = 6.694_379_990_14e-3

CELL_SCHEMA = pa.schema(
    [
        ("cell_x", pa.int32()),
        ("cell_y", pa.int32()),
        ("south", pa.float64()),
        ("west", pa.float64()),
        ("north", pa.float64()),
        ("east", pa.float64()),
        ("bikes_mean", pa.float64()),
        ("bikes_max", pa.int64()),
        ("stations", pa.int64()),
        ("density_per_km2", pa.float64()),
    ]
)


@dataclass(frozen=True)
class DensityGrid:
    """The cells that held a bike, and counts of what is not in them.

    Attributes:
        cells: One row per cell, `CELL_SCHEMA`, densest first. `cell_x` counts east and `cell_y` north from the area's
            south-west corner; edges are WGS 84 degrees; `bikes_mean` is per snapshot, `bikes_max` the most in one
            snapshot, `stations` those in the newest snapshot, `density_per_km2` is `bikes_mean` / 0.001 km².
        snapshot_count: Distinct snapshots in the input.
        rows_in: Rows in the input.
        rows_outside_area: Rows left out because they lie outside the area.
        bikes_in: Bikes in the input, summed over all snapshots.
        bikes_outside_all_snapshots: The part of `bikes_in` outside the area.
        bikes_outside_area: Bikes outside the area in the newest snapshot.
    """

    cells: pa.Table
    snapshot_count: int
    rows_in: int
    rows_outside_area: int
    bikes_in: int
    bikes_outside_all_snapshots: int
    bikes_outside_area: int

    @property
    def adds_up(self) -> bool:
        """Whether the cells and the rest account for exactly the bikes of the input."""
        in_cells = float(np.sum(self.cells["bikes_mean"].to_numpy())) * self.snapshot_count
        return round(in_cells) + self.bikes_outside_all_snapshots == self.bikes_in


def cell_size_degrees(area: ServiceArea) -> tuple[float, float]:
    """Height and width of a cell in degrees of latitude and of longitude.

    Both follow from the ellipsoid's radii of curvature at the area's middle latitude, and are used all over it.
    """
    middle = math.radians((area.lat_min + area.lat_max) / 2)
    w2 = 1 - _WGS84_E2 * math.sin(middle) ** 2
    meridian_m = _WGS84_A_M * (1 - _WGS84_E2) / w2**1.5
    parallel_m = _WGS84_A_M / math.sqrt(w2) * math.cos(middle)
    return math.degrees(CELL_SIDE_M / meridian_m), math.degrees(CELL_SIDE_M / parallel_m)


def inside_area(rows: pa.Table, area: ServiceArea) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows lie in the area, its edges included, and are not flagged `outside_service_area`."""
    lat, lon = rows["lat"].to_numpy(), rows["lon"].to_numpy()
    flagged = pc.fill_null(rows["outside_service_area"], False).to_numpy()
    in_box = (lat >= area.lat_min) & (lat <= area.lat_max) & (lon >= area.lon_min) & (lon <= area.lon_max)
    return np.asarray(in_box & ~flagged, dtype=np.bool_)


def bike_density(rows: pa.Table, area: ServiceArea) -> DensityGrid:
    """Count bikes in cells of 1000 m², over all snapshots in the rows.

    The grid starts at the area's south-west corner, in an equirectangular projection that is true at the
    area's middle latitude. East-west distances are therefore off by the ratio of the latitudes' cosines: in
    the default area (51.0–51.3°) a cell is 31.73 m wide at the southern edge and 31.52 m at the northern one,
    so width, area and density are within 0.33 % of nominal everywhere.

    Only cells with a bike in at least one snapshot exist, so memory grows with the rows, not the area. Rows that are
    not `inside_area` are omitted and counted.

    Args:
        rows: Columns `file_timestamp` (the snapshot), `lat`, `lon` (WGS 84 degrees), `bikes`, `record_type`,
            `outside_service_area`.
        area: The box to cover; its edges belong to it.

    Returns:
        The cells and the accounting.
    """
    lat, lon = rows["lat"].to_numpy(), rows["lon"].to_numpy()
    bikes, snapshots = rows["bikes"], rows["file_timestamp"]
    inside = inside_area(rows, area)
    newest = pc.equal(snapshots, pc.max(snapshots))
    newest_station = pc.and_(newest, pc.equal(rows["record_type"], "station"))
    snapshot_count: int = pc.count_distinct(snapshots).as_py()

    step_lat, step_lon = cell_size_degrees(area)
    columns = math.ceil((area.lon_max - area.lon_min) / step_lon) + 1
    mask = pa.array(inside)
    placed = pa.table(
        {
            "cell": np.floor((lat[inside] - area.lat_min) / step_lat).astype(np.int64) * columns
            + np.floor((lon[inside] - area.lon_min) / step_lon).astype(np.int64),
            "file_timestamp": snapshots.filter(mask),
            "bikes": bikes.filter(mask),
            "stations": newest_station.filter(mask).cast(pa.int64()),
        }
    )
    cells = (
        placed.group_by(["cell", "file_timestamp"])
        .aggregate([("bikes", "sum"), ("stations", "sum")])
        .group_by("cell")
        .aggregate([("bikes_sum", "sum"), ("bikes_sum", "max"), ("stations_sum", "sum")])
    )
    cells = cells.filter(pc.greater(cells["bikes_sum_sum"], 0))

    y, x = (part.astype(np.int32) for part in np.divmod(cells["cell"].to_numpy(), columns))
    mean = cells["bikes_sum_sum"].to_numpy() / max(snapshot_count, 1)
    return DensityGrid(
        cells=pa.table(
            {
                "cell_x": x,
                "cell_y": y,
                "south": area.lat_min + y * step_lat,
                "west": area.lon_min + x * step_lon,
                "north": area.lat_min + (y + 1) * step_lat,
                "east": area.lon_min + (x + 1) * step_lon,
                "bikes_mean": mean,
                "bikes_max": cells["bikes_sum_max"],
                "stations": cells["stations_sum_sum"],
                "density_per_km2": mean / (CELL_AREA_M2 / 1e6),
            },
            schema=CELL_SCHEMA,
        ).sort_by([("bikes_mean", "descending"), ("cell_x", "ascending"), ("cell_y", "ascending")]),
        snapshot_count=snapshot_count,
        rows_in=rows.num_rows,
        rows_outside_area=int(np.count_nonzero(~inside)),
        bikes_in=_total(bikes),
        bikes_outside_all_snapshots=_total(bikes.filter(pa.array(~inside))),
        bikes_outside_area=_total(bikes.filter(pc.and_(pa.array(~inside), newest))),
    )


def _total(counts: pa.ChunkedArray) -> int:
    """The sum, 0 for no rows."""
    return int(pc.sum(counts, min_count=0).as_py())
