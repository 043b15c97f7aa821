"""An object store that counts what S3 would bill."""

import builtins
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wrm_pipeline.lake.object_store import BINARY, ObjectInfo, ObjectStore

_KEYS_PER_LISTING = 1000


class CountingStore:
    """Passes everything on. A listing counts once for each 1,000 keys, `get_many` once for each key."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.name = store.name
        self.requests: Counter[str] = Counter()

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        self.requests["list"] += 1
        for index, info in enumerate(self._store.list(prefix, start_after=start_after)):
            if index and index % _KEYS_PER_LISTING == 0:
                self.requests["list"] += 1
            yield info

    def list_folders(self, prefix: str) -> builtins.list[str]:
        self.requests["list"] += 1
        return self._store.list_folders(prefix)

    def get(self, key: str) -> bytes:
        self.requests["get"] += 1
        return self._store.get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for key, body in self._store.get_many(keys):
            self.requests["get"] += 1
            yield key, body

    def put(
        self,
        key: str,
        body: bytes | Path,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = BINARY,
    ) -> ObjectInfo:
        self.requests["put"] += 1
        return self._store.put(key, body, metadata=metadata, content_type=content_type)

    def put_if_absent(self, key: str, body: bytes, *, metadata: Mapping[str, str] | None = None) -> bool:
        self.requests["put"] += 1
        return self._store.put_if_absent(key, body, metadata=metadata)

    def delete(self, key: str) -> None:
        self.requests["delete"] += 1
        self._store.delete(key)

    def stat(self, key: str) -> ObjectInfo | None:
        self.requests["stat"] += 1
        return self._store.stat(key)

    def url(self, key: str) -> str:
        return self._store.url(key)
