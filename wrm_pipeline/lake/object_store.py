"""The interface of an object store.

`local_object_store` is a folder, `s3_object_store` a bucket; both pass the same contract tests
(`wrm_pipeline_tests/object_store_contract.py`). The meaning of keys is defined in `domain/layout.py`; nothing here
knows about stations, dates or Parquet.
"""

from __future__ import annotations

import builtins
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from wrm_pipeline.clients.errors import DamagedContentError, UnexpectedAnswerError

BINARY = "application/octet-stream"

RUN_ID = "run-id"
"""In an object's metadata: the run that made it."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object, without its content.

    Attributes:
        key: Its full name within the store.
        size_bytes: Length of its content.
        etag: Changes when the content does; without quotes. Not comparable between stores.
        last_modified: Aware, UTC. S3's has a resolution of 1 s.
        metadata: Names and values stored with it (``sha256`` for everything put here). Filled by `stat` and `put`; a
            listing does not carry it, and comparisons ignore it.
    """

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)


class ObjectStore(Protocol):
    """The pipeline's storage. Every method may raise `ExternalError`s that name the object.

    Keys are relative paths in Unicode; order means byte order, which for str is the order of code points. Metadata
    names are lower-case ASCII letters, digits and hyphens, values printable ASCII: they are sent as HTTP headers.
    """

    name: str
    """For messages: ``s3://bucket``, or the folder."""

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose key starts with `prefix` and is greater than `start_after`, ascending, page by page."""
        ...

    def list_folders(self, prefix: str) -> builtins.list[str]:
        """The immediate sub-prefixes of `prefix`, each up to and including the next ``/``, ascending."""
        ...

    def get(self, key: str) -> bytes:
        """The content, complete and undamaged: length and stored SHA-256, if any, are checked.

        Raises:
            ObjectNotFoundError: there is none.
            UnexpectedAnswerError: the content that arrived is not what was stored.
        """
        ...

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """`get` for each key, in the requested order, prefetched; the first failure ends it."""
        ...

    def put(
        self,
        key: str,
        body: bytes | Path,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = BINARY,
    ) -> ObjectInfo:
        """Store or replace atomically: readers see the old content or the new, complete."""
        ...

    def put_if_absent(self, key: str, body: bytes, *, metadata: Mapping[str, str] | None = None) -> bool:
        """Store unless the key exists. True: written now. False: there was an object, left unchanged."""
        ...

    def delete(self, key: str) -> None:
        """Remove; does nothing if there is no such object."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """The object's description with metadata; None if there is no such object."""
        ...

    def url(self, key: str) -> str:
        """Its address for DuckDB: an absolute path, or ``s3://bucket/key``."""
        ...


def checked_metadata(metadata: Mapping[str, str] | None, sha256: str) -> dict[str, str]:
    """`metadata` and the content's SHA-256.

    Raises:
        ValueError: a name or a value cannot be sent in an HTTP header.
    """
    for name, value in (metadata or {}).items():
        if not re.fullmatch(r"[a-z0-9-]+", name) or not re.fullmatch(r"([!-~]([ -~]*[!-~])?)?", value):
            raise ValueError(f"metadata {name!r}: {value!r} cannot be sent in an HTTP header")
    return {**(metadata or {}), "sha256": sha256}


def check_content(body: bytes, size_bytes: int, sha256: str | None, where: tuple[str, str, str]) -> None:
    """Reject content that is not what was stored; `where` is service, operation and object.

    Raises:
        UnexpectedAnswerError: length or SHA-256 differ.
    """
    if len(body) != size_bytes:
        raise UnexpectedAnswerError(f"{len(body)} of {size_bytes} bytes arrived", *where)
    if sha256 is not None and hashlib.sha256(body).hexdigest() != sha256:
        raise DamagedContentError(
            "the content does not match its stored SHA-256",
            *where,
            "If this persists, the object is damaged: restore it, or delete and rebuild it",
        )
