"""The files of the site: pages, shared files, and data as scripts, since `file://` does not permit fetch."""

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from importlib.resources import files
from string import Template
from typing import Any

from wrm_pipeline.domain.city import this_city
from wrm_pipeline.domain.density import CELL_SCHEMA
from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.report.answers import Answers, plain
from wrm_pipeline.report.datasets import CELLS, DATASETS
from wrm_pipeline.report.density_map import (
    TILE_HOST,
    density_data,
    json_for_script,
    leaflet_licence,
    map_body,
    map_scripts,
    map_styles,
)
from wrm_pipeline.report.replay import STEPS, replays


@dataclass(frozen=True, slots=True)
class _Page:
    """One page: its name is also that of its script, `assets/<name>.js`.

    `data` are the files of `data/` that it loads, `uses` what it needs in addition to the shared files.
    """

    title: str
    file: str
    data: tuple[str, ...]
    uses: tuple[str, ...] = ()


_CHARTS = ("uplot.js", "charts.js")
_MAP = ("leaflet.js", "smallmap.js")
# In the order of the menu.
PAGES: Mapping[str, _Page] = {
    "city": _Page("City now", "index.html", ("city",), tuple(map_scripts())),
    "day": _Page("A day", "day.html", ("day",), (*_CHARTS, *_MAP, "days.js", "replay.js")),
    "stations": _Page("Stations", "stations.html", ("stations", "weeks", "quality"), ("tables.js",)),
    "rides": _Page("Rides", "rides.html", ("rides",), (*_CHARTS, *_MAP, "days.js", "tables.js")),
    "plan": _Page("Plan", "plan.html", ("plan",), (*_CHARTS, *_MAP, "tables.js")),
    "good": _Page("How good are we", "good.html", ("good",), (*_CHARTS, "tables.js")),
    "quality": _Page("Data quality", "quality.html", ("quality",), (*_CHARTS, "tables.js")),
    "catalog": _Page("Catalog", "catalog.html", ("catalog",), ("tables.js",)),
    "lineage": _Page("Lineage", "lineage.html", ("lineage",), ("tables.js",)),
}
_STYLES = {"city": ("leaflet.css", "tokens.css", "marks.css", "map.css", "site.css")}
_SHARED = (
    "site.css", "words.js", "site.js", "uplot.js", "uplot.css", "uplot-LICENSE.txt", "charts.js", "tables.js",
    "smallmap.js", "days.js", "replay.js",
)  # fmt: skip


def build_site(answers: Answers, area: ServiceArea, built_at: datetime) -> dict[str, bytes]:
    """All files of the site by path; a missing table is not an error.

    Args:
        answers: The database's answers; missing tables are in `answers.missing` afterwards.
        area: The service area, the same as the density's.
        built_at: Aware; shown on each page.

    Returns:
        Paths relative to the site's folder, and contents in UTF-8. Except for `data/`, they only change
        with the code and the city.
    """
    site = {f"assets/{name}": text for name, text in (map_scripts() | map_styles()).items()}
    site |= {f"assets/{name}": _file("assets", name) for name in (*_SHARED, *(f"{page}.js" for page in PAGES))}
    site["assets/leaflet-LICENSE.txt"] = leaflet_licence()
    site |= {page.file: _html(name, page) for name, page in PAGES.items()}
    site |= {f"data/{name}.js": text for name, text in _data(answers, area).items()}
    city, about = this_city(), {"built": plain(built_at), "missing": sorted(answers.missing)}
    box = [area.lat_min, area.lon_min, area.lat_max, area.lon_max]
    site["data/about.js"] = _script("about", about | {"city": city.name, "zone": city.zone.key, "area": box})
    return {path: text.encode() for path, text in site.items()}


def _html(name: str, page: _Page) -> str:
    scripts = ["assets/words.js", "data/about.js", *(f"data/{data}.js" for data in page.data), "assets/site.js"]
    scripts += [f"assets/{script}" for script in (*page.uses, f"{name}.js")]
    styles = _STYLES.get(name) or (
        *(["uplot.css"] if "uplot.js" in page.uses else []), *(["leaflet.css"] if "leaflet.js" in page.uses else []),
        "tokens.css", *(["marks.css"] if "leaflet.js" in page.uses else []), "site.css",
    )  # fmt: skip
    links = "\n".join(
        f'    <li><a href="{other.file}"{" aria-current=page" if other is page else ""}>{other.title}</a></li>'
        for other in PAGES.values()
    )
    return Template(_file("pages", "layout.html")).substitute(
        name=name,
        title=html.escape(page.title),
        city=html.escape(this_city().name),
        zone=this_city().zone.key,
        links=links,
        pictures=f" {TILE_HOST}" if name == "city" else "",
        styles="\n".join(f'<link rel="stylesheet" href="assets/{style}">' for style in styles),
        scripts="\n".join(f'<script defer src="{script}"></script>' for script in scripts),
        main=_city_main() if name == "city" else _file("pages", f"{name}.html"),
    )


def _city_main() -> str:
    """The map's elements; `city.js` writes the numbers."""
    numbers = dict.fromkeys(("as_of_iso", "as_of", "station_count", "docked_bikes", "free_bikes", "bikes_outside"), "")
    return map_body(title="City now", snapshots="mean of the day", footer="Drawn with Leaflet 1.9.4.", **numbers)


def _data(answers: Answers, area: ServiceArea) -> dict[str, str]:
    refreshed = answers.refreshed()
    values: dict[str, dict[str, Any]] = {
        file: {name: answers.page_value(dataset, refreshed) for name, dataset in datasets.items()}
        for file, datasets in DATASETS.items()
    }
    cells = answers.rows(CELLS)
    values["city"]["cells"] = answers.about(CELLS, refreshed) | {"columns": [], "rows": []}
    values["city"]["density"] = density_data(CELL_SCHEMA.empty_table() if cells is None else cells, area)
    days = replays(answers.rows(STEPS))
    values["day"]["steps"] = answers.about(STEPS, refreshed) | {"columns": ["dt"], "rows": [[plain(dt)] for dt in days]}
    scripts = {file: _script(file, value) for file, value in values.items()}
    return scripts | {f"replay-{dt}": _replay_script(dt, day) for dt, day in days.items()}


def _script(name: str, value: Any) -> str:
    return f"(window.WRM ??= {{}}).{name} = {json_for_script(value)};\n"


def _replay_script(dt: date, day: Any) -> str:
    return f'((window.WRM ??= {{}}).replays ??= {{}})["{dt}"] = {json_for_script(day)};\n'


def _file(folder: str, name: str) -> str:
    return (files("wrm_pipeline.report") / folder / name).read_text(encoding="utf-8")


def changed_files(site: Mapping[str, bytes], digests: Mapping[str, str], published: Mapping[str, str]) -> list[str]:
    """Paths whose content differs from what was published; pages come after the files that they load."""
    return sorted(
        (path for path in site if published.get(path) != digests[path]),
        key=lambda path: (path.endswith(".html"), path.startswith("data/"), path),
    )


def manifest(digests: Mapping[str, str]) -> bytes:
    """The digests of all files, as JSON."""
    return (json.dumps(dict(sorted(digests.items())), indent=1) + "\n").encode()
