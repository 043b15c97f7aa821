"""The site's files: what they load, what they may not hold, which of them are written."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from wrm_pipeline.domain.rules import ServiceArea
from wrm_pipeline.report.answers import Answers
from wrm_pipeline.report.site import PAGES, build_site, changed_files

BUILT = datetime(2025, 8, 21, 13, tzinfo=UTC)
HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(1)>"\u2028'
STATIONS = pa.table({"station_id": ["15001"], "name": [HOSTILE]})


@pytest.fixture(scope="module")
def site():
    return build_site(Answers(["mv_station_latest"], lambda _: STATIONS), ServiceArea(), BUILT)


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_only_files_of_the_site_and_runs_nothing_inline(site, name):
    tags = _Tags(site[PAGES[name].file].decode()).found
    loaded = [a.get("src") or a.get("href") for tag, a in tags if tag in ("script", "link", "img", "iframe")]
    assert set(loaded) - {"data:,"} <= set(site)
    assert all("src" in attributes for tag, attributes in tags if tag == "script")
    assert not [a for _, a in tags if any(key.startswith("on") or key == "style" for key in a)]
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert {a["href"] for tag, a in tags if tag == "a" and "href" in a} >= {page.file for page in PAGES.values()}


def test_names_reach_the_data_as_data(site):
    text = site["data/stations.js"].decode()
    assert not set(text) & set("<>\u2028")
    value = json.loads(text.partition("=")[2].partition("=")[2].rstrip(";\n"))
    assert value["stations"]["rows"] == [["15001", HOSTILE]]
    assert all(HOSTILE not in content.decode() for content in site.values())


def test_all_texts_are_translated(site):
    """Static texts; those that scripts make are checked in the browser."""
    words = site["assets/words.js"].decode()
    asked = {
        text
        for path, content in site.items()
        if path.endswith(".js") and "uplot" not in path and "leaflet" not in path and not path.startswith("data/")
        for text in re.findall(r'\bt\(\s*"((?:[^"\\]|\\.)*)"', content.decode())
    }
    assert len(asked) > 100
    assert [text for text in sorted(asked) if f'"{text}":' not in words] == []


def test_the_licences_come_along(site):
    assert b"Leon Sorokin" in site["assets/uplot-LICENSE.txt"]
    assert b"Agafonkin" in site["assets/leaflet-LICENSE.txt"]


def test_only_the_data_change_with_the_rows(site):
    other = build_site(Answers(), ServiceArea(), BUILT)
    assert other.keys() == site.keys()
    assert all(path.startswith("data/") for path in site if site[path] != other[path])


def test_pages_are_written_after_what_they_load():
    digests = {"index.html": "1", "data/city.js": "2", "assets/site.js": "3", "assets/same.js": "4"}
    changed = changed_files(dict.fromkeys(digests, b""), digests, {"assets/same.js": "4", "index.html": "0"})
    assert changed == ["assets/site.js", "data/city.js", "index.html"]
