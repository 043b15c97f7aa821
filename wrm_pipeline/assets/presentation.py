"""How tables, schemas and lineage are shown in the Dagster UI."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa
from tabulate import tabulate

from wrm_pipeline.analytics import lineage
from wrm_pipeline.analytics.lineage import RAW_COLUMNS, shown_columns
from wrm_pipeline.domain.schemas import TableSchema, describe
from wrm_pipeline.domain.shown import cell
from wrm_pipeline.domain.snapshot import LineCounts
from wrm_pipeline.resources.lake import LakeResource

PREVIEW_ROWS = 5


def picture(svg: str, what: str) -> dg.MarkdownMetadataValue:
    """A drawing, shown in the UI; `what` is the alternative text."""
    content = base64.b64encode(svg.encode()).decode()
    return dg.MetadataValue.md(f"![{what}](data:image/svg+xml;base64,{content})")


def page(lake: LakeResource, name: str) -> dg.MetadataValue[Any]:
    """A link to a page of `reports/`: at WRM_REPORT_URL if that is set, else where it is stored."""
    if lake.settings.report_url:
        return dg.MetadataValue.url(f"{lake.settings.report_url.rstrip('/')}/{name}")
    place = lake.store.url(lake.layout.report_key(name))
    return dg.MetadataValue.url(f"file://{place}") if place.startswith("/") else dg.MetadataValue.text(place)


def preview(rows: pa.Table, count: int = PREVIEW_ROWS) -> dg.MarkdownMetadataValue:
    """The first rows as a table."""
    return dg.MetadataValue.md(markdown_table(rows.slice(0, count).to_pylist()))


def markdown_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as a Markdown table; cells are data, so markup is escaped, and they are cut at MAX_CELL."""
    if not records:
        return "*nothing*"
    rows = [[_cell(value) for value in record.values()] for record in records]
    return str(tabulate(rows, headers=list(records[0]), tablefmt="github", disable_numparse=True))


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:%Y-%m-%d %H:%M:%S}" if hasattr(value, "hour") else str(value)
    return cell(text).translate(_MARKUP)


# The reader's browser would load links and images in foreign text.
_MARKUP = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "[": "&#91;", "]": "&#93;", "`": "&#96;", "\\": "&#92;"}
)


def table_schema(schema: TableSchema) -> dg.TableSchema:
    """Columns with types, nullability and descriptions, from the table's schema."""
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


def raw_schema() -> dg.TableSchema:
    """The feed's columns: text, as it is in the raw objects."""
    return dg.TableSchema(
        columns=[dg.TableColumn(name, "string", description) for name, description in RAW_COLUMNS.items()]
    )


def table_metadata(asset: str) -> dict[str, Any]:
    """The registry's description of the columns of an asset's tables, for the asset's definition."""
    deps = column_lineage(asset)
    lineage_shown = {"dagster/column_lineage": deps} if deps.deps_by_column else {}
    return {"dagster/column_schema": _column_schema(asset), **lineage_shown}


def _column_schema(asset: str) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name, column.type, column.explained) for name, (_, column) in shown_columns(asset).items()
        ]
    )


def column_lineage(asset: str) -> dg.TableColumnLineage:
    """The columns of other assets that each column of `asset` is made from."""
    return dg.TableColumnLineage(
        deps_by_column={
            column: [
                dg.TableColumnDep(asset_key=dg.AssetKey(origin.asset), column_name=name)
                for origin in origins
                for name in origin.columns
            ]
            for column, origins in lineage.column_lineage(asset).items()
        }
    )


def accounting(counts: LineCounts) -> dict[str, Any]:
    """The outcome of the lines; the first number is the sum of the others."""
    return {
        "lines_in": counts.lines_in,
        "rows_out": counts.rows_out,
        "dead_lettered": counts.dead_lettered,
        "duplicate_rows": counts.duplicate_rows,
        "remark_lines": counts.remark_lines,
    }


def handled_rows(out: int = 0, dead_lettered: int = 0, duplicate: int = 0) -> dict[str, Any]:
    """Rows that this run handled, which the exporter sums up: counts of a whole partition would count rows twice."""
    return {"handled_rows": {"out": out, "dead_lettered": dead_lettered, "duplicate": duplicate}}
