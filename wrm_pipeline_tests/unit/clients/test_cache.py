from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from wrm_pipeline.clients import cache_backends
from wrm_pipeline.clients.cache import NO_CACHE, Cache, LookupCounter
from wrm_pipeline.clients.cache_backends import FileBackend
from wrm_pipeline.clients.cache_values import BYTES, JSON
from wrm_pipeline_tests.cache_contract import CacheContract, cache_on


class TestFilesKeepTheContract(CacheContract):
    @pytest.fixture
    def backend(self, tmp_path):
        folder = tmp_path / "cache"
        self.make = f"""
from pathlib import Path
from wrm_pipeline.clients.cache_backends import FileBackend
backend = FileBackend(Path({str(folder)!r}), 10**8)
"""
        return FileBackend(folder, 10**8)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_all_values_together_stay_below_the_limit_and_the_newest_stay(tmp_path):
    """By several processes, each of which starts with what the others left."""
    for process in range(5):
        cache, _ = cache_on(FileBackend(tmp_path, 20_000))
        for n in range(10):
            cache.put(f"{process}:{n}", b"x" * 1000, BYTES, ttl_s=60)
            assert size_of(tmp_path) <= 20_000
    assert cache.get_many([f"4:{n}" for n in range(10)], BYTES).keys() == {f"4:{n}" for n in range(10)}
    assert cache.get("0:0", BYTES) is None


def test_what_killed_processes_left_is_removed(tmp_path):
    cache, _ = cache_on(FileBackend(tmp_path, 100_000))
    cache.put("a", b"1", BYTES, ttl_s=60)
    (folder,) = tmp_path.iterdir()
    fresh, old = folder / ".fresh", folder / ".old"
    for path in (fresh, old):
        path.write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    cache_on(FileBackend(tmp_path, 100_000))[0].put("a", b"1", BYTES, ttl_s=60)
    assert {path.name[0] for path in folder.iterdir() if path.name.startswith(".")} == {"."}
    assert fresh.exists()
    assert not old.exists()


def test_the_spool_needs_the_last_gigabyte_more(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_backends.shutil, "disk_usage", lambda _: usage._replace(free=2**30 - 1))
    cache, counter = cache_on(FileBackend(tmp_path, 100_000))
    cache.put("a", b"1", BYTES, ttl_s=60)
    assert cache.get("a", BYTES) is None
    assert counter.reset() == {"miss": 1}


def test_a_folder_that_cannot_be_used_costs_one_warning(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    cache, counter = cache_on(FileBackend(tmp_path / "cache", 100_000))
    for _ in range(3):
        assert cache.get_or_compute("a", JSON, lambda: 7, ttl_s=60) == 7
    assert counter.reset() == {"error": 1}
    (warning,) = [r.getMessage() for r in caplog.records]
    assert f"the cache in files is not used for the rest of this process: not a directory: {tmp_path}" in warning


def test_a_disk_that_fills_up_costs_one_warning(tmp_path, monkeypatch, caplog):
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    cache, counter = cache_on(FileBackend(tmp_path, 100_000))
    for _ in range(3):
        assert cache.get_or_compute("a", JSON, lambda: 7, ttl_s=60) == 7
    assert counter.reset() == {"miss": 1, "error": 1}
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert size_of(tmp_path) == 0


def test_a_place_that_cannot_be_had_costs_one_warning(caplog):
    def connect():
        raise RuntimeError("Vault did not say")

    counter = LookupCounter()
    cache = Cache(connect, counter=counter)
    for _ in range(3):
        assert cache.get_or_compute("a", JSON, lambda: 7, ttl_s=60) == 7
    assert counter.reset() == {"error": 1}
    assert "Vault did not say" in caplog.text


def test_without_a_cache_nothing_is_counted_or_said(caplog):
    assert NO_CACHE.get_or_compute("a", JSON, lambda: 7, ttl_s=60) == 7
    assert NO_CACHE.get("a", JSON) is None
    assert caplog.records == []
