"""The page and the picture as text: what is in them, what may not be, how large they get."""

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pytest

from wrm_pipeline.domain.density import CELL_SCHEMA, DensityGrid, bike_density
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.report.density_map import (
    MAX_PAGE_SQUARES,
    RAMP_ON_DARK,
    RAMP_ON_LIGHT,
    class_breaks,
    density_svg,
    join_cells,
    render_density_map,
)

AREA = ServiceArea()
AS_OF = datetime(2025, 8, 21, 13, 6, 2, tzinfo=UTC)
HOSTILE = [
    '<img src=x onerror=alert(1)>"',
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "a\u2028b & $title",
]


def snapshot(*names):
    """One station per name, a bike in the city, one in Warsaw."""
    rows = [
        {
            "file_timestamp": AS_OF, "station_id": f"{15001 + i}", "name": name, "lat": 51.1 + i / 1000,
            "lon": 17.03, "bikes": 4 + i, "spaces": 3, "total_docks": 12, "pedelecs": None,
            "record_type": "station", "outside_service_area": False,
        }
        for i, name in enumerate(names)
    ]  # fmt: skip
    free = {**rows[0], "bikes": 1, "spaces": 0, "record_type": "bike"}
    rows.append({**free, "station_id": "fb1", "name": "BIKE 1", "lat": 51.12})
    rows.append(
        {
            **free,
            "station_id": "fb2",
            "name": "BIKE 2",
            "lat": 52.27,
            "lon": 21.03,
            "outside_service_area": True,
        }
    )
    table = pa.Table.from_pylist(rows)
    fixed = {"file_timestamp": pa.timestamp("us", "UTC"), "bikes": pa.int32(), "pedelecs": pa.int32()}
    return table.cast(pa.schema([pa.field(f.name, fixed.get(f.name, f.type)) for f in table.schema]))


def page(*names, **kwargs):
    rows = snapshot(*names)
    return render_density_map(bike_density(rows, AREA), rows, as_of=AS_OF, area=AREA, **kwargs)


def many_cells(count):
    """A grid with a bike in each of `count` cells in random places."""
    rng = np.random.default_rng(1)
    places = rng.choice(1300 * 1050, count, replace=False)
    ones = np.ones(count)
    columns = dict.fromkeys(CELL_SCHEMA.names, ones) | {"cell_x": places % 1300, "cell_y": places // 1300}
    cells = pa.table({f.name: pa.array(columns[f.name]).cast(f.type) for f in CELL_SCHEMA})
    return DensityGrid(cells, 1, count, 0, count, 0, 0)


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


def embedded(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_fetches_nothing():
    parsed = Page(page("Rynek"))
    for tag, attributes in parsed.elements:
        assert tag not in ("iframe", "img", "object", "embed", "base")
        assert "src" not in attributes
        if tag == "link":
            assert attributes["href"] == "data:,"
    assert [tag for tag, _ in parsed.elements].count("script") == 2
    style = next(text for text in parsed.texts if ".leaflet-pane" in text)
    assert "@import" not in style
    assert re.findall(r"url\((?!#)[^)]*\)", style) == []
    assert "sourceMappingURL" not in page("Rynek")


def test_the_policy_allows_exactly_the_embedded_script_and_style():
    parsed = Page(page("Rynek"))
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    style, _, script = parsed.texts
    for directive, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_data(name):
    text = page(name)
    assert name not in text
    assert embedded(text)["stations"][0][1] == name
    assert len(Page(text).elements) == len(Page(page("Rynek")).elements), "the name made no element"


def test_no_line_separator_and_no_markup_in_the_data():
    raw = re.search(r'id="data">(.*?)</script>', page(*HOSTILE), re.DOTALL)[1]
    assert not set(raw) & set("<>&\u2028\u2029")


def test_the_title_is_escaped():
    text = page("Rynek", title="<b>Tom & Jerry</b>")
    assert "<b>" not in text
    assert text.count("&lt;b&gt;Tom &amp; Jerry&lt;/b&gt;") == 2


def test_what_the_page_says():
    text = page("Rynek", "Plac Grunwaldzki")
    assert '<html lang="en">' in text
    as_of = '<time datetime="2025-08-21T15:06:02+02:00">2025-08-21 15:06 CEST</time>'
    assert f'{as_of} <span translate="no">(Europe/Warsaw)</span>' in text
    assert "mean of 1 snapshot<" in text
    for term, value in [("Bikes at stations", 9), ("Free-standing", 1), ("Stations", 2)]:
        assert f"<dt>{term}</dt><dd>{value}</dd>" in text
    assert '<dd id="outside">1</dd>' in text
    data = embedded(text)
    assert (len(data["stations"]), len(data["bikes"]), len(data["squares"])) == (2, 1, 3)
    assert "Copyright (c) 2010-2023, Volodymyr Agafonkin" in text, "Leaflet's licence comes along"


def test_winter_time_and_naive_time():
    rows = snapshot("Rynek")
    grid = bike_density(rows, AREA)
    winter = datetime(2025, 1, 1, 23, 30, tzinfo=UTC)
    assert "2025-01-02 00:30 CET" in render_density_map(grid, rows, as_of=winter, area=AREA)
    with pytest.raises(ValueError, match="time zone"):
        render_density_map(grid, rows, as_of=winter.replace(tzinfo=None), area=AREA)


def test_no_rows():
    rows = snapshot("Rynek").slice(0, 0)
    grid = bike_density(rows, AREA)
    text = render_density_map(grid, rows, as_of=AS_OF, area=AREA)
    assert embedded(text)["squares"] == []
    ET.fromstring(density_svg(grid, AREA))


@pytest.mark.parametrize("count", [0, 2_000, 400_000])
def test_sizes(count):
    grid = many_cells(count)
    rows = snapshot(*(f"Ulica Bardzo Długa {i} / Aleja Jeszcze Dłuższa" for i in range(500)))
    assert len(render_density_map(grid, rows, as_of=AS_OF, area=AREA).encode()) < 2_000_000
    svg = density_svg(grid, AREA)
    assert len(base64.b64encode(svg.encode())) + len("data:image/svg+xml;base64,") < 60_000


def test_joined_cells_lose_nothing():
    grid = many_cells(200_000)
    squares = join_cells(grid.cells, MAX_PAGE_SQUARES)
    assert squares.factor > 1
    assert len(squares.x) <= MAX_PAGE_SQUARES
    assert squares.cells.sum() == squares.bikes_mean.sum() == 200_000


def test_most_bikes_at_once_belongs_to_its_cell():
    rows = snapshot("a", "b", "c")
    assert sorted(square[2:4] for square in embedded(page("a", "b", "c"))["squares"]) == [
        [1, 1],
        [4, 4],
        [5, 5],
        [6, 6],
    ]
    assert bike_density(rows, AREA).cells["bikes_max"].to_pylist() == [6, 5, 4, 1]


def test_svg_draws_every_square_once_in_a_colour_of_the_ramp():
    grid = many_cells(1_500)
    root = ET.fromstring(density_svg(grid, AREA, width=500))
    assert root.get("width") == "500"
    paths = root.findall(".//{http://www.w3.org/2000/svg}path")
    assert [path.get("fill") for path in paths] == list(RAMP_ON_LIGHT)
    corners = [corner for path in paths for corner in re.findall(r"M\d+ \d+", path.get("d"))]
    assert len(corners) == len(set(corners)) <= 1_500


@pytest.mark.parametrize(
    ("highest", "breaks"),
    [
        (234, [10, 20, 50, 100, 200]),
        (45_000, [1000, 2000, 5000, 10_000, 20_000]),
        (0.05, [0.002, 0.005, 0.01, 0.02, 0.05]),
    ],
)
def test_class_breaks(highest, breaks):
    assert class_breaks(highest) == breaks


@pytest.mark.parametrize("ramp", [RAMP_ON_LIGHT, RAMP_ON_DARK])
def test_the_ramps_are_even_in_perceived_lightness(ramp):
    def lightness(colour):
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        r, g, b = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        cones = (
            0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
            0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
            0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
        )
        return np.dot([0.2104542553, 0.7936177850, -0.0040720468], np.cbrt(cones))

    steps = np.diff([lightness(colour) for colour in ramp])
    assert np.ptp(steps) < 0.02
    assert abs(steps.mean()) > 0.1


def test_leaflet_is_the_released_file():
    folder = files("wrm_pipeline.report") / "map_page"
    released = {
        "leaflet.js": "db49d009c841f5ca34a888c96511ae936fd9f5533e90d8b2c4d57596f4e5641a",
        "leaflet.css": "a7837102824184820dfa198d1ebcd109ff6d0ff9a2672a074b9a1b4d147d04c6",
    }
    for name, digest in released.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, f"{name} is not leaflet@1.9.4's"
