"""Maps of a density grid: an interactive page that needs no network, and a small SVG."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from datetime import datetime
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.density import CELL_SIDE_M, DensityGrid, cell_size_degrees, inside_area
from wrm_pipeline.domain.rules import ServiceArea

TILE_HOST = "https://tile.openstreetmap.org"

# Six colours from sparse to dense, at equal steps of OKLab lightness (https://bottosson.github.io/posts/oklab/).
RAMP_ON_LIGHT = ("#c5eae5", "#8fcec7", "#5eafab", "#3b8f8e", "#226e72", "#114e55")
RAMP_ON_DARK = ("#16454a", "#246569", "#338888", "#4caba7", "#77cdc5", "#b2ece3")

MAX_PAGE_SQUARES = 25_000  # about 40 bytes each: 1 MB of page
MAX_SVG_SQUARES = 2_000  # about 15 bytes each: the picture stays below 45 kB, 60 kB in base64
_MARK_COLUMNS = ("station_id", "name", "lat", "lon", "bikes", "pedelecs")


class Squares(NamedTuple):
    """Grid cells joined into squares of `factor` × `factor` cells; one entry per square that holds a bike."""

    factor: int
    x: np.ndarray[Any, np.dtype[np.int64]]
    y: np.ndarray[Any, np.dtype[np.int64]]
    bikes_mean: np.ndarray[Any, np.dtype[np.float64]]
    stations: np.ndarray[Any, np.dtype[np.int64]]
    cells: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def density_per_km2(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Mean bikes per square kilometre of the whole square."""
        return self.bikes_mean / (self.factor * CELL_SIDE_M / 1000) ** 2


def join_cells(cells: pa.Table, max_squares: int, factor: int = 1) -> Squares:
    """Join cells into squares of `factor` · 2ⁿ cells a side, n as small as `max_squares` allows."""
    while True:
        x = cells["cell_x"].to_numpy().astype(np.int64) // factor
        y = cells["cell_y"].to_numpy().astype(np.int64) // factor
        keys, square_of = np.unique((x << 32) | y, return_inverse=True)
        if len(keys) <= max_squares:
            break
        factor *= 2

    def total(column: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
        return np.bincount(square_of, weights=column, minlength=len(keys))

    return Squares(
        factor=factor,
        x=keys >> 32,
        y=keys & 0xFFFFFFFF,
        bikes_mean=total(cells["bikes_mean"].to_numpy()),
        stations=total(cells["stations"].to_numpy()).astype(np.int64),
        cells=total(None),
    )


def class_breaks(highest: float, classes: int = 6) -> list[float]:
    """Lower limits of all classes but the first: 1-2-5 numbers, the last one not above `highest`."""
    ladder = [
        mantissa * 10.0**exponent if exponent >= 0 else mantissa / 10.0**-exponent
        for exponent in range(-6, 9)
        for mantissa in (1, 2, 5)
    ]
    top = max((i for i, step in enumerate(ladder) if step <= highest), default=0)
    first = max(top - classes + 2, 0)
    return ladder[first : first + classes - 1]


def render_density_map(
    grid: DensityGrid,
    stations: pa.Table,
    *,
    as_of: datetime,
    area: ServiceArea,
    title: str | None = None,
) -> str:
    """Draw the grid and the newest snapshot as one HTML page.

    The page is self-contained. It loads nothing from the network, except for OpenStreetMap tiles after the reader has
    ticked "Street map". Bikes outside the area are counted but not drawn. Names go into the page as JSON data, and from
    there into the DOM as text, never as markup.

    Args:
        grid: The density, over any number of snapshots.
        stations: The newest snapshot's rows: `station_id`, `name`, `lat`, `lon` (WGS 84 degrees), `bikes`,
            `spaces`, `total_docks`, `record_type`, `pedelecs`, `outside_service_area`.
        as_of: Time of the newest snapshot, with a zone; shown in the city's.
        area: The service area, the same as the grid's.
        title: Heading of the page; None: one with the name of the city.

    Returns:
        The HTML, below 2 MB for any grid.

    Raises:
        ValueError: `as_of` has no zone.
    """
    if as_of.tzinfo is None:
        raise ValueError("as_of has no time zone")
    city = this_city()
    local = as_of.astimezone(city.zone)
    title = html.escape(title or f"Bike density, {city.name}")
    inside = inside_area(stations, area)
    drawn, outside = stations.filter(pa.array(inside)), stations.filter(pa.array(~inside))
    is_bike = pc.equal(drawn["record_type"], "bike")
    docked, free = drawn.filter(pc.invert(is_bike)), drawn.filter(is_bike)

    script, style = ";\n".join(map_scripts().values()), "\n".join(map_styles().values())
    policy = (
        f"default-src 'none'; script-src {_csp_hash(script)}; style-src {_csp_hash(style)}; "
        f"img-src data: {TILE_HOST}; base-uri 'none'; form-action 'none'"
    )
    body = map_body(
        title=title,
        as_of_iso=local.isoformat(),
        as_of=f"{local:%Y-%m-%d %H:%M %Z}",
        snapshots=f"mean of {_count(grid.snapshot_count, 'snapshot')}",
        station_count=f"{docked.num_rows:,}",
        docked_bikes=f"{_sum(docked['bikes']):,}",
        free_bikes=f"{_sum(free['bikes']):,}",
        footer=f"{grid.cells.num_rows:,} cells of 1000 m² held a bike. Drawn with Leaflet 1.9.4.",
        bikes_outside=f"{_sum(outside['bikes']):,}",
    )
    return Template(_page_file("template.html")).substitute(
        policy=policy,
        style=style,
        script=script,
        data=json_for_script(_page_data(grid, docked, free, area)),
        licence=html.escape(leaflet_licence()),
        title=title,
        body=body,
    )


def map_scripts() -> dict[str, str]:
    """The scripts by file name, in order; they define `drawBikeMap`."""
    return {"leaflet.js": _page_file("leaflet.js").partition("//# sourceMappingURL")[0], "map.js": _page_file("map.js")}


def map_styles() -> dict[str, str]:
    """The styles by file name; they load no images."""
    leaflet = re.sub(r"url\(images/[^)]*\)", "none", _page_file("leaflet.css"))
    return {"leaflet.css": leaflet} | {name: _page_file(name) for name in ("tokens.css", "marks.css", "map.css")}


def map_body(**texts: str) -> str:
    """The elements that `drawBikeMap` fills; `texts` are escaped."""
    return Template(_page_file("body.html")).substitute(texts, zone=this_city().zone.key)


def leaflet_licence() -> str:
    """To be distributed with Leaflet."""
    return _page_file("leaflet-LICENSE.txt")


def _page_data(grid: DensityGrid, docked: pa.Table, free: pa.Table, area: ServiceArea) -> dict[str, Any]:
    """The data for `map.js`; rows as lists, because field names would double the page."""
    return density_data(grid.cells, area) | {
        "stations": _rows(
            *(docked[name].to_pylist() for name in (*_MARK_COLUMNS, "spaces", "total_docks", "record_type"))
        ),
        "bikes": _rows(*(free[name].to_pylist() for name in _MARK_COLUMNS)),
    }


def density_data(cells: pa.Table, area: ServiceArea) -> dict[str, Any]:
    """The part of the map's data from the cells (`CELL_SCHEMA`, any order) and the area."""
    squares = join_cells(cells, MAX_PAGE_SQUARES)
    by_position = cells.sort_by([("cell_x", "ascending"), ("cell_y", "ascending")])  # as for the squares
    return {
        "area": [area.lat_min, area.lon_min, area.lat_max, area.lon_max],
        "cellDegrees": cell_size_degrees(area),
        "cellSide": CELL_SIDE_M,
        "factor": squares.factor,
        "ramps": {"light": RAMP_ON_LIGHT, "dark": RAMP_ON_DARK},
        "tiles": TILE_HOST + "/{z}/{x}/{y}.png",
        # x, y, mean bikes, most bikes at once (null for joined cells), stations, cells
        "squares": _rows(
            squares.x.tolist(),
            squares.y.tolist(),
            np.round(squares.bikes_mean, 4).tolist(),
            by_position["bikes_max"].to_pylist() if squares.factor == 1 else [None] * len(squares.x),
            squares.stations.tolist(),
            squares.cells.tolist(),
        ),
    }


def density_svg(grid: DensityGrid, area: ServiceArea, width: int = 640) -> str:
    """Draw the cells as a small picture, for example for a data URI in Dagster's metadata.

    Cells are joined into squares that are at least 9 px wide and few enough for 45 kB, 60 kB in base64.

    Args:
        grid: The density.
        area: The service area, the same as the grid's; drawn whole when the grid is empty.
        width: Width of the picture in pixels.

    Returns:
        The SVG element. North is up; one unit is one pixel.
    """
    step_lat, step_lon = cell_size_degrees(area)
    x, y = grid.cells["cell_x"].to_numpy(), grid.cells["cell_y"].to_numpy()
    if len(x) == 0:
        columns, rows = (area.lon_max - area.lon_min) / step_lon, (area.lat_max - area.lat_min) / step_lat
        x, y = np.array([0, int(columns)]), np.array([0, int(rows)])
    margin, legend_height = 12.0, 46.0
    span = max(int(np.ptp(x)), int(np.ptp(y))) + 1
    factor = 1
    while factor * (width - 2 * margin) / span < 9:
        factor *= 2
    squares = join_cells(grid.cells, MAX_SVG_SQUARES, factor)
    left, right = int(x.min()) // squares.factor, int(x.max()) // squares.factor + 1
    bottom, top = int(y.min()) // squares.factor, int(y.max()) // squares.factor + 1
    unit = (width - 2 * margin) / max(right - left, top - bottom)
    map_height = (top - bottom) * unit
    indent = (width - (right - left) * unit) / 2
    height = map_height + 2 * margin + legend_height

    breaks = class_breaks(float(squares.density_per_km2.max(initial=0)))
    classes = np.searchsorted(breaks, squares.density_per_km2, side="right")
    paths = "".join(
        f'<path fill="{colour}" d="'
        + "".join(
            f"M{i - left} {top - 1 - j}h1v1h-1z"
            for i, j in zip(squares.x[classes == c].tolist(), squares.y[classes == c].tolist(), strict=True)
        )
        + '"/>'
        for c, colour in enumerate(RAMP_ON_LIGHT)
    )
    swatch = 64.0
    legend = "".join(
        f'<rect x="{margin + c * swatch:.0f}" y="0" width="{swatch:.0f}" height="10" fill="{colour}"/>'
        f'<text x="{margin + c * swatch:.0f}" y="24">{f"{breaks[c - 1]:,g}" if c else "0"}</text>'
        for c, colour in enumerate(RAMP_ON_LIGHT)
    )
    side = squares.factor * CELL_SIDE_M
    label = f"Squares of {side:.0f} m, mean of {_count(grid.snapshot_count, 'snapshot')}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" role="img" '
        f'aria-label="Bikes per km². {label}" fill="#2b3a42" '
        'font-family="system-ui,sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" rx="6" fill="#f4f6f7"/>'
        f'<g transform="translate({indent:.1f} {margin}) scale({unit:.3f})" shape-rendering="crispEdges">'
        f"{paths}</g>"
        f'<g transform="translate(0 {map_height + 2 * margin:.1f})">{legend}'
        f'<text x="{margin + 6 * swatch + 10:.0f}" y="10">bikes per km²</text>'
        f'<text x="{margin:.0f}" y="40">{label}</text></g></svg>'
    )


def _page_file(name: str) -> str:
    """A file of the page, with LF as line ends as in the browser's copy (its hash depends on that)."""
    return (files("wrm_pipeline.report") / "map_page" / name).read_text(encoding="utf-8")


def json_for_script(value: object) -> str:
    """JSON that no HTML or JavaScript parser can misinterpret, whatever its strings contain."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub(r"[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _csp_hash(element_text: str) -> str:
    """The source expression that allows exactly this inline element (Content Security Policy level 2)."""
    digest = hashlib.sha256(element_text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _rows(*columns: Iterable[object]) -> list[tuple[object, ...]]:
    return list(zip(*columns, strict=True))


def _sum(counts: pa.ChunkedArray) -> int:
    return int(pc.sum(counts, min_count=0).as_py())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
