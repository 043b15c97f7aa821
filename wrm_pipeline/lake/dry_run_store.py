"""A store for dry runs: writes stay in memory."""

import builtins
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.lake.object_store import BINARY, ObjectInfo, ObjectStore, checked_metadata


class DryRunStore:
    """Overlays another store with puts and deletes that are kept in memory.

    So a dry run executes the same code as the real thing. Discard it after each day: it holds what that day would have
    written.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self.name = inner.name
        # None: deleted.
        self.changed: dict[str, tuple[ObjectInfo, bytes] | None] = {}

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        found = {info.key: info for info in self._inner.list(prefix, start_after=start_after)}
        for key, change in self.changed.items():
            if key.startswith(prefix) and key > start_after:
                found.pop(key, None)
                if change is not None:
                    found[key] = change[0]
        for key in sorted(found):
            yield found[key]

    def list_folders(self, prefix: str) -> builtins.list[str]:
        """See `ObjectStore.list_folders`; ignores what was put here."""
        return self._inner.list_folders(prefix)

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        if key not in self.changed:
            return self._inner.get(key)
        change = self.changed[key]
        if change is None:
            raise ObjectNotFoundError("there is no such object", self.name, "get", key)
        return change[1]

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """See `ObjectStore.get_many`."""
        wanted = builtins.list(keys)
        if not self.changed.keys() & set(wanted):
            yield from self._inner.get_many(wanted)
            return
        for key in wanted:
            yield key, self.get(key)

    def put(
        self,
        key: str,
        body: bytes | Path,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = BINARY,
    ) -> ObjectInfo:
        """See `ObjectStore.put`."""
        del content_type
        data = body if isinstance(body, bytes) else body.read_bytes()
        digest = sha256(data).hexdigest()
        info = ObjectInfo(key, len(data), digest, datetime.now(UTC), checked_metadata(metadata, digest))
        self.changed[key] = info, data
        return info

    def put_if_absent(self, key: str, body: bytes, *, metadata: Mapping[str, str] | None = None) -> bool:
        """See `ObjectStore.put_if_absent`."""
        if self.stat(key) is not None:
            return False
        self.put(key, body, metadata=metadata)
        return True

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self.changed[key] = None

    def stat(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore.stat`."""
        if key not in self.changed:
            return self._inner.stat(key)
        change = self.changed[key]
        return None if change is None else change[0]

    def url(self, key: str) -> str:
        """See `ObjectStore.url`."""
        return self._inner.url(key)
