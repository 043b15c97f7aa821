"""A cache that can save time and do no harm.

Everything in it can be computed without it, and every problem with it is a miss: a server that is down, slow, read-only
or full, a value that is damaged, forged or of another version. After the first failure, or once waiting for it has
taken a second in all, it is not used for the rest of the process.

Values are bytes, JSON or Arrow tables; no pickles. Each is signed: an HMAC over its key, kind, expiry and content (with
a key derived from the object store's secret, if there is one) is checked before anything is decoded. So anyone who can
write to Redis without knowing that secret can cause misses, but not wrong values.

Keys identify the input: `wrm:{env}:{FORMAT}:{kind}:…` with its ETag or digest. Nothing is ever invalidated: different
input has a different key.
"""

import hashlib
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from wrm_pipeline.clients.cache_backends import Backend
from wrm_pipeline.clients.cache_values import Codec, signed, verified
from wrm_pipeline.clients.causes import cause_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT = 1
"""Part of each key: increment it when the meaning of a kind of value changes."""

MAX_VALUE_BYTES = 4 * 2**20
"""Larger values are not kept. A raw snapshot has 40-120 kB, the station summary 60 kB."""

MAX_SLOW_S = 1.0
"""Total waiting time after which the cache is given up. A call counts if it takes longer than SLOW_CALL_S."""

SLOW_CALL_S = 0.05
"""Per 16 values: what the object store itself would take; a Redis nearby takes 1-2 ms."""

WAIT_S = 2.0
"""How long to wait for another process that is computing the wanted value; then both compute it."""

LOCK_TTL_S = 10.0
"""Expiry of a lock in Redis, in case its holder is killed."""

_POLL_S = 0.02


class LookupCounter:
    """Hits, misses and errors of this process; thread-safe. Reset by each materialization, like the request counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        """Count `hit`, `miss` or `error`."""
        with self._lock:
            self._counts.update(counts)

    def reset(self) -> dict[str, int]:
        """The counts so far that are not 0, and start from zero in the same moment."""
        with self._lock:
            counts, self._counts = +self._counts, Counter()
        return dict(counts)


LOOKUPS = LookupCounter()


class Cache:
    """Values by key; thread-safe. No method raises, except what a `compute` raises.

    Args:
        connect: Returns the backend and the signing key, when first needed; None means no cache.
        namespace: What all keys begin with.
        max_value_bytes: Larger values are not kept.
        counter: Where hits, misses and errors are counted.
        clock: Unix seconds.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Backend, bytes] | None],
        *,
        namespace: str = "wrm:local",
        max_value_bytes: int = MAX_VALUE_BYTES,
        counter: LookupCounter = LOOKUPS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._namespace = f"{namespace}:{FORMAT}"
        self._max_value_bytes = max_value_bytes
        self._counter = counter
        self._clock = clock
        self._lock = threading.Lock()
        self._connected: tuple[Backend, bytes] | None = None
        self._off = False
        self._slow_s = 0.0
        self.problem = ""
        """Why it is no longer used."""

    def get(self, key: str, codec: Codec[T]) -> T | None:
        """The value of a key; None if it is not in the cache (None itself is never a value)."""
        return self.get_many([key], codec).get(key)

    def get_many(self, keys: Sequence[str], codec: Codec[T]) -> dict[str, T]:
        """The values of those keys that are in the cache."""
        found, errors = self._look(keys, codec)
        if not self._off or errors:
            self._counter.add(hit=len(found), error=errors, miss=max(len(keys) - len(found) - errors, 0))
        return found

    def put(self, key: str, value: T, codec: Codec[T], *, ttl_s: float) -> None:
        """Keep a value for about `ttl_s` seconds."""
        self.put_many({key: value}, codec, ttl_s=ttl_s)

    def put_many(self, values: Mapping[str, T], codec: Codec[T], *, ttl_s: float) -> None:
        """Keep values, each for 90 to 100 % of `ttl_s` seconds, so that they do not all expire at once."""

        def put(backend: Backend, signing_key: bytes) -> None:
            by_name = {}
            for key, value in values.items():
                payload = codec.encode(value)
                if len(payload) <= self._max_value_bytes:
                    lifetime_s = ttl_s * random.uniform(0.9, 1)
                    name = f"{self._namespace}:{key}"
                    ends_at = int(self._clock() + lifetime_s)
                    by_name[name] = (signed(signing_key, name, codec.tag, ends_at, payload), lifetime_s)
            if by_name:
                backend.put_many(by_name)

        _, error = self._ask(put, len(values))
        self._counter.add(error=error)

    def get_or_compute(
        self,
        key: str,
        codec: Codec[T],
        compute: Callable[[], T],
        *,
        ttl_s: float,
        worth_keeping: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """The value of a key; if several processes want it at once, one computes it while the others wait."""
        found = self.get(key, codec)
        if found is not None:
            return found
        turn: _Turn[T] = self._wait_for_turn(key, codec)
        try:
            if turn.found is not None:
                return turn.found
            value = compute()
            if worth_keeping(value):
                self.put(key, value, codec, ttl_s=ttl_s)
            return value
        finally:
            self._release(turn.release)

    def _wait_for_turn(self, key: str, codec: Codec[T]) -> "_Turn[T]":
        """The value, if another process adds it; or the lock; or neither, when waiting has taken too long."""
        name, ends = f"{self._namespace}:{key}", time.monotonic() + WAIT_S
        while True:
            release, error = self._ask(lambda backend, _: backend.acquire(name, LOCK_TTL_S))
            self._counter.add(error=error)
            # The previous holder of the lock may have added the value.
            found = self._look([key], codec)[0].get(key)
            if found is not None or release is not None or self._off or time.monotonic() > ends:
                return _Turn(found, release)
            time.sleep(_POLL_S)

    def _release(self, release: Callable[[], object] | None) -> None:
        if release is not None:
            self._counter.add(error=self._ask(lambda *_: release())[1])

    def _look(self, keys: Sequence[str], codec: Codec[T]) -> tuple[dict[str, T], int]:
        """Values, and the number of invalid ones."""
        found: dict[str, T] = {}

        def look(backend: Backend, signing_key: bytes) -> int:
            names = [f"{self._namespace}:{key}" for key in keys]
            invalid = 0
            for key, name, data in zip(keys, names, backend.get_many(names), strict=True):
                if data is None:
                    continue
                try:
                    payload = verified(signing_key, name, codec.tag, data, self._clock())
                    if payload is not None:
                        found[key] = codec.decode(payload)
                except Exception as problem:  # noqa: BLE001 - a damaged value may make its decoder raise anything
                    invalid += 1
                    logger.warning("The cache's value of %s is not used: %s", name, problem)
            return invalid

        invalid, error = self._ask(look, len(keys))
        return found, (invalid or 0) + error

    def _ask(self, question: Callable[[Backend, bytes], T], values: int = 1) -> tuple[T | None, int]:
        """The answer, and 1 if this question made us give up the cache."""
        if self._off:
            return None, 0
        began = time.monotonic()
        try:
            with self._lock:
                if self._connected is None:
                    self._connected = self._connect()
                connected = self._connected
            if connected is None:
                self._off = True
                return None, 0
            answer = question(*connected)
        except Exception as error:  # noqa: BLE001 - a cache costs time at worst
            self._give_up(cause_of(error))
            return None, 1
        took = time.monotonic() - began
        if took > SLOW_CALL_S * (1 + values / 16):
            self._slow_s += took
            if self._slow_s > MAX_SLOW_S:
                self._give_up(f"waiting for it has taken {self._slow_s:.1f} s")
        return answer, 0

    def _give_up(self, problem: str) -> None:
        self._off = True
        place = f" in {self._connected[0].name}" if self._connected else ""
        self.problem = f"the cache{place} is not used for the rest of this process: {problem}"
        logger.warning("%s", self.problem)


@dataclass(frozen=True, slots=True)
class _Turn(Generic[T]):
    """The result of waiting for a turn."""

    found: T | None
    release: Callable[[], object] | None


NO_CACHE = Cache(lambda: None)
"""Always empty."""


def digest_of(parts: Iterable[str]) -> str:
    """Identifies a set of inputs in keys."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
