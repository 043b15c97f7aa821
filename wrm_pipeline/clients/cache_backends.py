"""Where the cache's signed values are stored: Redis, or files of this machine."""

import contextlib
import fcntl
import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from wrm_pipeline.clients.redis_client import RedisGuard

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
