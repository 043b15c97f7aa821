"""Generates docs/tables.md from the registry (`make docs-tables`)."""

import sys
from collections.abc import Iterable

from wrm_pipeline.analytics.registry import SCHEMA, TABLES, Table

_HEAD = f"""# Tables

For users of the database: all tables and views of `{SCHEMA}`, in the order of the registry
(`wrm_pipeline/analytics/registry/`), from which this page is generated (`make docs-tables`); a test checks that. The
database has the same information as comments and in `catalog_tables` and `catalog_columns`. Examples of queries:
[queries](queries.md).
"""


def tables_page() -> str:
    """The page, as Markdown."""
    tables = list(TABLES.values())
    sections = [_section(table, before) for table, before in zip(tables, _befores(tables), strict=True)]
    return "\n".join([_HEAD, *sections])


def _befores(tables: list[Table]) -> list[Table | None]:
    """For each table, an earlier one with the same columns."""
    return [
        next((other for other in tables[:number] if _shown(other) == _shown(table)), None)
        for number, table in enumerate(tables)
    ]


def _section(table: Table, like: Table | None) -> str:
    kept = f"; the newest {table.kept_days} days" if table.kept_days else ""
    lines = [f"## {table.name}", "", _text(table.description), ""]
    lines += [f"- {name}: {_text(text)}" for name, text in (("How", table.formula), ("Limits", table.limits)) if text]
    lines += [f"- Made by `{table.asset}`, {_text(table.refreshed.value)}{kept}", ""]
    if like is not None:
        return "\n".join([*lines, f"Columns: those of [{like.name}](#{like.name}).", ""])
    return "\n".join([*lines, "| column | type | unit | meaning |", "|---|---|---|---|", *_rows(table), ""])


def _rows(table: Table) -> Iterable[str]:
    for column in table.columns:
        yield f"| `{column.name}` | {column.type} | {_text(column.unit)} | {_text(column.description)} |"


def _shown(table: Table) -> list[tuple[str, str, str, str]]:
    return [(column.name, column.type, column.unit, column.description) for column in table.columns]


def _text(text: str) -> str:
    """Text without markup: underscores and bars in names are escaped."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(tables_page())
