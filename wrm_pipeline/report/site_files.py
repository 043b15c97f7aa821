"""Writes the report's files to the local disk and the object store, only those that changed."""

import hashlib
import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wrm_pipeline.clients.whole_files import write_whole
from wrm_pipeline.lake.object_store import ObjectStore
from wrm_pipeline.report.site import changed_files, manifest

MANIFEST = "files.json"


@dataclass(frozen=True, slots=True)
class Written:
    """The result of one publication."""

    files: int
    bytes: int
    written_locally: int
    written_to_store: int
    bytes_to_store: int


def publish_site(site: Mapping[str, bytes], folder: Path, store: ObjectStore, prefix: str) -> Written:
    """Write the site below `folder`, and below `prefix` in the store.

    The store's content is known from a listing and from the digests that the last publication stored: 2 requests, and
    one per changed file. The digests are written last, so that an interrupted publication is done again.

    Raises:
        ExternalError: the store rejected a file; until the next run it contains a mixture of old and new.
    """
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in site.items()}
    local = changed_files(site, digests, _digests_on_disk(folder, site))
    for path in local:
        write_whole(folder / path, site[path])
    _remove_others(folder, site)

    there = {info.key.removeprefix(prefix) for info in store.list(prefix)}
    last = _digests_in_store(store, f"{prefix}{MANIFEST}") if MANIFEST in there else {}
    changed = changed_files(site, digests, {path: digest for path, digest in last.items() if path in there})
    for path in changed:
        store.put(f"{prefix}{path}", site[path], content_type=_content_type(path))
    for path in there - set(site) - {MANIFEST}:
        store.delete(f"{prefix}{path}")
    if changed:
        store.put(f"{prefix}{MANIFEST}", manifest(digests), content_type="application/json")
    return Written(
        files=len(site),
        bytes=sum(map(len, site.values())),
        written_locally=len(local),
        written_to_store=len(changed),
        bytes_to_store=sum(len(site[path]) for path in changed),
    )


def _digests_on_disk(folder: Path, site: Mapping[str, bytes]) -> dict[str, str]:
    return {
        path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in site if (folder / path).is_file()
    }


def _digests_in_store(store: ObjectStore, key: str) -> dict[str, str]:
    """Empty if it is not a manifest: then everything is written."""
    try:
        found = json.loads(store.get(key))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _remove_others(folder: Path, site: Mapping[str, bytes]) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in site:
            path.unlink()


def _content_type(path: str) -> str:
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
