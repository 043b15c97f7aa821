"""Where the pipeline's objects live: what is asked of a store, whichever it is.

`local_object_store` is a folder, `s3_object_store` a bucket; both pass the same contract tests
(`wrm_pipeline_tests/object_store_contract.py`). What the keys mean is `domain/layout.py`'s business; nothing here
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
        etag: Changes when the content does; without quotes. Of no use between stores.
        last_modified: Aware, UTC. S3's has a resolution of 1 s.
        metadata: Names and values stored with it (``sha256`` for whatever was put here). Filled by `stat` and
            `put`; a listing does not carry it, nor does it count in comparisons.
    """

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)


class ObjectStore(Protocol):
    """What the pipeline asks of its storage. Every method may raise `ExternalError`s that name the object.

    Keys are relative paths in Unicode; order means byte order, which for str is the order of code points.
    Metadata names are lower-case ASCII letters, digits and hyphens, values printable ASCII: they travel in
    HTTP headers.
    """

    name: str
    """For messages: ``s3://bucket``, or the folder."""

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose key starts with `prefix` and is above `start_after`, ascending, page by page."""
        ...

    def list_folders(self, prefix: str) -> builtins.list[str]:
        """The immediate sub-prefixes of `prefix` up to the next ``/``, each with it at its end, ascending."""
        ...

    def get(self, key: str) -> bytes:
        """The content, whole and undamaged: length and, where it was stored, SHA-256 are checked.

        Raises:
            ObjectNotFoundError: There is none.
            UnexpectedAnswerError: What arrived is not what was stored.
        """
        ...

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """`get` for each key, in the order asked, fetched ahead; the first failure ends it."""
        ...

    def put(
        self,
        key: str,
        body: bytes | Path,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = BINARY,
    ) -> ObjectInfo:
        """Store or replace in one step: readers see the old content or the new, whole."""
        ...

    def put_if_absent(self, key: str, body: bytes, *, metadata: Mapping[str, str] | None = None) -> bool:
        """Store unless something is there. True: written now. False: there was an object, left as it is."""
        ...

    def delete(self, key: str) -> None:
        """Remove; fine if there is no such object."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """The object's description with metadata, None if there is none."""
        ...

    def url(self, key: str) -> str:
        """How DuckDB addresses it: an absolute path, or ``s3://bucket/key``."""
        ...


def checked_metadata(metadata: Mapping[str, str] | None, sha256: str) -> dict[str, str]:
    """`metadata` and the content's SHA-256.

    Raises:
        ValueError: A name or a value cannot travel in an HTTP header.
    """
    for name, value in (metadata or {}).items():
        if not re.fullmatch(r"[a-z0-9-]+", name) or not re.fullmatch(r"([!-~]([ -~]*[!-~])?)?", value):
            raise ValueError(f"metadata {name!r}: {value!r} cannot travel in an HTTP header")
    return {**(metadata or {}), "sha256": sha256}


def check_content(body: bytes, size_bytes: int, sha256: str | None, where: tuple[str, str, str]) -> None:
    """Refuse content that is not what was stored; `where` is service, operation and object.

    Raises:
        UnexpectedAnswerError: Length or SHA-256 differ.
    """
    if len(body) != size_bytes:
        raise UnexpectedAnswerError(f"{len(body)} bytes arrived of {size_bytes}", *where)
    if sha256 is not None and hashlib.sha256(body).hexdigest() != sha256:
        raise DamagedContentError(
            "the content does not match its stored SHA-256",
            *where,
            "If it stays so, the object is damaged: restore it, or delete and rebuild it",
        )
