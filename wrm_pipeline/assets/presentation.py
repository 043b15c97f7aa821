"""How tables, schemas and lineage are shown in the Dagster UI."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa
from tabulate import tabulate

from wrm_pipeline.domain.schemas import TableSchema, describe
from wrm_pipeline.domain.snapshot import LineCounts

PREVIEW_ROWS = 5


def preview(rows: pa.Table, count: int = PREVIEW_ROWS) -> dg.MarkdownMetadataValue:
    """The first rows as a table."""
    return dg.MetadataValue.md(markdown_table(rows.slice(0, count).to_pylist()))


def markdown_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as a Markdown table; cells are data, so what could be markup is escaped."""
    if not records:
        return "*nothing*"
    rows = [[_cell(value) for value in record.values()] for record in records]
    return str(tabulate(rows, headers=list(records[0]), tablefmt="github", disable_numparse=True))


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "hour") else str(value)
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(character, escaped)
    return text


def table_schema(schema: TableSchema) -> dg.TableSchema:
    """Columns with types, nullability and descriptions, from the one schema of the table."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=column["name"],
                type=column["type"],
                description=f"{column['description']}{' [' + column['unit'] + ']' if column['unit'] else ''}",
                constraints=dg.TableColumnConstraints(nullable=column["nullable"]),
            )
            for column in describe(schema)
        ]
    )


def arrow_table_schema(schema: pa.Schema) -> dg.TableSchema:
    """Columns and types of an Arrow schema."""
    return dg.TableSchema(columns=[dg.TableColumn(name=field.name, type=str(field.type)) for field in schema])


def column_lineage(asset: str, sources: Mapping[str, Sequence[str]]) -> dg.TableColumnLineage:
    """Which columns of `asset` each column is made from."""
    return dg.TableColumnLineage(
        deps_by_column={
            column: [dg.TableColumnDep(asset_key=dg.AssetKey(asset), column_name=name) for name in names]
            for column, names in sources.items()
        }
    )


def accounting(counts: LineCounts) -> dict[str, Any]:
    """Where the lines went; the first is the sum of the others."""
    return {
        "lines_in": counts.lines_in,
        "rows_out": counts.rows_out,
        "dead_lettered": counts.dead_lettered,
        "duplicate_rows": counts.duplicate_rows,
        "remark_lines": counts.remark_lines,
    }


def handled_rows(out: int = 0, dead_lettered: int = 0, duplicate: int = 0) -> dict[str, Any]:
    """Rows that this run handled: what the exporter adds up. Counts of a whole partition would count rows again."""
    return {"handled_rows": {"out": out, "dead_lettered": dead_lettered, "duplicate": duplicate}}
