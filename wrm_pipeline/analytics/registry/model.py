"""The model of the registry: a table's columns, asset, SQL, and refresh."""

from dataclasses import dataclass
from enum import Enum

from wrm_pipeline.analytics.registry.local_time import in_local_time
from wrm_pipeline.domain import asset_names

SCHEMA = "wrm_analytics"


class Refreshed(Enum):
    """When rows are made again; the value is the text for the documentation."""

    AT_QUERY = "a view: its rows are those of the Parquet at the moment of the query"
    OF_TABLE = "a view: its rows are those of its table at the moment of the query"
    BY_PARTITION = "a day at a time: by each run of its asset for that day (a partition)"
    BY_DAY = "a day at a time: when the day's enhanced object has another ETag, or the definition has changed"
    BY_DAY_OF_BIKES = (
        "a day at a time: when the bike positions of the day or of one beside it have another ETag (of today, beside "
        "it: each hour), or the rules have changed"
    )
    BY_DAY_HOURLY = (
        "a day at a time: when an object that it is made from has another ETag (of today: once an hour), or the "
        "definition has changed"
    )
    LATEST = "as a whole: when an object of the newest days has another ETag, or the definition has changed"
    LATEST_OF_BIKES = "as a whole: when the bike positions of the newest days have another ETag"
    EACH_DAY = "as a whole: when another day is over, or a day of the profile has another ETag"
    WITH_OTHERS = "as a whole: in each refresh that changes another table of its asset"
    EVERY_RUN = "as a whole: in each run of its asset"
    LEDGER = "by the refresh that it records, in the same transaction"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        type: DuckDB's, in its short form (TIMESTAMPTZ).
        description: For people.
        unit: Of its numbers; empty where they have none.
        sources: The columns of `Table.columns_from` that it is made from; empty where it is made from none.
        computed: SQL over other columns of the row, by which the database computes it when it is read; empty where it
            is stored.
    """

    name: str
    type: str
    description: str
    unit: str = ""
    sources: tuple[str, ...] = ()
    computed: str = ""

    @property
    def sql(self) -> str:
        """The column for CREATE TABLE."""
        stored = f'"{self.name}" {self.type}'
        return f"{stored} GENERATED ALWAYS AS ({self.computed}) VIRTUAL" if self.computed else stored

    @property
    def explained(self) -> str:
        """The description with the unit, if there is one: the text of comments and of the UI."""
        return f"{self.description} [{self.unit}]" if self.unit else self.description


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view of the schema `wrm_analytics`.

    Attributes:
        name: Without the schema.
        asset: The asset that makes it.
        description: What a row is.
        columns: In order.
        refreshed: When its rows are made again.
        formula: How it is computed, in words.
        limits: What it cannot tell.
        sql: Gives its rows, columns in order: those of one day where it is `by_day`; the definition of a view. Empty
            where Python makes them.
        kept_days: How many of the newest days it holds; None: all.
        key: Columns that tell its rows apart and are never null; empty where there are none such.
        sources: The tables or assets that it is made from; empty: what its asset depends on.
        columns_from: The asset whose columns its columns are made from; empty where they are made from none.
    """

    name: str
    asset: str
    description: str
    columns: tuple[Column, ...]
    refreshed: Refreshed
    formula: str = ""
    limits: str = ""
    sql: str = ""
    kept_days: int | None = None
    key: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    columns_from: str = asset_names.VIEWS

    @property
    def is_view(self) -> bool:
        """Whether it is a view of the database."""
        return self.refreshed in (Refreshed.AT_QUERY, Refreshed.OF_TABLE)

    @property
    def by_day(self) -> bool:
        """Whether its rows belong to the day in `dt`, and are replaced a day at a time."""
        return self.refreshed in (Refreshed.BY_DAY, Refreshed.BY_DAY_OF_BIKES, Refreshed.BY_DAY_HOURLY)

    @property
    def explained(self) -> str:
        """Content, computation and limits: its comment in the database."""
        return " ".join(filter(None, (self.description, self.formula, self.limits)))

    @property
    def local_sql(self) -> str:
        """Its SQL, in the time zone of this process's city."""
        return in_local_time(self.sql)

    @property
    def columns_sql(self) -> str:
        """The columns for CREATE TABLE."""
        return ", ".join(column.sql for column in self.columns)
