"""Frames: Arrow, pandas or polars tables. None of the three is imported for the sake of another."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union, get_args, get_origin

import dagster as dg
import pyarrow as pa

_KINDS = {
    ("pyarrow", "Table"): "arrow",
    ("pandas", "DataFrame"): "pandas",
    ("polars", "DataFrame"): "polars",
    ("polars", "LazyFrame"): "polars lazy",
}
FRAMES = "an Arrow table, a pandas or a polars frame"


def kind_of(kind: Any) -> str | None:
    """The kind of frame that a class is, or derives from; by name, so that nothing is imported."""
    for base in getattr(kind, "__mro__", ()):
        found = _KINDS.get((base.__module__.partition(".")[0], base.__name__))
        if found is not None:
            return found
    return None


def as_arrow(value: Any) -> pa.Table | None:
    """The rows of a frame, without a pandas index; None if it is not a frame."""
    kind = kind_of(type(value))
    if kind == "arrow":
        return value
    if kind == "pandas":
        return pa.Table.from_pandas(value, preserve_index=False).replace_schema_metadata()
    if kind is not None:
        return _plain_text((value.collect() if kind == "polars lazy" else value).to_arrow())
    return None


def _plain_text(table: pa.Table) -> pa.Table:
    """Convert polars' text to the type that everything else reads."""
    special = {pa.large_string(): pa.string(), pa.string_view(): pa.string(), pa.large_binary(): pa.binary()}
    return table.cast(pa.schema([field.with_type(special.get(field.type, field.type)) for field in table.schema]))


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of several, columns matched by name; those that a table lacks are null in its rows."""
    return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


def from_arrow(table: pa.Table, kind: str) -> Any:
    """Convert a table to `kind` (see `kind_of`); pandas frames have Arrow's types, so that integers may be null."""
    if kind == "arrow":
        return table
    if kind == "pandas":
        import pandas as pd

        return table.to_pandas(types_mapper=pd.ArrowDtype)
    import polars as pl

    frame: Any = pl.from_arrow(table)
    return frame.lazy() if kind == "polars lazy" else frame


@dataclass(frozen=True, slots=True)
class Wanted:
    """The annotation of an input.

    Attributes:
        annotation: The type, without `| None`; of `dict[str, …]` what the values are.
        optional: Whether it is `… | None`: None means that it was not materialized.
        by_key: Whether it is `dict[str, …]`: each partition by its key.
    """

    annotation: Any
    optional: bool = False
    by_key: bool = False

    @classmethod
    def of(cls, context: dg.InputContext) -> "Wanted":
        """The annotation of the input; without one, that of the output that it comes from."""
        found = cls._of(context.dagster_type)
        upstream = context.upstream_output
        if found.annotation not in (Any, object) or upstream is None:
            return found
        try:
            made = cls._of(upstream.dagster_type).annotation
        except dg.DagsterInvariantViolationError:  # its type is not known here
            return found
        return replace(found, annotation=made) if kind_of(made) else found

    @classmethod
    def _of(cls, dagster_type: dg.DagsterType) -> "Wanted":
        annotation, optional = dagster_type.typing_type, False
        if get_origin(annotation) in (Union, types.UnionType):
            members: Sequence[Any] = [member for member in get_args(annotation) if member is not type(None)]
            optional = len(members) < len(get_args(annotation))
            annotation = members[0] if len(members) == 1 else annotation
        if get_origin(annotation) in (dict, Mapping):
            return cls(get_args(annotation)[1], optional, by_key=True)
        return cls(Any if annotation is dict else annotation, optional, by_key=annotation is dict)

    @property
    def frame(self) -> str:
        """The kind of frame; pandas by default.

        Raises:
            DagsterInvariantViolationError: the annotation is not a frame.
        """
        if self.annotation in (Any, object):
            return "pandas"
        kind = kind_of(self.annotation)
        if kind is None:
            raise dg.DagsterInvariantViolationError(
                f"A table cannot be loaded as {getattr(self.annotation, '__name__', self.annotation)}: annotate the "
                "input with pyarrow.Table, pandas.DataFrame, polars.DataFrame or polars.LazyFrame"
            )
        return kind
