"""reports/ -> the web server's folder."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.flows.mirror import Mirrored, mirror
from wrm_pipeline.lake.object_store import ObjectInfo
from wrm_pipeline_tests.fixtures.lake import Lake, WatchedStore


def test_the_folder_follows_the_store_and_reads_only_what_changed(lake: Lake, tmp_path: Path) -> None:
    prefix, folder = lake.layout.report_key(""), tmp_path / "www"
    store = WatchedStore(lake.store)
    store.put(f"{prefix}map.html", b"<html>old</html>")
    store.put(f"{prefix}site/index.html", b"<html>index</html>")
    assert mirror(store, prefix, folder) == Mirrored(written=2)
    assert (folder / "site/index.html").read_bytes() == b"<html>index</html>"

    store.calls.clear()
    assert mirror(store, prefix, folder) == Mirrored(unchanged=2)
    assert [operation for operation, _ in store.calls if operation == "get"] == []

    store.put(f"{prefix}map.html", b"<html>new map</html>")
    store.delete(f"{prefix}site/index.html")
    assert mirror(store, prefix, folder) == Mirrored(written=1, removed=1)
    assert {path.name: path.read_bytes() for path in folder.rglob("*")} == {"map.html": b"<html>new map</html>"}


def test_what_was_served_stays_when_the_store_fails(lake: Lake, tmp_path: Path) -> None:
    prefix = lake.layout.report_key("")
    lake.store.put(f"{prefix}map.html", b"<html></html>")
    mirror(lake.store, prefix, tmp_path)
    lake.store.put(f"{prefix}map.html", b"<html>new</html>")
    broken = WatchedStore(lake.store, fails=lambda operation, _key: operation == "get")
    with pytest.raises(TransientError):
        mirror(broken, prefix, tmp_path)
    assert (tmp_path / "map.html").read_bytes() == b"<html></html>"


class OddNames(WatchedStore):
    """A bucket takes any name."""

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        for name in ("../../escaped.html", ".hidden/x.html", ""):
            yield ObjectInfo(f"{prefix}{name}", 1, "e", datetime.now(UTC))

    def get(self, key: str) -> bytes:
        return b"x"


def test_no_name_leads_out_of_the_folder(lake: Lake, tmp_path: Path) -> None:
    assert mirror(OddNames(lake.store), lake.layout.report_key(""), tmp_path / "a/b") == Mirrored()
    assert list(tmp_path.rglob("*.html")) == []
