"""The raw object of a GBFS snapshot: a zip of its files as served, and `fetch.json`, which describes each.

A file that is the same as in an earlier zip of the day is not repeated: `in` in its description names that zip. The
first zip of a day holds all of them, so each day can be rebuilt alone.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from wrm_pipeline.domain.feeds.translation import BodyError

FETCH = "fetch.json"

# The largest systems have 20 MB of vehicles; our own zip is never larger, and a foreign one is not unpacked beyond
# this.
MAX_UNPACKED_BYTES = 128 * 2**20

_EPOCH_ZIP_TIME = (1980, 1, 1, 0, 0, 0)

# The files of `homes`: SHA-256 and the key of the zip that holds it, by file name.
Homes = Mapping[str, tuple[str, str]]


def zipped(files: Mapping[str, bytes], about: Mapping[str, Mapping[str, Any]], *, packed: bool = True) -> bytes:
    """A zip of files, by name without extension, and their descriptions; the same input gives the same bytes."""
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(f"{name}.json", _EPOCH_ZIP_TIME), content, method)
        text = json.dumps({f"{name}.json": one for name, one in about.items()}, indent=1)
        file.writestr(zipfile.ZipInfo(FETCH, _EPOCH_ZIP_TIME), text, method)
    return buffer.getvalue()


def files_of(body: bytes) -> dict[str, bytes]:
    """The files in a raw object, by name without extension.

    Raises:
        BodyError: it is not a zip, or unpacks to more than MAX_UNPACKED_BYTES.
    """
    if not body.strip():
        raise BodyError("file_empty", "The body is empty.")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as file:
            infos = file.infolist()
            size = sum(info.file_size for info in infos)
            if size > MAX_UNPACKED_BYTES:
                raise BodyError(
                    "file_over_limit", f"The zip unpacks to {size} bytes; at most {MAX_UNPACKED_BYTES} are read."
                )
            # `read` stops at the size that the directory declares.
            return {info.filename.removesuffix(".json"): file.read(info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, BodyError):
            raise
        message = f"The body is not a zip of GBFS files; it starts with {body[:16]!r}: {error}."
        raise BodyError("file_not_zip", message) from None


def split(body: bytes) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """The files in a raw object, and the descriptions of all its files, in it or not.

    Raises:
        BodyError: it is not a zip; or it has no readable `fetch.json`.
    """
    files = files_of(body)
    about = described(files)
    if not about:
        raise BodyError("file_no_header", f"The zip has no readable {FETCH}.")
    del files[FETCH.removesuffix(".json")]
    return files, about


def described(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """What `fetch.json` says of each file, by name without extension; nothing if it cannot be read."""
    try:
        about = json.loads(files[FETCH.removesuffix(".json")])
        return {name.removesuffix(".json"): dict(one) for name, one in about.items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def elsewhere(files: Mapping[str, bytes]) -> dict[str, str]:
    """The files of a raw object that are not in it: the name of the zip that holds each, by name."""
    about = described(files)
    return {n: one["in"] for n, one in about.items() if n not in files and isinstance(one.get("in"), str)}


def sha256_of(content: bytes) -> str:
    """The hash by which a file is recognised."""
    return hashlib.sha256(content).hexdigest()


def content_of(body: bytes) -> str:
    """A digest of the files that rows are made from: equal for two fetches of a system that has not changed.

    Without the discovery file, whose time changes in some systems with each request. Empty if it is not a zip of ours.
    """
    try:
        files, about = split(body)
    except BodyError:
        return ""
    found = sorted((name, about[name].get("sha256", "")) for name in files if name in about and name != "gbfs")
    return sha256_of(json.dumps(found).encode()) if found else ""


def without_repeats(body: bytes, homes: Homes, key: str) -> tuple[bytes, dict[str, tuple[str, str]]]:
    """A whole zip without the files that an earlier one of the same day holds, and where each file is from now on.

    Args:
        body: The zip; one that is not ours is returned as it is.
        homes: Where files are.
        key: The key under which the zip is to be stored.
    """
    try:
        files, about = split(body)
    except BodyError:
        return body, {}
    folder, _, _ = key.rpartition("/")
    found: dict[str, tuple[str, str]] = {}
    for name in list(files):
        sha256, home = str(about.get(name, {}).get("sha256", "")), homes.get(name, ("", ""))
        if sha256 and home[0] == sha256 and home[1] != key and home[1].rpartition("/")[0] == folder:
            about[name]["in"] = home[1].rpartition("/")[2]
            del files[name]
            found[name] = home
        else:
            found[name] = (sha256, key)
    return zipped(files, about), found


def zips_needed(body: bytes) -> frozenset[str]:
    """The names of the zips that hold files of this one; none if it is whole, or not a zip of ours."""
    try:
        return frozenset(elsewhere(files_of(body)).values())
    except BodyError:
        return frozenset()


def whole(body: bytes, others: Mapping[str, bytes]) -> bytes:
    """A zip with the files that other ones hold, by name.

    Raises:
        LookupError: one of them does not hold the very file.
    """
    files, about = split(body)
    for name, home in elsewhere(files_of(body)).items():
        try:
            content = files_of(others[home]).get(name, b"")
        except BodyError as error:
            raise LookupError(f"the file {name} is in {home}, which cannot be read: {error}") from None
        if sha256_of(content) != about[name].get("sha256"):
            raise LookupError(f"the file {name} is not the one in {home}, as {FETCH} says")
        files[name] = content
    return zipped({name: files[name] for name in about if name in files}, about, packed=False)
