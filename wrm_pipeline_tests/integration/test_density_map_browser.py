"""The page in a real browser, from a file and without a network."""

import base64
import re
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from wrm_pipeline.domain.density import bike_density
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.report.density_map import render_density_map
from wrm_pipeline_tests.integration.chromium import ARGUMENTS, CHROMIUM, NEEDS_CHROMIUM

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")

pytestmark = [pytest.mark.integration, NEEDS_CHROMIUM]
AREA = ServiceArea()
AS_OF = datetime(2025, 8, 21, 13, 6, 2, tzinfo=UTC)
HOSTILE = ['<img src=x onerror=alert(1)>"', "</script><script>alert(1)</script>"]
STATIONS, BIKES, WARSAW = 200, 80, 63


def city() -> pa.Table:
    """One snapshot: stations and bikes about the market square, bikes in Warsaw."""
    rng = np.random.default_rng(5)
    count = STATIONS + BIKES + WARSAW
    station, outside = np.arange(count) < STATIONS, np.arange(count) >= STATIONS + BIKES
    names = [f"Stacja {i}" for i in range(STATIONS)] + [f"BIKE {i}" for i in range(BIKES + WARSAW)]
    names[:4] = ["Dworzec Główny, południe", *HOSTILE, "Łąkowa"]
    bikes = np.where(station, rng.integers(0, 25, count), 1)
    bikes[:4] = 30
    return pa.table(
        {
            "file_timestamp": pa.array([AS_OF] * count, pa.timestamp("us", "UTC")),
            "station_id": [f"{15000 + i}" if station[i] else f"fb{i}" for i in range(count)],
            "name": names,
            "lat": np.where(outside, 52.27, np.clip(rng.normal(51.11, 0.03, count), 51.03, 51.19)),
            "lon": np.where(outside, 21.03, np.clip(rng.normal(17.03, 0.05, count), 16.9, 17.16)),
            "bikes": bikes.astype(np.int32),
            "spaces": rng.integers(0, 10, count).astype(np.int32),
            "total_docks": np.where(station, rng.integers(0, 20, count), 0).astype(np.int32),
            "pedelecs": pa.nulls(count, pa.int32()),
            "record_type": np.where(station, "station", "bike"),
            "outside_service_area": outside,
        }
    )


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_url(tmp_path_factory):
    rows = city()
    path = tmp_path_factory.mktemp("map") / "map.html"
    path.write_text(render_density_map(bike_density(rows, AREA), rows, as_of=AS_OF, area=AREA), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(browser, page_url):
    """Opens the page offline; at the end of the test nothing may have gone wrong in it."""
    contexts, trouble = [], []

    def opened(width=1280, height=800, scheme="light", url=page_url):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
        page.on(
            "request", lambda request: None if request.url == url or request.url.startswith("data:")
            else trouble.append(f"asked for {request.url}"),
        )  # fmt: skip
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(url)
        page.wait_for_function("window.wrmMap")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def state(page):
    return page.evaluate("window.wrmMap")


def coloured_pixels(page):
    """Pixels that the density canvas holds."""
    return page.evaluate(
        """async () => {
          // Leaflet paints in the next animation frame.
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const canvas = document.querySelector('.leaflet-density-pane canvas');
          const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          let count = 0;
          for (let i = 3; i < pixels.length; i += 4) count += pixels[i] > 0;
          return count;
        }"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_everything_is_drawn(open_page, width, height, scheme):
    page = open_page(width, height, scheme)
    drawn = state(page)
    assert drawn["cells"] == bike_density(city(), AREA).cells.num_rows
    assert (drawn["stations"], drawn["bikes"]) == (STATIONS, BIKES)
    assert 51.05 < drawn["center"]["lat"] < 51.17
    assert 16.95 < drawn["center"]["lng"] < 17.12
    assert drawn["zoom"] >= 10
    assert page.locator("#outside").inner_text() == str(WARSAW)
    assert coloured_pixels(page) > 1_000
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "no sideways scrolling"
    assert stations_off_view(page) == 0


def stations_off_view(page):
    """Stations with bikes that the map's frame does not hold (an empty one has no cell to be fitted to)."""
    return page.evaluate(
        """() => {
          const frame = document.querySelector('#map').getBoundingClientRect();
          return [...document.querySelectorAll('path.station:not(.fill-0)')].filter((path) => {
            const box = path.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
            return box.width < 3 || x < frame.left || x > frame.right || y < frame.top || y > frame.bottom;
          }).length;
        }"""
    )


def test_a_circle_of_the_legend_is_dashed_where_that_of_the_map_is(open_page):
    dashed = open_page().evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('#fill .mark')].map((mark) =>
          [mark.parentElement.textContent, getComputedStyle(mark).borderStyle]))"""
    )
    assert {name for name, style in dashed.items() if style == "dashed"} == {"docks unknown"}


def test_layers_can_be_switched(open_page):
    page = open_page()
    for name, counts in [("density", ["cells", "squares"]), ("stations", ["stations"]), ("bikes", ["bikes"])]:
        before = state(page)
        box = page.locator(f"[data-layer={name}]")
        box.uncheck()
        assert all(state(page)[count] == 0 for count in counts)
        if name == "density":
            assert coloured_pixels(page) == 0
        box.check()
        assert all(state(page)[count] == before[count] > 0 for count in counts)


def test_the_street_map_is_off_without_a_connection(open_page):
    page = open_page()
    assert page.locator("[data-layer=tiles]").is_disabled()
    assert page.locator("#tiles-status").inner_text() == "No connection, so no street map."
    assert page.locator(".leaflet-tile").count() == 0


@pytest.mark.parametrize("reachable", [True, False])
def test_the_street_map_is_asked_for_only_when_ticked(browser, page_url, reachable):
    asked = []
    pixel = base64.b64decode("R0lGODlhAQABAIAAAMjYyP///ywAAAAAAQABAAACAkQBADs=")
    context = browser.new_context()

    def tile_server(route):
        asked.append(route.request.url)
        return route.fulfill(body=pixel, content_type="image/gif") if reachable else route.abort()

    context.route(re.compile("^https?:"), tile_server)
    page = context.new_page()
    page.goto(page_url)
    page.wait_for_function("window.wrmMap")
    assert asked == []
    page.locator("[data-layer=tiles]").click()
    if reachable:
        page.locator(".leaflet-tile-loaded").first.wait_for()
        assert "OpenStreetMap" in page.locator(".leaflet-control-attribution").inner_text()
    else:
        page.get_by_text("The street map cannot be reached.").wait_for()
        assert page.locator(".leaflet-tile").count() == 0
        assert not page.locator("[data-layer=tiles]").is_checked()
    assert asked
    assert all(url.startswith("https://tile.openstreetmap.org/") for url in asked)
    context.close()


def test_squares_follow_the_zoom_and_the_choice(open_page):
    page = open_page()
    coarse = state(page)
    page.select_option("#square", "1")
    fine = state(page)
    assert fine["squares"] == fine["cells"] == coarse["cells"] > coarse["squares"]
    assert page.locator("#square-size").inner_text() == "32 m"
    page.select_option("#square", "0")
    page.locator("#map").focus()
    for _ in range(5):
        zoom = state(page)["zoom"]
        page.keyboard.press("Equal")
        page.wait_for_function("zoom => window.wrmMap.zoom > zoom", arg=zoom)
    assert state(page)["squares"] > coarse["squares"]
    page.click("#home")
    page.wait_for_function("zoom => window.wrmMap.zoom === zoom", arg=coarse["zoom"])


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("dworzec glowny", "Dworzec Główny, południe"),
        ("ŁĄKOWA", "Łąkowa"),
        ("lakowa", "Łąkowa"),
        ("15003", "Łąkowa"),
    ],
)
def test_search_shows_the_station(open_page, typed, name):
    page = open_page()
    page.locator("#search").press_sequentially(typed)
    assert page.locator("#results li").count() == 1
    assert page.locator("#search-status").inner_text() == "1 station"
    page.keyboard.press("Enter")
    assert page.locator(".leaflet-popup h3").inner_text() == name
    assert state(page)["found"] == name
    assert state(page)["zoom"] >= 16
    wanted = city().to_pylist()[["Dworzec Główny, południe", *HOSTILE, "Łąkowa"].index(name)]
    assert abs(state(page)["center"]["lat"] - wanted["lat"]) < 0.005
    assert abs(state(page)["center"]["lng"] - wanted["lon"]) < 0.005


def test_search_works_by_keyboard_through_the_results(open_page):
    page = open_page()
    page.locator("#search").press_sequentially("stacja 1")
    assert page.locator("#results li").count() == 8
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    chosen = page.evaluate("document.activeElement.firstChild.textContent")
    page.keyboard.press("Enter")
    assert state(page)["found"] == chosen
    page.fill("#search", "nowhere at all")
    assert page.locator("#search-status").inner_text() == "0 stations"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_it_is(open_page, name):
    page = open_page()
    page.fill("#search", name)
    assert page.locator("#results li span").first.inner_text() == name
    page.keyboard.press("Enter")
    assert page.locator(".leaflet-popup h3").inner_text() == name
    assert name in page.locator(".name").all_inner_texts(), "its label on the map"
    page.locator("path.station.found").hover()
    assert page.locator(".leaflet-tooltip").inner_text() == name
    page.wait_for_timeout(100)
    assert page.locator("img, #map script").count() == 0


def test_a_square_tells_its_numbers(open_page):
    page = open_page()
    for name in ("stations", "bikes"):
        page.locator(f"[data-layer={name}]").uncheck()
    page.locator("#search").press_sequentially("dworzec")
    page.keyboard.press("Enter")  # shows the stations again, and centres on a cell that holds 30 bikes
    page.locator("[data-layer=stations]").uncheck()
    page.wait_for_timeout(300)
    assert state(page)["stations"] == 0
    station = city().slice(0, 1).to_pylist()[0]
    lat, lon = station["lat"], station["lon"]
    frame = page.locator("#map").bounding_box()
    centre = state(page)["center"]
    scale = 256 * 2 ** state(page)["zoom"] / 360
    page.mouse.click(
        frame["x"] + frame["width"] / 2 + (lon - centre["lng"]) * scale,
        frame["y"] + frame["height"] / 2 - (lat - centre["lat"]) * scale / np.cos(np.radians(lat)),
    )
    popup = page.locator(".leaflet-popup-content")
    popup.wait_for()
    assert "32 m × 32 m" in popup.inner_text()
    assert "30,000" in popup.inner_text(), "30 bikes in 0.001 km²"


def test_dark_mode_may_change_while_the_page_is_open(open_page):
    page = open_page(scheme="light")
    swatch = "getComputedStyle(document.querySelector('#classes span')).backgroundColor"
    light = page.evaluate(swatch)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"light => {swatch} !== light", arg=light)
    assert coloured_pixels(page) > 1_000


def test_controls_have_names(open_page):
    page = open_page()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button, a[role=button]')].filter(
          (it) => !it.labels?.length && !it.getAttribute('aria-label') && !it.textContent.trim()).length"""
    )
    assert unnamed == 0
    assert page.locator("html").get_attribute("lang") == "en"


def test_an_empty_snapshot_still_shows_the_area(open_page, tmp_path):
    rows = city().slice(0, 0)
    path = tmp_path / "empty.html"
    path.write_text(render_density_map(bike_density(rows, AREA), rows, as_of=AS_OF, area=AREA), encoding="utf-8")
    drawn = state(open_page(url=path.as_uri()))
    assert (drawn["cells"], drawn["stations"], drawn["bikes"]) == (0, 0, 0)
    assert abs(drawn["center"]["lat"] - 51.15) < 0.01
