"""The types of columns: DuckDB's names with Arrow's."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from wrm_pipeline.analytics.registry.model import Table
from wrm_pipeline.domain.schemas import UTC_TIMESTAMP

_ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "TIMESTAMP WITH TIME ZONE": UTC_TIMESTAMP,
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "SMALLINT": pa.int16(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
}
_SQL_TYPES = {arrow: name for name, arrow in _ARROW_TYPES.items()}
_SHORT = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}
_LONG = {short: name for name, short in _SHORT.items()}


def short_type(name: str) -> str:
    """A type as the registry spells it, from DuckDB's own tables."""
    return _SHORT.get(name, name)


def sql_type(arrow_type: pa.DataType) -> str:
    """DuckDB's name, as in its own tables, of one of our Arrow types."""
    return _SQL_TYPES[arrow_type]


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a type in the registry."""
    return _ARROW_TYPES[_LONG.get(name, name)]


def table_schema(table: Table) -> pa.Schema:
    """A table's columns as Arrow's."""
    return pa.schema([(column.name, arrow_type(column.type)) for column in table.columns])


def rows_of(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows by column name, for a table."""
    return pa.Table.from_pylist([dict(row) for row in rows], table_schema(table))
