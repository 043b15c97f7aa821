"""A column of a table in the analytics database, for the database and for the catalog alike."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `type` is DuckDB's, `unit` empty where it has none."""

    name: str
    type: str
    unit: str
    description: str
