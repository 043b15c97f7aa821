"""Caches objects of a bucket, so that they need not be fetched again; key and ETag identify a version."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wrm_pipeline.clients.cache import MAX_VALUE_BYTES, NO_CACHE, Cache
from wrm_pipeline.clients.cache_values import BYTES, JSON
from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.object_store import ObjectInfo, ObjectStore
from wrm_pipeline.lake.s3_object_store import S3ObjectStore

DAY_S = 24 * 3600

# Today and yesterday are the days that are rebuilt; a day of raw bodies is 58 MB.
BODY_TTL_S = 2 * DAY_S
SHA256_TTL_S = DAY_S / 12
TRAIT_TTL_S = DAY_S

# Looked up and fetched together: large enough to keep prefetching busy, small enough to hold in memory.
_BATCH_OBJECTS = 256
_BATCH_BYTES = 16 * 2**20


class Version(Protocol):
    """An object as a listing describes it."""

    @property
    def key(self) -> str:
        """Its name."""
        ...

    @property
    def etag(self) -> str:
        """Changes whenever the content does."""
        ...

    @property
    def size_bytes(self) -> int:
        """Length of the content."""
        ...


@dataclass(frozen=True, slots=True)
class CachedObjects:
    """Reads objects that were just listed, from the cache if it has that very version.

    The listing determines the version, so an object replaced since is read as it was when listed. Callers that need
    the current object ask the store. A local folder needs no cache: it is just as fast.

    Only verifiable bodies are kept: those whose MD5 is their ETag, as S3 gives it for a plain PUT (not with SSE-KMS or
    for multipart uploads, for which nothing is kept).
    """

    store: ObjectStore
    cache: Cache = field(default=NO_CACHE, repr=False)

    @property
    def _used(self) -> bool:
        return self.cache is not NO_CACHE and not isinstance(self.store, LocalObjectStore)

    def bodies(self, versions: Iterable[Version]) -> Iterator[tuple[str, bytes]]:
        """Key and content of each, in the requested order; the first failure ends it."""
        if not self._used:
            yield from self.store.get_many(version.key for version in versions)
            return
        for batch in _batches(versions):
            yield from self._batch(batch)

    def _batch(self, versions: Sequence[Version]) -> Iterator[tuple[str, bytes]]:
        names = {v.key: self._body_key(v.key, v.etag) for v in versions if v.size_bytes <= MAX_VALUE_BYTES}
        known = self.cache.get_many(list(names.values()), BYTES)
        fetched = self.store.get_many([v.key for v in versions if names.get(v.key) not in known])
        new: dict[str, bytes] = {}
        for position, version in enumerate(versions, start=1):
            name = names.get(version.key, "")
            body = known.pop(name, None)
            if body is None:
                _, body = next(fetched)
                if name and _md5(body) == version.etag:
                    new[name] = body
            if position == len(versions):  # the consumer may not resume after the last one
                self.cache.put_many(new, BYTES, ttl_s=BODY_TTL_S)
            yield version.key, body

    def stored(self, key: str, body: bytes, sha256: str = "") -> None:
        """Cache a body (and its hash) that was just stored, so that the next reader need not ask the store."""
        if self._used:
            etag = _md5(body)
            self.cache.put(self._body_key(key, etag), body, BYTES, ttl_s=BODY_TTL_S)
            if sha256:
                self.cache.put(self._sha256_key(key, etag), sha256, JSON, ttl_s=SHA256_TTL_S)

    def put_if_absent(self, key: str, body: bytes, *, metadata: Mapping[str, str]) -> bool:
        """Like `ObjectStore.put_if_absent`, remembering across processes whether the service supports it."""
        store = self.store
        if not self._used or not isinstance(store, S3ObjectStore) or store.honours_if_none_match is not None:
            return store.put_if_absent(key, body, metadata=metadata)
        trait = f"honours If-None-Match:{store!r}"
        if self.cache.get(trait, JSON) is True:
            store.honours_if_none_match = True
            return store.put_if_absent(key, body, metadata=metadata)
        written = store.put_if_absent(key, body, metadata=metadata)
        if store.honours_if_none_match:
            self.cache.put(trait, True, JSON, ttl_s=TRAIT_TTL_S)
        return written

    def sha256(self, info: ObjectInfo) -> str | None:
        """Hash of a listed object's content, in hex; None if the object no longer exists."""
        if self._used:
            known = self.cache.get(self._sha256_key(info.key, info.etag), JSON)
            if isinstance(known, str) and re.fullmatch("[0-9a-f]{64}", known):
                return known
        now = self.store.stat(info.key)
        if now is None:
            return None
        try:
            found = now.metadata.get("sha256") or hashlib.sha256(self.store.get(info.key)).hexdigest()
        except ObjectNotFoundError:
            return None
        if self._used and now.etag == info.etag:
            self.cache.put(self._sha256_key(info.key, info.etag), found, JSON, ttl_s=SHA256_TTL_S)
        return found

    def _body_key(self, key: str, etag: str) -> str:
        return f"object:{self.store.name}:{key}:{etag}"

    def _sha256_key(self, key: str, etag: str) -> str:
        return f"sha256:{self.store.name}:{key}:{etag}"


def _batches(versions: Iterable[Version]) -> Iterator[list[Version]]:
    batch: list[Version] = []
    size = 0
    for version in versions:
        if batch and (len(batch) >= _BATCH_OBJECTS or size + version.size_bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(version)
        size += version.size_bytes
    if batch:
        yield batch


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
