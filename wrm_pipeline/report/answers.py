"""What the pages ask of the database: a query with the tables that it reads, and its answer.

A dataset whose tables or columns do not exist yet is omitted, and its page says which asset makes them.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from wrm_pipeline.domain.shown import shortened


@dataclass(frozen=True, slots=True)
class Dataset:
    """One query over tables of `wrm_analytics`, all of whose names are in `tables`.

    `columns` are those that a table of an older version may lack, as `table.column`.
    """

    tables: tuple[str, ...]
    sql: str
    columns: tuple[str, ...] = ()

    def missing(self, existing: Collection[str]) -> list[str]:
        """What does not exist, given the names of tables and, as `table.column`, of columns."""
        absent = sorted(set(self.tables) - set(existing))
        return absent or sorted(set(self.columns) - set(existing))


# When each table was last made, for the line below each figure.
REFRESHED = Dataset(
    ("catalog_tables",),
    "SELECT name, refreshed_at FROM wrm_analytics.catalog_tables WHERE kind <> 'asset' AND refreshed_at IS NOT NULL",
)


# Of a value in a page: the SQL of a view is our longest.
MAX_VALUE_LENGTH = 20_000


@dataclass(frozen=True, slots=True)
class Answers:
    """The database's answers; `missing` contains the tables and columns that were requested but do not exist.

    `existing` are the names of all tables, and of all columns as `table.column`.
    """

    existing: Collection[str] = ()
    query: Callable[[str], pa.Table] | None = None
    missing: set[str] = field(default_factory=set)

    def rows(self, dataset: Dataset) -> pa.Table | None:
        """The result, or None if a table or column is missing."""
        absent = dataset.missing(self.existing)
        self.missing.update(absent)
        return None if absent or self.query is None else self.query(dataset.sql.strip())

    def refreshed(self) -> dict[str, datetime]:
        """When each table was last made; empty without a catalog."""
        found = self.rows(REFRESHED)
        return {} if found is None else {row["name"]: row["refreshed_at"] for row in found.to_pylist()}

    def page_value(self, dataset: Dataset, refreshed: Mapping[str, datetime]) -> dict[str, Any]:
        """A dataset as the page needs it, with its source."""
        found, about = self.rows(dataset), self.about(dataset, refreshed)
        if found is None:
            return about | {"columns": [], "rows": []}
        columns = [[plain(value) for value in column.to_pylist()] for column in found.columns]
        return about | {"columns": found.schema.names, "rows": list(zip(*columns, strict=True))}

    def about(self, dataset: Dataset, refreshed: Mapping[str, datetime]) -> dict[str, Any]:
        """The source of a dataset, without its rows."""
        return {
            "tables": [f"wrm_analytics.{table}" for table in dataset.tables],
            "missing": dataset.missing(self.existing),
            "refreshed": plain(min((refreshed[table] for table in dataset.tables if table in refreshed), default=None)),
            "sql": dataset.sql.strip(),
        }


def plain(value: Any) -> Any:
    """A value for JSON: instants in UTC, dates as YYYY-MM-DD, no NaN."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return None if not math.isfinite(value) else int(value) if value.is_integer() else value
    if isinstance(value, Decimal):
        return plain(float(value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return shortened(value, MAX_VALUE_LENGTH) if isinstance(value, str) else value
