"""What a cache must do on every `Backend`: subclass it, give it a fixture `backend` that is empty."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from wrm_pipeline.clients import cache as cache_module
from wrm_pipeline.clients.cache import Cache, LookupCounter
from wrm_pipeline.clients.cache_backends import Backend
from wrm_pipeline.clients.cache_values import ARROW, BYTES, JSON, Codec

# Unpickled, it makes a file. Written by hand, as nothing here may import pickle.
PICKLE = b"cposix\nsystem\n(S'touch %s'\ntR."

HOLD = """
import sys, time
{make}
release = backend.acquire("wrm:local:1:a", 1.0)
assert release
print("held", flush=True)
time.sleep(600)
"""


def cache_on(backend: Backend, signing_key: bytes = b"k", **options) -> tuple[Cache, LookupCounter]:
    counter = LookupCounter()
    return Cache(lambda: (backend, signing_key), counter=counter, **options), counter


def raw(backend: Backend, name: str) -> bytes:
    (data,) = backend.get_many([name])
    assert data is not None
    return data


class CacheContract:
    make = ""
    """Python that makes `backend` in another process."""

    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def patient(self, monkeypatch):
        """A busy machine is not what is tested."""
        monkeypatch.setattr(cache_module, "MAX_SLOW_S", 600)
        monkeypatch.setattr(cache_module, "WAIT_S", 60)

    @pytest.mark.parametrize(
        ("codec", "value"),
        [
            (BYTES, b"\x00#id,\xc5\x82\r\n" * 1000),
            (BYTES, b""),
            (JSON, {"name": "Dworzec Główny", "share": 0.25, "hashes": ["a" * 64, None]}),
            (ARROW, pa.table({"at": pa.array([datetime(2025, 8, 21, tzinfo=UTC)], pa.timestamp("us", "UTC"))})),
        ],
        ids=["bytes", "no bytes", "json", "arrow"],
    )
    def test_what_was_put_comes_back(self, backend, codec: Codec, value):
        cache, counter = cache_on(backend)
        assert cache.get("a", codec) is None
        cache.put("a", value, codec, ttl_s=60)
        assert cache.get("a", codec) == value
        assert cache_on(backend)[0].get("a", codec) == value
        assert counter.reset() == {"miss": 1, "hit": 1}

    def test_many_at_once(self, backend):
        cache, counter = cache_on(backend)
        values = {f"k{n}": b"%d" % n for n in range(150)}
        cache.put_many(values, BYTES, ttl_s=60)
        assert cache.get_many([*values, "other"], BYTES) == values
        assert counter.reset() == {"hit": 150, "miss": 1}

    def test_another_environment_format_or_key_is_another_cache(self, backend, monkeypatch):
        cache_on(backend, namespace="wrm:production")[0].put("a", b"1", BYTES, ttl_s=60)
        assert cache_on(backend, namespace="wrm:local")[0].get("a", BYTES) is None
        monkeypatch.setattr(cache_module, "FORMAT", cache_module.FORMAT + 1)
        assert cache_on(backend, namespace="wrm:production")[0].get("a", BYTES) is None
        monkeypatch.undo()
        assert cache_on(backend, b"another", namespace="wrm:production")[0].get("a", BYTES) is None
        assert cache_on(backend, namespace="wrm:production")[0].get("a", BYTES) == b"1"

    def test_a_value_ends_between_nine_tenths_and_all_of_its_time(self, backend):
        now = [1_000_000.0]
        cache, _ = cache_on(backend, clock=lambda: now[0])
        cache.put_many({f"k{n}": b"1" for n in range(50)}, BYTES, ttl_s=10_000)
        now[0] += 8_999
        assert len(cache.get_many([f"k{n}" for n in range(50)], BYTES)) == 50
        now[0] += 501
        assert 5 < len(cache.get_many([f"k{n}" for n in range(50)], BYTES)) < 45
        now[0] += 501
        assert cache.get_many([f"k{n}" for n in range(50)], BYTES) == {}

    def test_a_value_that_is_too_large_is_not_kept(self, backend):
        cache, counter = cache_on(backend, max_value_bytes=1000)
        cache.put_many({"large": b"x" * 1001, "small": b"x" * 1000}, BYTES, ttl_s=60)
        assert list(cache.get_many(["large", "small"], BYTES)) == ["small"]
        assert counter.reset() == {"hit": 1, "miss": 1}

    @pytest.mark.parametrize("codec", [BYTES, JSON, ARROW], ids=["bytes", "json", "arrow"])
    def test_a_value_that_was_planted_or_damaged_is_not_used(self, backend, codec, tmp_path):
        value = {BYTES: b"right", JSON: "right", ARROW: pa.table({"x": ["right"]})}[codec]
        other = {BYTES: b"wrong", JSON: "wrong", ARROW: pa.table({"x": ["wrong"]})}[codec]
        name = "wrm:local:1:a"
        cache_on(backend)[0].put("b", other, codec, ttl_s=60)
        of_another_key = raw(backend, "wrm:local:1:b")
        cache_on(backend, b"a thief's guess")[0].put("a", other, codec, ttl_s=60)
        of_another_key = raw(backend, name)
        cache_on(backend)[0].put("a", value, codec, ttl_s=60)
        good = raw(backend, name)
        last_byte_changed = good[:-1] + bytes([good[-1] ^ 1])
        lives_longer = good[:5] + b"\x7f" + good[6:]
        for planted in (
            PICKLE % str(tmp_path / "executed").encode(),
            b"",
            b"garbage",
            good[:20],
            good[:-1],
            good + b"x",
            last_byte_changed,
            lives_longer,
            of_another_key,
            of_another_key,
            codec.encode(other),
        ):
            backend.put_many({name: (planted, 60.0)})
            cache, counter = cache_on(backend)
            assert cache.get_or_compute("a", codec, lambda: value, ttl_s=60) == value
            assert counter.reset() == {"error": 1}
            assert cache.get("a", codec) == value, "it has been replaced"
        assert not (tmp_path / "executed").exists()

    def test_a_value_of_another_kind_is_not_used(self, backend):
        cache, _ = cache_on(backend)
        cache.put("a", b'"x"', BYTES, ttl_s=60)
        assert cache.get("a", JSON) is None

    def test_one_of_twenty_computes_and_the_others_wait(self, backend):
        computed = []

        def compute() -> str:
            computed.append(1)
            time.sleep(0.2)
            return "value"

        def ask(_: int) -> str:
            return cache_on(backend)[0].get_or_compute("a", JSON, compute, ttl_s=60)

        with ThreadPoolExecutor(20) as pool:
            assert set(pool.map(ask, range(20))) == {"value"}
        assert len(computed) == 1

    def test_what_is_not_worth_keeping_is_computed_again(self, backend):
        cache, _ = cache_on(backend)
        answers = iter([[], [1], [2]])
        asked = [cache.get_or_compute("a", JSON, lambda: next(answers), ttl_s=60, worth_keeping=bool) for _ in range(3)]
        assert asked == [[], [1], [1]]

    def test_a_computation_that_fails_leaves_no_lock(self, backend):
        cache, _ = cache_on(backend)
        with pytest.raises(ZeroDivisionError):
            cache.get_or_compute("a", JSON, lambda: 1 // 0, ttl_s=60)
        release = backend.acquire("wrm:local:1:a", 60)
        assert release is not None
        assert backend.acquire("wrm:local:1:a", 60) is None
        release()
        assert backend.acquire("wrm:local:1:a", 60) is not None

    def test_a_waiting_process_goes_on_when_the_holder_was_killed(self, backend):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(make=self.make)], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert backend.acquire("wrm:local:1:a", 1.0) is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert cache_on(backend)[0].get_or_compute("a", JSON, lambda: 7, ttl_s=60) == 7

    def test_a_process_that_has_waited_long_enough_computes_itself(self, backend, monkeypatch):
        monkeypatch.setattr(cache_module, "WAIT_S", 0.1)
        release = backend.acquire("wrm:local:1:a", 60)
        assert release is not None
        assert cache_on(backend)[0].get_or_compute("a", JSON, lambda: 7, ttl_s=60) == 7

    def test_a_cache_that_makes_wait_is_given_up(self, backend, monkeypatch, caplog):
        class Slow:
            name = "a slow one"
            asked = 0

            def get_many(self, keys):
                self.asked += 1
                time.sleep(0.08)
                return backend.get_many(keys)

        monkeypatch.setattr(cache_module, "MAX_SLOW_S", 0.2)
        slow = Slow()
        cache = Cache(lambda: (slow, b""))
        for _ in range(20):
            assert cache.get("a", BYTES) is None
        assert slow.asked <= 3
        assert sum("is not used for the rest of this process" in r.getMessage() for r in caplog.records) == 1
