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

import contextlib
import fcntl
import hashlib
import hmac
import io
import json
import logging
import random
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from wrm_pipeline.clients.causes import cause_of
from wrm_pipeline.clients.redis_client import RedisGuard

if TYPE_CHECKING:
    import pyarrow as pa

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
_BATCH_KEYS = 64


class Backend(Protocol):
    """Stores signed values. Any exception makes the cache give up on it."""

    name: str

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, or None."""
        ...

    def put_many(self, values: Mapping[str, tuple[bytes, float]]) -> None:
        """Keep values, each with its maximum lifetime in seconds."""
        ...

    def acquire(self, key: str, ttl_s: float) -> Callable[[], object] | None:
        """Take the lock of that name; returns a function that releases it, or None if it is taken."""
        ...


# --- Redis ----------------------------------------------------------------------------------------------------------

# A lock that has expired may belong to someone else by now.
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class RedisBackend:
    """Values in Redis, which evicts the least recently used when its memory is full (maxmemory-policy allkeys-lru)."""

    name = "Redis"

    def __init__(self, redis: RedisGuard) -> None:
        self._redis = redis

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Backend.get_many`."""
        found: list[bytes | None] = []
        for start in range(0, len(keys), _BATCH_KEYS):
            found += self._redis.mget(keys[start : start + _BATCH_KEYS])
        return found

    def put_many(self, values: Mapping[str, tuple[bytes, float]]) -> None:
        """See `Backend.put_many`."""

        def send(client: Any) -> None:
            pipeline = client.pipeline(transaction=False)
            for key, (value, ttl_s) in values.items():
                pipeline.set(key, value, px=max(int(ttl_s * 1000), 1))
            # The error that the pipeline itself would raise quotes the value.
            errors = [answer for answer in pipeline.execute(raise_on_error=False) if isinstance(answer, Exception)]
            if errors:
                raise errors[0]

        self._redis.ask(send)

    def acquire(self, key: str, ttl_s: float) -> Callable[[], object] | None:
        """See `Backend.acquire`."""
        name, token = f"{key}:lock", uuid.uuid4().hex
        if not self._redis.set(name, token, nx=True, px=int(ttl_s * 1000)):
            return None
        return lambda: self._redis.eval(_RELEASE, 1, name, token)


# --- Files ----------------------------------------------------------------------------------------------------------

_SPARE_DISK_BYTES = 2**30
"""With less free space than this nothing is written: the spool needs it more."""

_ORPHAN_AGE_S = 3600


class FileBackend:
    """Values as files below one folder, together at most `max_bytes`; the oldest are removed first.

    A truncated or damaged file fails the signature check, so there is no need for fsync.
    """

    name = "files"

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        # A process measures the folder when it first writes, and again when it has written a sixteenth.
        self._unseen_bytes = max_bytes

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `Backend.get_many`."""
        return [self._read(self._path(key)) for key in keys]

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def put_many(self, values: Mapping[str, tuple[bytes, float]]) -> None:
        """See `Backend.put_many`. The expiry is part of the value."""
        for key, (value, _) in values.items():
            self._unseen_bytes += len(value)
            if self._unseen_bytes > self._max_bytes // 16:
                self._make_room()
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < _SPARE_DISK_BYTES:
                return
            temporary = path.with_name(f".{uuid.uuid4().hex}")
            try:
                temporary.write_bytes(value)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def acquire(self, key: str, ttl_s: float) -> Callable[[], object] | None:  # noqa: ARG002 - the kernel frees it
        """See `Backend.acquire`. A lock ends with its process."""
        path = self._path(key).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file.close

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / digest[:2] / digest

    def _make_room(self) -> None:
        """Remove the oldest files until four fifths of the limit are used, and files of killed processes."""
        found, now = [], time.time()
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if (path.name.startswith(".") or path.suffix) and now - status.st_mtime > _ORPHAN_AGE_S:
                    path.unlink()
                else:
                    found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        if total > self._max_bytes * 4 // 5:
            for _, size, path in sorted(found):
                path.unlink(missing_ok=True)
                total -= size
                if total <= self._max_bytes * 4 // 5:
                    break
        self._unseen_bytes = 0


# --- Values ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """Converts values to bytes and back; `decode` raises for anything that `encode` did not produce."""

    tag: bytes
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


def _table_to_bytes(table: "pa.Table") -> bytes:
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _table_from_bytes(data: bytes) -> "pa.Table":
    import pyarrow as pa

    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def _json_to_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _any_to_bytes(value: Any) -> bytes:
    """A letter for the type, then the value."""
    if isinstance(value, bytes):
        return b"b" + value
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if kind == "pyarrow.lib.Table":
        return b"a" + _table_to_bytes(value)
    if kind == "pandas.core.frame.DataFrame" or kind == "pandas.DataFrame":
        import pyarrow as pa

        return b"p" + _table_to_bytes(pa.Table.from_pandas(value))
    try:
        text = _json_to_bytes(value)
    except (TypeError, ValueError) as error:
        raise TypeError(_NO_PICKLES.format(kind)) from error
    if json.loads(text) != value:  # keys that are not text, tuples
        raise TypeError(_NO_PICKLES.format(kind))
    return b"j" + text


_NO_PICKLES = (
    "a {} cannot be kept without a pickle. Keep bytes, text, numbers, lists, dicts with text as keys, an Arrow table "
    "or a pandas frame"
)


def _any_from_bytes(data: bytes) -> Any:
    kind, content = data[:1], data[1:]
    if kind == b"b":
        return content
    if kind == b"j":
        return json.loads(content)
    table = _table_from_bytes(content)
    return table.to_pandas() if kind == b"p" else table


BYTES: Codec[bytes] = Codec(b"b", bytes, bytes)
JSON: Codec[Any] = Codec(b"j", _json_to_bytes, json.loads)
ARROW: Codec["pa.Table"] = Codec(b"a", _table_to_bytes, _table_from_bytes)
ANY: Codec[Any] = Codec(b"v", _any_to_bytes, _any_from_bytes)
"""Any of the three, or a pandas frame; the type is part of the value."""

_MAGIC = b"wrm1"
# Magic, tag, end of life in Unix seconds, HMAC-SHA256.
_HEAD_BYTES, _SIGNATURE_BYTES = 4 + 1 + 8, 32


class InvalidSignatureError(ValueError):
    """A value that we did not write, or that was damaged since."""


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
            signed = {}
            for key, value in values.items():
                payload = codec.encode(value)
                if len(payload) <= self._max_value_bytes:
                    lifetime_s = ttl_s * random.uniform(0.9, 1)
                    name = f"{self._namespace}:{key}"
                    ends_at = int(self._clock() + lifetime_s)
                    signed[name] = (_signed(signing_key, name, codec.tag, ends_at, payload), lifetime_s)
            if signed:
                backend.put_many(signed)

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
                    payload = _verified(signing_key, name, codec.tag, data, self._clock())
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


def _signed(signing_key: bytes, name: str, tag: bytes, ends_at: int, payload: bytes) -> bytes:
    head = _MAGIC + tag + ends_at.to_bytes(8, "big")
    return head + _signature(signing_key, name, head, payload) + payload


def _verified(signing_key: bytes, name: str, tag: bytes, data: bytes, now: float) -> bytes | None:
    """The content; None if it has expired.

    Raises:
        InvalidSignatureError: it was not written by us, or was damaged.
    """
    head, signed = data[:_HEAD_BYTES], data[_HEAD_BYTES:]
    signature, payload = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
    if head[:5] != _MAGIC + tag or not hmac.compare_digest(signature, _signature(signing_key, name, head, payload)):
        raise InvalidSignatureError(f"{len(data)} bytes that this pipeline did not write, or that were damaged since")
    return payload if int.from_bytes(head[5:], "big") > now else None


def _signature(signing_key: bytes, name: str, head: bytes, payload: bytes) -> bytes:
    digest = hmac.new(signing_key, name.encode() + b"\0" + head, "sha256")
    digest.update(payload)
    return digest.digest()


def digest_of(parts: Iterable[str]) -> str:
    """Identifies a set of inputs in keys."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
