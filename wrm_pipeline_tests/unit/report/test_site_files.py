"""The report's files on disk and in the store."""

import pytest

from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.report.site_files import MANIFEST, publish_site
from wrm_pipeline_tests.fixtures.lake import WatchedStore

SITE = {"index.html": b"<p>", "assets/site.js": b"1;", "data/city.js": b"2;"}


@pytest.fixture
def store(tmp_path):
    return WatchedStore(LocalObjectStore(tmp_path / "lake"))


def publish(site, tmp_path, store):
    return publish_site(site, tmp_path / "site", store, "reports/site/")


def test_everything_is_written_once_and_then_only_what_changed(tmp_path, store):
    first = publish(SITE, tmp_path, store)
    assert (first.files, first.written_locally, first.written_to_store) == (3, 3, 3)
    assert {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.*")} == set(SITE)
    assert store.get("reports/site/data/city.js") == b"2;"

    store.calls.clear()
    again = publish(SITE, tmp_path, store)
    assert (again.written_locally, again.written_to_store) == (0, 0)
    assert store.counts == {"list": 1, "get": 1}

    store.calls.clear()
    changed = publish({**SITE, "data/city.js": b"3;"}, tmp_path, store)
    assert (changed.written_locally, changed.written_to_store, changed.bytes_to_store) == (1, 1, 2)
    assert store.written == ["reports/site/data/city.js", f"reports/site/{MANIFEST}"]
    assert (tmp_path / "site" / "data" / "city.js").read_bytes() == b"3;"


def test_what_is_no_longer_part_of_the_site_goes(tmp_path, store):
    publish(SITE, tmp_path, store)
    publish({"index.html": b"<p>"}, tmp_path, store)
    assert [info.key for info in store.list("reports/")] == [f"reports/site/{MANIFEST}", "reports/site/index.html"]
    assert not (tmp_path / "site" / "data" / "city.js").exists()


def test_what_was_lost_on_either_side_comes_back(tmp_path, store):
    publish(SITE, tmp_path, store)
    store.delete("reports/site/data/city.js")
    (tmp_path / "site" / "index.html").unlink()
    done = publish(SITE, tmp_path, store)
    assert (done.written_locally, done.written_to_store) == (1, 1)
    assert store.get("reports/site/data/city.js") == b"2;"


def test_an_interrupted_publication_is_done_again(tmp_path, store):
    publish(SITE, tmp_path, store)
    new = {path: content + b" " for path, content in SITE.items()}
    store.fails = lambda operation, key: operation == "put" and key.endswith("index.html")
    with pytest.raises(TransientError):
        publish(new, tmp_path, store)
    store.fails = lambda _operation, _key: False
    assert publish(new, tmp_path, store).written_to_store == 3
    assert store.get("reports/site/index.html") == b"<p> "


def test_a_spoilt_list_of_digests_costs_only_a_full_publication(tmp_path, store):
    publish(SITE, tmp_path, store)
    store.put(f"reports/site/{MANIFEST}", b"[]")
    assert publish(SITE, tmp_path, store).written_to_store == 3
    store.put(f"reports/site/{MANIFEST}", b"{")
    assert publish(SITE, tmp_path, store).written_to_store == 3
