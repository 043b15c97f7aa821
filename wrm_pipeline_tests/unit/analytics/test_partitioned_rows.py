"""Rows of partitions in a table: which are replaced, and what is refused."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest

from wrm_pipeline.analytics.partitioned_rows import (
    Dimension,
    PartitionRowsError,
    TableName,
    replace_partition,
    select_rows,
)

TABLE = TableName("s", "order")  # a word of SQL
WARSAW = ZoneInfo("Europe/Warsaw")


@pytest.fixture
def db():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def day(number: int, expression: str = "at") -> list[Dimension]:
    start, end = (datetime(2025, 8, number + n, tzinfo=WARSAW) for n in (0, 1))
    return [Dimension(expression, window=(start, end))]


def keys(*values: str, expression: str = "kind") -> list[Dimension]:
    return [Dimension(expression, keys=values)]


def rows(db, dimensions=()) -> list[dict]:
    return db.execute(select_rows(db, TABLE, dimensions)).to_arrow_table().to_pylist()


@pytest.mark.parametrize(
    "make",
    [
        lambda n, hour: datetime(2025, 8, n, hour, tzinfo=WARSAW).astimezone(UTC),
        lambda n, hour: datetime(2025, 8, n, hour),  # noqa: DTZ001
        lambda n, _: date(2025, 8, n),
        lambda n, hour: f"2025-08-{n} {hour:02}:00:00",
    ],
    ids=["with a zone", "without a zone", "date", "text"],
)
def test_a_day_is_that_of_its_zone_whatever_type_the_time_has(db, make):
    """23:00 in Warsaw is the day before in UTC."""
    for number in (21, 22, 21):
        table = pa.table({"at": [make(number, 0), make(number, 23)], "n": [number, number]})
        replace_partition(db, TABLE, table, day(number))
    assert sorted(row["n"] for row in rows(db)) == [21, 21, 22, 22]
    assert [row["n"] for row in rows(db, day(22))] == [22, 22]


def test_rows_of_another_partition_or_of_none_are_refused(db):
    replace_partition(db, TABLE, pa.table({"at": [date(2025, 8, 21)]}), day(21))
    for other in (date(2025, 8, 22), None):
        with pytest.raises(PartitionRowsError, match=r"1 of 2 rows for order are not of the partition"):
            replace_partition(db, TABLE, pa.table({"at": [date(2025, 8, 21), other]}), day(21))
    assert len(rows(db)) == 1


def test_an_expression_that_does_not_fit_is_said_with_the_columns(db):
    with pytest.raises(PartitionRowsError, match=r"partition_expr of order \(at\) .* with the columns n"):
        replace_partition(db, TABLE, pa.table({"n": [1]}), day(21))


def test_keys_with_quotes_are_values_and_numbers_are_matched(db):
    for key in ("o'x", "y", "o'x"):
        replace_partition(db, TABLE, pa.table({"kind": [key], "n": [1]}), keys(key))
    assert sorted(row["kind"] for row in rows(db)) == ["o'x", "y"]
    assert rows(db, keys()) == []
    other = TableName("s", "numbers")
    for key in ("1", "2", "1"):
        replace_partition(db, other, pa.table({"kind": [int(key)]}), keys(key))
    assert db.sql("SELECT kind FROM s.numbers ORDER BY 1").fetchall() == [(1,), (2,)]


def test_two_dimensions_together_say_which_rows(db):
    for number, kind in ((21, "a"), (21, "b"), (22, "a"), (21, "a")):
        table = pa.table({"at": [date(2025, 8, number)], "kind": [kind]})
        replace_partition(db, TABLE, table, [*day(number), *keys(kind)])
    assert len(rows(db)) == 3


def test_columns_that_come_and_go_and_change_their_type(db):
    replace_partition(db, TABLE, pa.table({"kind": ["a"], "n": [1], "empty": pa.nulls(1)}), keys("a"))
    replace_partition(db, TABLE, pa.table({"kind": ["b"], "more": ["x"], "empty": ["text"]}), keys("b"))
    replace_partition(db, TABLE, pa.table({"kind": ["c"], "n": [2.5]}), keys("c"))
    found = {row.pop("kind"): row for row in rows(db)}
    assert found == {
        "a": {"n": 1, "empty": None, "more": None},
        "b": {"n": None, "empty": "text", "more": "x"},
        "c": {"n": 2.5, "empty": None, "more": None},
    }


def test_a_table_without_the_column_is_kept_under_another_name(db):
    db.execute('CREATE SCHEMA s; CREATE TABLE s."order" AS SELECT 7 AS n')
    replace_partition(db, TABLE, pa.table({"kind": ["a"]}), keys("a"))
    assert rows(db) == [{"kind": "a"}]
    ((aside,),) = db.sql("SELECT table_name FROM duckdb_tables() WHERE table_name <> 'order'").fetchall()
    assert aside.startswith("order_before_")
    assert db.sql(f'SELECT n FROM s."{aside}"').fetchall() == [(7,)]


def test_a_partition_may_become_empty(db):
    replace_partition(db, TABLE, pa.table({"kind": ["a", "a"]}), keys("a"))
    replace_partition(db, TABLE, pa.table({"kind": pa.array([], pa.string())}), keys("a"))
    assert rows(db) == []
