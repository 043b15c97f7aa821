from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice

import pytest

from wrm_pipeline.clients.cache import NO_CACHE, Cache
from wrm_pipeline.clients.cache_backends import FileBackend
from wrm_pipeline.lake.cached_objects import CachedObjects
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.object_store import ObjectInfo


class Bucket:
    """Objects with ETags as S3 gives them; counts what is asked."""

    name = "s3://b"

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.asked: Counter[str] = Counter()

    def info(self, key: str) -> ObjectInfo:
        body = self.objects[key]
        return ObjectInfo(key, len(body), hashlib.md5(body).hexdigest(), datetime.now(UTC))

    def get(self, key: str) -> bytes:
        self.asked[key] += 1
        return self.objects[key]

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for key in keys:
            yield key, self.get(key)

    def stat(self, key: str) -> ObjectInfo | None:
        self.asked[f"stat {key}"] += 1
        return self.info(key) if key in self.objects else None


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Cache:
    monkeypatch.setattr("wrm_pipeline.clients.cache.MAX_SLOW_S", 600)  # a busy machine is not what is tested
    return Cache(lambda: (FileBackend(tmp_path / "cache", 10**9), b"k"))


@pytest.fixture
def bucket() -> Bucket:
    return Bucket({f"k{n:03}": b"%d" % n * 100 for n in range(600)})


def test_each_version_is_fetched_once_even_if_nobody_reads_past_the_last(bucket, cache):
    infos = [bucket.info(key) for key in bucket.objects]
    for _ in range(2):
        bodies = CachedObjects(bucket, cache).bodies(infos)
        assert list(islice(bodies, len(infos))) == list(bucket.objects.items())
    assert set(bucket.asked.values()) == {1}
    bucket.objects["k007"] = b"new"
    infos = [bucket.info(key) for key in bucket.objects]
    assert dict(CachedObjects(bucket, cache).bodies(infos)) == bucket.objects
    assert bucket.asked["k007"] == 2
    assert bucket.asked.total() == 601


def test_an_object_that_was_replaced_since_it_was_listed_is_not_kept_under_the_old_version(bucket, cache):
    listed = bucket.info("k001")
    bucket.objects["k001"] = bucket.objects["k001"][::-1] + b"!"
    assert list(CachedObjects(bucket, cache).bodies([listed])) == [("k001", bucket.objects["k001"])]
    assert list(CachedObjects(bucket, cache).bodies([listed])) == [("k001", bucket.objects["k001"])]
    assert bucket.asked["k001"] == 2


def test_what_was_just_stored_is_known(bucket, cache):
    body = bucket.objects["k005"]
    CachedObjects(bucket, cache).stored("k005", body, hashlib.sha256(body).hexdigest())
    reader = CachedObjects(bucket, cache)
    assert list(reader.bodies([bucket.info("k005")])) == [("k005", body)]
    assert reader.sha256(bucket.info("k005")) == hashlib.sha256(body).hexdigest()
    assert not bucket.asked


def test_a_hash_that_is_not_known_is_asked_for_once(bucket, cache):
    for _ in range(2):
        found = CachedObjects(bucket, cache).sha256(bucket.info("k005"))
        assert found == hashlib.sha256(bucket.objects["k005"]).hexdigest()
    assert bucket.asked["stat k005"] == 1
    info = bucket.info("k006")
    del bucket.objects["k006"]
    assert CachedObjects(bucket, cache).sha256(info) is None


def test_a_large_object_is_read_and_not_kept(bucket, cache, monkeypatch):
    monkeypatch.setattr("wrm_pipeline.lake.cached_objects.MAX_VALUE_BYTES", 10)
    infos = [bucket.info("k000"), bucket.info("k500")]
    for _ in range(2):
        assert [key for key, _ in CachedObjects(bucket, cache).bodies(infos)] == ["k000", "k500"]
    assert bucket.asked == {"k000": 2, "k500": 2}


def test_a_folder_needs_no_cache(tmp_path, cache):
    store = LocalObjectStore(tmp_path / "lake")
    info = store.put("a", b"1")
    CachedObjects(store, cache).stored("a", b"1", "x")
    assert list(CachedObjects(store, cache).bodies([info])) == [("a", b"1")]
    assert list(CachedObjects(store, NO_CACHE).bodies([info])) == [("a", b"1")]
    assert not (tmp_path / "cache").exists()
