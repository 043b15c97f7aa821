"""The report in a real browser, from disk and without a network, made of a simulated week by the pipeline's jobs."""

import csv
import io
import json
import re
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from wrm_pipeline.domain.layout import partition_bounds
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.report.answers import Answers
from wrm_pipeline.report.site import PAGES, build_site
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.city import City
from wrm_pipeline_tests.fixtures.lake import Lake, build_day, run_job
from wrm_pipeline_tests.integration.chromium import ARGUMENTS, CHROMIUM, NEEDS_CHROMIUM

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

pytestmark = [pytest.mark.integration, NEEDS_CHROMIUM]
LAST_DAY = date(2025, 8, 21)
# Eight days, so that the last one has an earlier day of its kind to be compared with.
DAYS = [LAST_DAY - timedelta(days=n) for n in range(7, -1, -1)]
IMG = '<img src=x onerror=alert(1)>"'
FORMULA = '=HYPERLINK("http://x","y")'
SCRIPT = "</script><script>alert(1)</script>"
HOSTILE = {"15003": IMG, "15004": FORMULA, "15005": SCRIPT}
MOST_BYTES = 6_000_000


def body(at: datetime) -> bytes:
    """The simulated city, with hostile names on three stations."""
    lines = CITY.snapshot(at).decode().split("\n")
    for i, text in enumerate(lines):
        station = text.partition(",")[0]
        if station in HOSTILE:
            row = next(csv.reader([text]))
            row[2] = HOSTILE[station]
            out = io.StringIO()
            csv.writer(out, lineterminator="").writerow(row)
            lines[i] = out.getvalue()
    return "\n".join(lines).encode()


CITY = City(seed=1)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site: 8 simulated days, processed and analysed by the jobs."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WRM_DATA_DIR", str(folder / "data"))
        patch.setenv("DAGSTER_HOME", str(folder))
        lake = Lake(load_settings())
        for day in DAYS:
            start, end = partition_bounds(day)
            # Departures are seen between snapshots at most 15 minutes apart; the other days need not have them.
            step = timedelta(minutes=15 if day in (DAYS[0], LAST_DAY) else 60)
            for n in range((end - start) // step):
                at = start + n * step + timedelta(seconds=2)
                lake.put_raw(at, body(at))
            build_day(day)
        run_job("wrm_analytics_job")
        return lake.settings.reports_dir / "site"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def offline(browser):
    """Opens contexts without a network; whatever goes wrong in one of their pages fails the test."""

    @contextmanager
    def opened(folder, width=1280, height=800, scheme="light", locale="en-GB"):
        trouble = []
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            locale=locale,
            offline=True,
            reduced_motion="reduce",
        )
        context.on("console", lambda message: trouble.append(f"console {message.type}: {message.text}"))
        context.on("weberror", lambda error: trouble.append(f"error: {error.error}"))
        context.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
        context.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        context.on(
            "request", lambda request: None if request.url.startswith((folder.as_uri(), "data:", "blob:"))
            else trouble.append(f"asked for {request.url}"),
        )  # fmt: skip
        page = context.new_page()
        try:
            yield page
        finally:
            context.close()
        assert trouble == []

    return opened


def go(page, folder, name, fragment="", query=""):
    page.goto(f"{(folder / PAGES[name].file).as_uri()}{query}{fragment and '#' + fragment}")
    page.locator("#built:not(:empty)").wait_for(state="attached")


def painted(page, selector):
    """Whether each canvas holds pixels of every colour that its chart draws with."""
    return page.evaluate(
        """selector => [...document.querySelectorAll(selector)].map((canvas) => {
          const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          const found = new Set();
          for (let i = 0; i < pixels.length; i += 4)
            if (pixels[i + 3] === 255) found.add(`rgb(${pixels.slice(i, i + 3).join(', ')})`);
          return canvas.dataset.colours.split(';').filter((colour) => found.has(colour)).length;
        })""",
        selector,
    )


def marks(page, name):
    """How many marks of each kind a page has drawn."""
    count = lambda selector: page.locator(selector).count()  # noqa: E731
    if name == "city":
        drawn = page.evaluate("window.wrmMap")
        return {kind: drawn[kind] for kind in ("stations", "bikes", "squares")}
    if name == "lineage":
        return {"nodes": count(".node"), "edges": count(".edge"), "rows": count("#list tbody tr")}
    if name == "catalog":
        return {"entries": count(".entry"), "columns": count(".entry tbody tr")}
    if name == "stations":
        return {"rows": count("#table tbody tr")}
    if name == "good":
        return {"rows": count("#feeds tbody tr")}
    return {"charts": len(page.evaluate("window.wrmCharts")), "points": min(
        sum(chart["points"]) for chart in page.evaluate("window.wrmCharts"))}  # fmt: skip


FEWEST = {
    "city": {"stations": 200, "bikes": 50, "squares": 50},
    "day": {"charts": 5, "points": 24, "painted": 5},
    "stations": {"rows": 250},
    "rides": {"charts": 1, "points": 24, "painted": 1},
    "plan": {"charts": 1, "points": 24, "painted": 1},
    "good": {"rows": 8},
    "quality": {"charts": 2, "points": 8, "painted": 1},
    "catalog": {"entries": 20, "columns": 150},
    "lineage": {"nodes": 10, "edges": 10, "rows": 10},
}


def serious_findings(page):
    """What axe-core holds against the page; it may not fetch the styles, as the page's policy forbids all fetching.

    Of each table only the first rows stay: the others are alike, and axe looks at every cell.
    """
    page.evaluate(
        "document.querySelectorAll('tbody').forEach((body) => [...body.rows].slice(8).forEach((row) => row.remove()))"
    )
    found = axe.Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    return [
        (finding["id"], [node["html"][:200] for node in finding["nodes"]][:3], finding["nodes"][0]["failureSummary"])
        for finding in found
        if finding["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("width", "scheme", "locale"), [(1280, "light", "en-GB"), (390, "dark", "pl-PL")])
def test_every_page_draws_and_is_accessible(site, offline, width, scheme, locale):
    for name in PAGES:
        with offline(site, width, 844, scheme, locale) as page:
            go(page, site, name)
            drawn = marks(page, name)
            assert all(drawn[kind] >= FEWEST[name][kind] for kind in drawn), (name, drawn)
            # On a day without dead letters their chart has no bars.
            assert all(painted(page, ".chart canvas")[: FEWEST[name].get("painted", 0)]), name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
            assert page.locator("html").get_attribute("lang") == locale[:2]
            assert page.locator(".notice").count() == 0, page.locator(".notice").all_inner_texts()
            assert page.evaluate("[...window.wrmUntranslated]") == [], name
            assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 15_000
            assert serious_findings(page) == [], name


def test_a_station_page_is_accessible_and_shows_its_week(site, offline):
    for width, scheme in ((1280, "dark"), (390, "light")):
        with offline(site, width, 844, scheme) as page:
            go(page, site, "stations", "15006")
            assert page.locator(".heat-cell:not(:empty)").count() == 7 * 24
            shape = (page.locator(".heat tbody tr").count(), page.locator(".heat thead th").count())
            assert shape == ((7, 24) if width > 760 else (24, 7))
            assert serious_findings(page) == []
            page.get_by_role("link", name="All stations").click()
            assert page.locator("#table tbody tr").first.is_visible()


def test_a_page_with_what_it_loads_stays_small(site):
    for page in PAGES.values():
        text = (site / page.file).read_text()
        loaded = [site / path for path in re.findall(r'(?:src|href)="((?:assets|data)/[^"]+)"', text)]
        assert len(loaded) > 5
        assert sum(path.stat().st_size for path in loaded) + len(text) < MOST_BYTES


def test_the_language_is_chosen_and_remembered(site, offline):
    with offline(site) as page:
        go(page, site, "stations")
        assert page.locator("h1").first.inner_text() == "Stations"
        page.locator("#language").click()
        page.locator("html[lang=pl]").wait_for()
        assert page.locator("h1").first.inner_text() == "Stacje"
        assert re.search(r"\d,\d", page.locator("#table tbody tr td:nth-child(7)").first.inner_text())
        page.get_by_role("link", name="Dzień").click()
        page.locator("#built:not(:empty)").wait_for(state="attached")
        assert page.locator("h2").first.inner_text() == "Dzień na mapie"
        go(page, site, "quality")  # without the language in the address
        assert page.locator("h1").inner_text() == "Jakość danych"
        page.locator("#language").click()
        page.locator("html[lang=en]").wait_for()


def test_colours_can_be_chosen_against_the_system(site, offline):
    ground = "getComputedStyle(document.body).backgroundColor"
    with offline(site, scheme="light") as page:
        go(page, site, "day")
        light = page.evaluate(ground)
        page.select_option("#theme", "dark")
        assert page.evaluate(ground) != light
        assert all(colours >= 1 for colours in painted(page, ".chart canvas")), "charts follow"
        go(page, site, "lineage")
        assert page.evaluate(ground) != light


def test_a_station_is_found_on_the_map_by_search_and_by_address(site, offline):
    with offline(site) as page:
        go(page, site, "city")
        page.locator("#search").press_sequentially("wyspa slodowa")
        page.keyboard.press("Enter")
        assert page.locator(".leaflet-popup h3").inner_text() == "Wyspa Słodowa"
        page.get_by_role("link", name="The week of this station").click()
        assert page.locator("#one-h").inner_text() == "Wyspa Słodowa"
        page.get_by_role("link", name="on the map").click()
        page.locator(".leaflet-popup h3").wait_for()
        assert page.locator(".leaflet-popup h3").inner_text() == "Wyspa Słodowa"


def cells(page, column):
    return page.locator(f"#table tbody tr > :nth-child({column})").all_inner_texts()


def test_stations_sort_filter_and_are_saved_as_they_are(site, offline):
    with offline(site) as page:
        go(page, site, "stations")
        page.get_by_role("button", name="Docks", exact=True).click()
        docks = [int(text) for text in cells(page, 5)]
        assert docks == sorted(docks, reverse=True)
        assert page.locator("[data-key=total_docks]").get_attribute("aria-sort") == "descending"
        page.get_by_role("button", name="Docks", exact=True).click()
        assert [int(text) for text in cells(page, 5)] == sorted(docks)

        page.get_by_label("Show").select_option(label="empty now")
        assert set(cells(page, 3)) == {"0"}
        page.get_by_label("Show").select_option(label="all stations")
        page.get_by_label("Filter").fill("<IMG")
        assert cells(page, 1) == [IMG]
        page.get_by_label("Filter").fill("")

        with page.expect_download() as waiting:
            page.locator(".save-csv").click()
        text = Path(waiting.value.path()).read_bytes().decode("utf-8-sig")
        saved = {row["station_id"]: row for row in csv.DictReader(io.StringIO(text))}
        assert len(saved) == len(docks)
        assert saved["15003"]["name"] == IMG
        assert saved["15004"]["name"] == f"'{FORMULA}", "no program may run it"
        assert saved["15005"]["name"] == SCRIPT
        with page.expect_download() as waiting:
            page.locator(".save-json").click()
        rows = json.loads(Path(waiting.value.path()).read_bytes())
        assert {row["station_id"]: row["name"] for row in rows if row["station_id"] in HOSTILE} == HOSTILE
        assert waiting.value.suggested_filename == "stations.json"
        assert isinstance(rows[0]["bikes"], int)


def test_numbers_are_those_of_the_tables(site, offline):
    with duckdb.connect(str(site.parents[1] / "analytics.duckdb"), read_only=True) as database:
        bikes, stations = database.execute(
            "SELECT sum(bikes), count(*) FROM wrm_analytics.mv_station_latest WHERE NOT outside_service_area"
        ).fetchone()
        lines = database.execute(
            "SELECT lines_in FROM wrm_analytics.quality_accounting ORDER BY dt DESC LIMIT 1"
        ).fetchone()[0]
    with offline(site) as page:
        go(page, site, "city")
        assert page.locator("#counts dd").all_inner_texts()[:3:2] == [f"{bikes:,}", f"{stations:,}"]
        assert "wrm_analytics.mv_station_latest · refreshed" in page.locator(".source").inner_text()
        go(page, site, "quality")
        assert f"{lines:,} lines in" in page.locator("#verdict").inner_text()


def test_names_are_text_on_every_page(site, offline):
    with offline(site) as page:
        go(page, site, "city")
        for station, name in HOSTILE.items():
            page.evaluate("id => { location.hash = id; }", station)
            playwright.expect(page.locator(".leaflet-popup h3")).to_have_text(name)
        go(page, site, "stations")
        for station, name in HOSTILE.items():
            page.evaluate("id => { location.hash = id; }", station)
            playwright.expect(page.locator("#one-h")).to_have_text(name)
        for page_name in PAGES:
            go(page, site, page_name)
            assert page.locator("main img, main script").count() == 0


def test_a_day_is_compared_with_its_kind(site, offline):
    with offline(site) as page:
        go(page, site, "day")
        assert page.locator("#day").input_value() == LAST_DAY.isoformat()
        assert "Usual for that hour" in page.locator("#day-summary").inner_text()
        assert page.evaluate("window.wrmCharts[0].points") == [24, 24], "the day and the Thursday before"
        page.get_by_role("button", name="Day before").click()
        assert page.locator("#day").input_value() == DAYS[-2].isoformat()
        assert "no earlier Wednesday" in page.locator("#day-summary").inner_text()
        page.locator("#out summary").first.click()
        assert page.locator("#out tbody tr").count() == 24


def test_a_day_is_replayed_by_keyboard(site, offline):
    with duckdb.connect(str(site.parents[1] / "analytics.duckdb"), read_only=True) as database:
        bikes = database.execute(
            "SELECT sum(bikes[98]) FROM wrm_analytics.mv_station_steps WHERE dt = ?", [LAST_DAY]
        ).fetchone()[0]
    with offline(site) as page:
        go(page, site, "day")
        time, slider, play = page.locator(".replay-time"), page.locator("#replay-step"), page.locator("#replay-play")
        playwright.expect(time).to_have_text("08:00")
        assert page.locator(".small-map path.station").count() >= FEWEST["city"]["stations"]
        slider.press("ArrowRight")
        assert time.inner_text() == slider.get_attribute("aria-valuetext") == "08:05"
        assert page.locator(".replay-counts dd").first.inner_text() == f"{bikes:,}"
        slider.press(" ")
        assert play.inner_text() == "❚❚ Pause"
        playwright.expect(time).to_have_text("09:05")  # without motion, an hour at a time
        slider.press(" ")
        assert play.inner_text() == "▶ Play"
        page.evaluate("day => { location.hash = day; }", DAYS[0].isoformat())
        playwright.expect(page.locator("#replay-step")).to_have_attribute("max", "285")  # the last snapshot is at 23:45


def test_the_catalog_is_searched_and_lineage_goes_by_keyboard(site, offline):
    with offline(site) as page:
        go(page, site, "catalog")
        page.locator("#find").fill("share_empty")
        assert page.locator("#table-query_station_summary").is_visible()
        assert page.locator("#table-query_station_summary tbody tr:visible").count() == 1
        assert not page.locator("#table-view_definitions").is_visible()

        go(page, site, "lineage")
        page.locator(".node").first.focus()
        assert page.evaluate("document.activeElement.dataset.name") == "wrm_stations_raw_data"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.locator("#chosen h2").inner_text() == "bike_positions"
        assert "wrm_stations_raw_data" in page.locator("#chosen").inner_text()
        assert page.locator(".edge.chosen").count() >= 2


def test_before_the_first_run_each_page_says_what_is_missing(tmp_path, offline):
    for path, content in build_site(Answers(), ServiceArea(), datetime(2025, 8, 21, tzinfo=UTC)).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    with offline(tmp_path, 390) as page:
        for name in PAGES:
            go(page, tmp_path, name)
            notices = page.locator(".notice").all_inner_texts()
            assert notices
            assert all("Run wrm_analytics_job" in notice for notice in notices), name
        assert "catalog_tables" in notices[0]
