"""Finds the enhanced files that exist, are readable, or lack columns, as the basis of the views.

The results are kept in a file by key and ETag, so that only new or changed files are examined, and of these only the
footer.
"""

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrm_pipeline.analytics.database import AnalyticsDatabase
from wrm_pipeline.analytics.enhanced_views import FileGroup, escaped, missing_columns
from wrm_pipeline.analytics.registry.types import sql_type
from wrm_pipeline.clients.daemon_threads import DaemonThreads
from wrm_pipeline.domain.layout import Layout, folder_date
from wrm_pipeline.domain.schemas import ENHANCED, arrow_schema
from wrm_pipeline.lake.object_store import ObjectInfo, ObjectStore
from wrm_pipeline.logs import get_logger

if TYPE_CHECKING:
    import duckdb

_log = get_logger(__name__)

_AT_ONCE = 8
# Missing or inaccessible: not the file's fault.
_NOT_TO_BE_HAD = re.compile(r"\b(403|404)\b|No files found|No such file|Permission denied")

# Columns with DuckDB's types by path, or why a file cannot be read and whether that is permanent.
Described = Mapping[str, Mapping[str, str] | tuple[str, bool]]
Describe = Callable[[list[str]], Described]


@dataclass(frozen=True, slots=True)
class EnhancedFile:
    """A day's enhanced object.

    Attributes:
        key: In the object store.
        etag: When it was examined.
        missing: Columns that it lacks and that can be filled in.
        problem: Why the views omit it; empty if they do not.
        lasting: Whether this is valid as long as the ETag. An object that the store does not return (its own
            permissions, a cold storage class) may be returned the next time.
    """

    key: str
    etag: str
    missing: frozenset[str]
    problem: str
    lasting: bool = True

    @property
    def dt(self) -> date:
        """The partition."""
        dt = folder_date(self.key.rpartition("/")[0])
        if dt is None:
            raise ValueError(f"{self.key} is not the key of a partition")
        return dt


@dataclass(frozen=True, slots=True)
class EnhancedFiles:
    """All days' objects in order, and whether the pattern of their keys matches only them."""

    files: tuple[EnhancedFile, ...]
    pattern_is_enough: bool

    @property
    def problems(self) -> tuple[EnhancedFile, ...]:
        """The files that the views omit."""
        return tuple(file for file in self.files if file.problem)

    def newest(self, today: date) -> date | None:
        """The newest day up to today that can be read."""
        return max((file.dt for file in self.files if not file.problem and file.dt <= today), default=None)

    def sources(self, url: Callable[[str], str], pattern: str) -> str | list[FileGroup]:
        """The basis of the views: the pattern if that suffices, else the readable files, by columns."""
        readable = [file for file in self.files if not file.problem]
        if readable and self.pattern_is_enough and not any(file.problem or file.missing for file in self.files):
            return url(pattern)
        groups: dict[frozenset[str], list[str]] = defaultdict(list)
        for file in readable:
            groups[file.missing].append(url(file.key))
        return [FileGroup(tuple(paths), missing) for missing, paths in groups.items()]


def look_at_enhanced(store: ObjectStore, layout: Layout, index: Path, describe: Describe) -> EnhancedFiles:
    """List the layer, and examine new or changed files; `index` is the file with earlier results.

    Raises:
        ExternalError: the store cannot be listed.
        duckdb.Error: a file could not be examined, for a reason other than its content.
    """
    infos, others = _listed(store, layout)
    known = _read_index(index, store.name)
    files = {info.key: known[info.key] for info in infos if _is_known(info, known.get(info.key))}
    new = [info for info in infos if info.key not in files]
    if new:
        started = time.monotonic()
        described = describe([store.url(info.key) for info in new])
        for info in new:
            known[info.key] = files[info.key] = _judged(info, described[store.url(info.key)])
        _log.info("examined enhanced files", files=len(new), seconds=round(time.monotonic() - started, 3))
    kept = {key: file for key, file in known.items() if key in files}
    if new or len(kept) != len(known):
        _write_index(index, store.name, kept)
    return EnhancedFiles(tuple(files[info.key] for info in infos), not others)


def known_problems(index: Path, store_name: str) -> list[EnhancedFile]:
    """The files omitted from the views at the last examination; makes no request."""
    return [file for file in _read_index(index, store_name).values() if file.problem]


def describe_by(database: AnalyticsDatabase) -> Describe:
    """Examine files with DuckDB, which will also read them."""

    def describe(paths: list[str]) -> Described:
        connection = database.scratch()
        with DaemonThreads(min(_AT_ONCE, len(paths)), "describe") as threads:
            found = threads.map_all(lambda path: _described(connection.cursor(), path), paths)
        connection.close()  # not after a cancel: it waits for all cursors, and one may wait for a silent server
        return dict(zip(paths, found, strict=True))

    return describe


def _described(cursor: "duckdb.DuckDBPyConnection", path: str) -> Mapping[str, str] | tuple[str, bool]:
    import duckdb

    try:
        rows = cursor.execute("DESCRIBE FROM read_parquet(?, hive_partitioning = false)", [escaped(path)]).fetchall()
    except (duckdb.HTTPException, duckdb.IOException) as error:
        if not _NOT_TO_BE_HAD.search(str(error)):
            raise
        return str(error).splitlines()[0], False
    except duckdb.Error as error:
        return f"it is not a Parquet file that can be read ({str(error).splitlines()[0]})", True
    finally:
        cursor.close()
    return {name: kind for name, kind, *_ in rows}


def _judged(info: ObjectInfo, described: Mapping[str, str] | tuple[str, bool]) -> EnhancedFile:
    if isinstance(described, tuple):
        problem, lasting = described
        return EnhancedFile(info.key, info.etag, frozenset(), problem, lasting)
    missing, problem = missing_columns(described)
    return EnhancedFile(info.key, info.etag, missing, problem)


def _is_known(info: ObjectInfo, known: EnhancedFile | None) -> bool:
    return known is not None and known.lasting and known.etag == info.etag


def _listed(store: ObjectStore, layout: Layout) -> tuple[list[ObjectInfo], list[str]]:
    """The days' objects, and other keys that the pattern of their keys matches: `dt=foo/…`, another day's name."""
    prefix = layout.layer_prefix("enhanced")
    alike = re.compile(re.escape(layout.partition_glob("enhanced")).replace(r"\*", ".*"))
    infos, others = [], []
    for info in store.list(prefix):
        dt = folder_date(info.key.rpartition("/")[0])
        if dt is not None and info.key == layout.partition_key("enhanced", dt):
            infos.append(info)
        elif alike.fullmatch(info.key):
            others.append(info.key)
    return infos, others


def _schema_id() -> str:
    columns = [(field.name, sql_type(field.type), field.nullable) for field in arrow_schema(ENHANCED)]
    return hashlib.sha256(repr(columns).encode()).hexdigest()[:16]


def _read_index(path: Path, store_name: str) -> dict[str, EnhancedFile]:
    """Earlier results; empty if the index is for another lake or other columns, or cannot be read."""
    try:
        content = json.loads(path.read_bytes())
        if (content["store"], content["schema"]) != (store_name, _schema_id()):
            return {}
        return {
            key: EnhancedFile(key, etag, frozenset(missing), problem, lasting)
            for key, (etag, missing, problem, lasting) in content["files"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _write_index(path: Path, store_name: str, files: Mapping[str, EnhancedFile]) -> None:
    content: dict[str, Any] = {
        "store": store_name,
        "schema": _schema_id(),
        "files": {
            key: [file.etag, sorted(file.missing), file.problem, file.lasting] for key, file in sorted(files.items())
        },
    }
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, ensure_ascii=False))
        temporary.replace(path)
    except OSError as error:
        _log.warning("the index of enhanced files could not be stored; they will be examined again", error=str(error))
