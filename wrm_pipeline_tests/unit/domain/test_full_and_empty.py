"""Full and empty are one thing, in SQL and in Arrow; and all that counts stations counts the same."""

from __future__ import annotations

from itertools import product

import duckdb
import pyarrow as pa
import pytest

from wrm_pipeline.domain.full_and_empty import EMPTY_SQL, FULL_SQL, empty, full

COUNTS = (None, 0, 1, 7)


@pytest.mark.parametrize(
    ("bikes", "spaces", "total_docks", "is_empty", "is_full"),
    [
        (0, 5, 5, True, False),
        (5, 0, 5, False, True),
        (45, 0, 16, False, True),
        (0, 0, 5, True, True),
        (3, 2, 5, False, False),
        (0, 0, 0, False, False),
        (7, 0, 0, False, False),
        (0, None, 5, False, False),
        (0, 5, None, False, False),
        (5, 0, None, False, False),
        (5, None, 5, False, False),
        (0, None, None, False, False),
    ],
)
def test_a_station_is_full_or_empty_only_where_its_docks_are_known(bikes, spaces, total_docks, is_empty, is_full):
    rows = table([(bikes, spaces, total_docks)])
    assert (list(empty(rows)), list(full(rows))) == ([is_empty], [is_full])


def test_sql_and_arrow_agree_on_every_combination():
    rows = table([(bikes, spaces, docks) for bikes, spaces, docks in product((0, 1), COUNTS, COUNTS)])
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        found = connection.execute(f"SELECT {EMPTY_SQL}, {FULL_SQL} FROM rows").fetchall()
    assert found == list(zip(empty(rows).tolist(), full(rows).tolist(), strict=True))


def table(values: list[tuple[int | None, int | None, int | None]]) -> pa.Table:
    columns = zip(*values, strict=True)
    return pa.table(
        {
            name: pa.array(column, pa.int32())
            for name, column in zip(("bikes", "spaces", "total_docks"), columns, strict=True)
        }
    )
