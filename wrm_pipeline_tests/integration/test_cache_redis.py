"""The cache in Debian's Redis, in good and in bad health."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from wrm_pipeline.clients.cache import Cache, LookupCounter
from wrm_pipeline.clients.cache_backends import RedisBackend
from wrm_pipeline.clients.cache_values import BYTES, JSON
from wrm_pipeline.clients.redis_client import TIMEOUT_S, connect_redis
from wrm_pipeline_tests.cache_contract import CacheContract, cache_on
from wrm_pipeline_tests.integration.conftest import free_ports
from wrm_pipeline_tests.integration.redis_server import Silent, redis_server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


class TestRedisKeepsTheContract(CacheContract):
    @pytest.fixture
    def backend(self, server, monkeypatch):
        connect_redis.cache_clear()
        monkeypatch.setattr("wrm_pipeline.clients.redis_client.TIMEOUT_S", 30)  # a busy machine is not what is tested
        with redis.Redis.from_url(server) as client:
            client.flushdb()
        self.make = f"""
from wrm_pipeline.clients.cache_backends import RedisBackend
from wrm_pipeline.clients.redis_client import connect_redis
backend = RedisBackend(connect_redis({server!r}))
"""
        return RedisBackend(connect_redis(server))

    def test_each_value_has_an_end_and_a_name_that_says_what_it_is(self, backend, server):
        cache_on(backend, namespace="wrm:production")[0].put("object:s3://b/k:etag", b"1", BYTES, ttl_s=100)
        with redis.Redis.from_url(server) as client:
            assert client.keys() == [b"wrm:production:1:object:s3://b/k:etag"]
            assert 89_000 < client.pttl("wrm:production:1:object:s3://b/k:etag") <= 100_000

    def test_a_lock_that_is_somebody_elses_by_now_is_not_released(self, backend, server):
        release = backend.acquire("a", 0.05)
        with redis.Redis.from_url(server) as client:
            while client.exists("a:lock"):
                time.sleep(0.01)
            other = backend.acquire("a", 60)
            assert other is not None
            release()
            assert client.exists("a:lock")
            other()
            assert not client.exists("a:lock")


def ask_often(url: str) -> tuple[Cache, LookupCounter, float]:
    """What a run does with a cache, many times over; gives what it cost in seconds."""
    connect_redis.cache_clear()
    counter = LookupCounter()
    cache = Cache(lambda: (RedisBackend(connect_redis(url)), b""), counter=counter)
    began = time.monotonic()
    for n in range(50):
        assert cache.get_or_compute(f"a{n}", JSON, lambda: 7, ttl_s=60) == 7
        cache.put(f"b{n}", b"1", BYTES, ttl_s=60)
        assert cache.get(f"b{n}", BYTES) in (b"1", None)
    return cache, counter, time.monotonic() - began


def test_nobody_listens():
    (port,) = free_ports(1)
    cache, counter, seconds = ask_often(f"redis://127.0.0.1:{port}/0")
    assert counter.reset() == {"error": 1}
    assert f"connection refused by 127.0.0.1:{port}" in cache.problem
    assert seconds < 1


def test_a_black_hole_costs_one_time_out():
    with Silent() as hole:
        _, counter, seconds = ask_often(hole.url)
        assert counter.reset() == {"error": 1}
        assert len(hole.connections) == 1
        assert TIMEOUT_S <= seconds < 1


def test_a_wrong_password(tmp_path: Path):
    with redis_server(tmp_path, "--requirepass", "right") as url:
        cache, counter, _ = ask_often(url.replace("127", ":wrong@127"))
        assert counter.reset() == {"error": 1}
        assert "wrong" not in cache.problem.lower().replace("wrongpass", "")


def test_full(tmp_path: Path):
    """Without room for anything, and with a policy that refuses (Redis's default)."""
    with redis_server(tmp_path, "--maxmemory", "1mb", "--maxmemory-policy", "noeviction") as url:
        cache, counter, _ = ask_often(url)
        assert counter.reset()["error"] == 1
        assert "maxmemory" in cache.problem
        assert "PX" not in cache.problem, "no value is quoted"
        with redis.Redis.from_url(url) as client:
            assert [key for key in client.scan_iter() if not key.endswith(b":lock")] == []


def test_full_with_the_policy_for_caches(tmp_path: Path):
    with redis_server(tmp_path, "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru") as url:
        cache, counter = cache_on(RedisBackend(connect_redis(url)))
        for n in range(100):
            cache.put(f"k{n}", b"x" * 50_000, BYTES, ttl_s=600)
        assert cache.get("k99", BYTES) is not None
        assert "error" not in counter.reset()


def test_read_only(tmp_path: Path):
    """A replica: what it has is used, nothing is written."""
    (nobody,) = free_ports(1)
    with redis_server(tmp_path) as url:
        cache_on(RedisBackend(connect_redis(url)), b"")[0].put("a0", 7, JSON, ttl_s=600)
        with redis.Redis.from_url(url) as client:
            client.replicaof("127.0.0.1", nobody)
        cache, counter, _ = ask_often(url)
        assert counter.reset() == {"hit": 1, "error": 1}
        assert "read only" in cache.problem


def test_redis_that_comes_back_is_used_by_the_next_process_and_after_a_minute_by_this_one(tmp_path: Path, monkeypatch):
    (port,) = free_ports(1)
    url = f"redis://127.0.0.1:{port}/0"
    now = [0.0]
    guard = connect_redis(url)
    monkeypatch.setattr(guard, "_clock", lambda: now[0])
    with pytest.raises(redis.ConnectionError):
        guard.ping()
    with redis_server(tmp_path, port=port):
        now[0] = 59.0
        with pytest.raises(redis.ConnectionError):
            guard.ping()
        now[0] = 61.0
        assert guard.ping()
