"""The views over the enhanced Parquet, as SQL.

Paths are data: patterns and partition columns in them are escaped.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from wrm_pipeline.analytics.registry.types import sql_type
from wrm_pipeline.analytics.registry.views import (
    BIKES_ONLY,
    ENHANCED_DATA,
    NEWEST,
    OLD_NAME,
    POSITIONS,
    STATIONS_LATEST,
    STATIONS_ONLY,
)
from wrm_pipeline.domain.schemas import BIKE_POSITIONS, ENHANCED, TableSchema, arrow_schema

# Columns that parser version 1 did not write, and their values in its rows.
LATER_COLUMNS = {"feed": "'ucl'", "count_capped": "false"}

_HIVE_PART = re.compile(r"([^=/]+)=[^/]*")
_DT_OF_PATH = "CAST(regexp_extract(filename, '/dt=([0-9-]{10})/[^/]*$', 1) AS DATE)"


@dataclass(frozen=True, slots=True)
class ViewSet:
    """The views over the enhanced Parquet, as SQL by name; `newest` is the date for `latest`."""

    definitions: Mapping[str, str]
    newest: date | None


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files, by path or s3:// URL, that lack the same columns."""

    paths: tuple[str, ...]
    missing: frozenset[str] = frozenset()


def missing_columns(columns: Mapping[str, str]) -> tuple[frozenset[str], str]:
    """The columns that an enhanced file lacks, by its columns' types in DuckDB; and why it is not ours, if so.

    Columns that only we can fill in, and nullable ones, may be missing.
    """
    missing, wrong = set(), []
    for field in arrow_schema(ENHANCED):
        found = columns.get(field.name)
        if found is None and (field.name in LATER_COLUMNS or field.nullable):
            missing.add(field.name)
        elif found is None:
            wrong.append(f"it has no column {field.name}")
        elif found != sql_type(field.type):
            wrong.append(f"its column {field.name} is of type {found} instead of {sql_type(field.type)}")
    return frozenset(missing), "; ".join(wrong[:3]) + ("; …" if len(wrong) > 3 else "")


def enhanced_views(files: str | Sequence[FileGroup], newest: date | None, positions: str = "") -> ViewSet:
    """The views of the data contract.

    `files` is a path or s3:// URL of all partitions whose last two parts are patterns. It includes new days
    automatically, but requires that all files have the same columns; groups of files are for other lakes. Without any
    file the views are empty, with all columns. `positions` is the path or URL of all partitions of bike positions;
    empty without any.
    """
    if newest is None or not files:
        everything = _nothing(ENHANCED)
    elif isinstance(files, str):
        everything = _select([_as_pattern(files)], frozenset(), files)
    else:
        everything = " UNION ALL ".join(
            _select([escaped(path) for path in group.paths], group.missing, group.paths[0]) for group in files
        )
    newest_date = str(newest or date(1970, 1, 1))
    derived = (STATIONS_ONLY, BIKES_ONLY, STATIONS_LATEST, OLD_NAME)
    others = {view.name: view.sql.replace(NEWEST, newest_date) for view in derived}
    stays = _rows([_as_pattern(positions)], list(BIKE_POSITIONS.columns), positions, BIKE_POSITIONS)
    others[POSITIONS.name] = stays if positions else _nothing(BIKE_POSITIONS)
    return ViewSet({ENHANCED_DATA.name: everything, **others}, newest)


def _nothing(schema: TableSchema) -> str:
    columns = [f"NULL::{sql_type(field.type)} AS {field.name}" for field in arrow_schema(schema)]
    return f"SELECT {', '.join(columns)}, NULL::DATE AS dt WHERE false"


def _select(patterns: Sequence[str], missing: Collection[str], path: str) -> str:
    """Rows of files, with all columns, each in its type, and `dt` from the folder's name."""
    columns = [
        f"{LATER_COLUMNS.get(field.name, 'NULL')}::{sql_type(field.type)} AS {field.name}"
        if field.name in missing
        else field.name
        for field in arrow_schema(ENHANCED)
    ]
    return _rows(patterns, columns, path, ENHANCED)


def _rows(patterns: Sequence[str], columns: Sequence[str], path: str, schema: TableSchema) -> str:
    listed = ", ".join(f"'{pattern.replace(chr(39), chr(39) * 2)}'" for pattern in patterns)
    source = listed if len(patterns) == 1 else f"[{listed}]"
    if _reads_as_column(path, schema):
        # Seven times slower to group by, but the only way if the lake's own path would set a column.
        dt, options = f"{_DT_OF_PATH} AS dt", "hive_partitioning = false, filename = true"
    else:
        # Text, and cast: min and max of a partition column cause an internal error if one file is left (1.5.5). The
        # price: a literal still excludes files, a value from a join does not.
        dt, options = "CAST(dt AS DATE) AS dt", "hive_partitioning = true, hive_types = {'dt': VARCHAR}"
    return f"SELECT {', '.join(columns)}, {dt} FROM read_parquet({source}, {options})"


def _reads_as_column(path: str, schema: TableSchema) -> bool:
    """Whether a folder above the partitions is named like a partition of one of the columns."""
    above = path.rsplit("/", 2)[0]
    ours = {"dt", *(name.lower() for name in schema.columns)}
    return any(found[1].lower() in ours for found in map(_HIVE_PART.fullmatch, above.split("/")) if found)


def _as_pattern(files: str) -> str:
    above, *last = files.rsplit("/", 2)
    return "/".join([escaped(above), *last])


def escaped(path: str) -> str:
    """A path as a pattern that matches it alone.

    DuckDB takes a backslash as the end of a folder's name, so a single-character wildcard replaces it.
    """
    return re.sub(r"[*?\[\\]", lambda found: "?" if found[0] == "\\" else f"[{found[0]}]", path)
