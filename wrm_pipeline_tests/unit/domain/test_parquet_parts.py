"""The growing Parquet file: any reader understands it, frozen bytes stay, and it does not grow by its garbage."""

from datetime import timedelta

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrm_pipeline.domain import parquet_parts
from wrm_pipeline.domain.parquet_parts import ParquetParts, PartsWriter
from wrm_pipeline.domain.schemas import ENHANCED, PROCESSED, arrow_schema
from wrm_pipeline.domain.snapshot import parse_snapshots
from wrm_pipeline_tests.fixtures.snapshots import AT, BATTERY, body, line, plain, raw

SCHEMA = arrow_schema(PROCESSED)
FROZEN_ROWS = 10


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    monkeypatch.setattr(parquet_parts, "FROZEN_ROWS", FROZEN_ROWS)


def rows(minute: int, count: int = 4) -> pa.Table:
    """A snapshot's rows, strings dictionary-encoded, as the parser gives them."""
    at = AT + timedelta(minutes=minute)
    lines = (line(id=f"15{i:03}", name=f"Łódzka {i}", battery=str(i % 90)) for i in range(count))
    return parse_snapshots([raw(body(*lines), at, f"raw/{minute:04}.txt")]).rows


def write(*tables: pa.Table, previous: ParquetParts | None = None, build_id: str = "b", footer_metadata=None) -> bytes:
    """A file of the frozen groups of `previous` and these rows."""
    writer = PartsWriter(SCHEMA, build_id, previous)
    for table in tables:
        writer.write(table)
    return writer.finish(footer_metadata or {})


def append(previous: ParquetParts, table: pa.Table, build_id: str) -> ParquetParts:
    """One more snapshot, as a build does it: frozen groups are copied, the others written again."""
    tail = list(previous.read_groups(previous.frozen_count))
    return ParquetParts.open(write(*tail, table, previous=previous, build_id=build_id))


def published(*tables: pa.Table) -> pa.Table:
    return pa.concat_tables([plain(table) for table in tables])


def grown(builds: int) -> ParquetParts:
    parts = ParquetParts.open(write(rows(0), build_id="0"))
    for minute in range(1, builds):
        parts = append(parts, rows(minute), str(minute))
    return parts


# --- readers ---


def test_pyarrow_reads_the_schema_of_the_contract_and_no_dictionaries():
    data = grown(9).data
    table = pq.read_table(pa.BufferReader(data))
    assert table.schema.remove_metadata().equals(SCHEMA)
    assert table.schema.field("station_id").type == pa.string()
    assert table.equals(
        published(*(rows(minute) for minute in range(9))).replace_schema_metadata(table.schema.metadata)
    )


@pytest.fixture(params=[1, 2], ids=["encoded in turn", "encoded beside"])
def cores(request):
    before = pa.cpu_count()
    pa.set_cpu_count(request.param)
    yield request.param
    pa.set_cpu_count(before)


def test_the_bytes_do_not_depend_on_the_cores(cores):
    many = [rows(minute, 25) for minute in range(8)]
    at_once = write(*many)
    pa.set_cpu_count(3 - cores)
    assert write(*many) == at_once
    assert ParquetParts.open(at_once).frozen_count == 20


def test_a_row_group_that_cannot_be_encoded_fails_the_build(cores, monkeypatch):
    def full(*_):
        raise MemoryError("no memory for a row group")

    monkeypatch.setattr(parquet_parts._GroupsFile, "write_group", full)
    with pytest.raises(MemoryError, match="row group"):
        write(rows(0, FROZEN_ROWS))


def test_the_file_names_no_arrow_schema_that_would_make_readers_disagree():
    assert b"ARROW:schema" not in pq.read_metadata(pa.BufferReader(grown(3).data)).metadata


def test_nulls_are_forbidden_in_the_file_where_the_contract_forbids_them():
    schema = pq.read_metadata(pa.BufferReader(write(rows(0)))).schema
    required = {schema.column(i).name for i in range(len(schema)) if schema.column(i).max_definition_level == 0}
    assert required == {field.name for field in SCHEMA if not field.nullable}


def test_pandas_reads_it(tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(grown(9).data)
    frame = pd.read_parquet(path)
    expected = published(*(rows(minute) for minute in range(9))).to_pandas()
    pd.testing.assert_frame_equal(frame, expected)


def test_duckdb_reads_it(tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(grown(9).data)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        types = {
            name: kind
            for name, kind, *_ in connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
        }
        found = connection.execute("SELECT * FROM read_parquet(?)", [str(path)]).to_arrow_table()
    assert types | {"lat": "", "lon": ""} == {
        **dict.fromkeys(("station_id", "name", "s3_source_key", "feed"), "VARCHAR"),
        **dict.fromkeys(("timestamp", "file_timestamp"), "TIMESTAMP WITH TIME ZONE"),
        **dict.fromkeys(("gmt_local_diff_sec", "gmt_servertime_diff_sec", "bikes", "spaces", "total_docks"), "INTEGER"),
        **dict.fromkeys(("installed", "locked", "temporary", BATTERY, "count_capped"), "BOOLEAN"),
        "battery_pct": "SMALLINT",
        "pedelecs": "INTEGER",
        "lat": "",
        "lon": "",
    }
    assert found.to_pylist() == published(*(rows(minute) for minute in range(9))).to_pylist()


def test_duckdb_finds_rows_by_statistics_in_frozen_and_unfrozen_groups(tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(grown(9).data)
    with duckdb.connect() as connection:
        for minute in range(9):
            (count,) = connection.execute(
                "SELECT count(*) FROM read_parquet(?) WHERE file_timestamp = ?::TIMESTAMPTZ AND station_id = '15003'",
                [str(path), (AT + timedelta(minutes=minute)).isoformat()],
            ).fetchone()
            assert count == 1


def test_nulls_and_flags_come_back():
    lines = [line(id="1", battery=""), line(id="2", battery="true"), line(id="3", battery="55")]
    table = parse_snapshots([raw(body(*lines))]).rows
    found = pq.read_table(pa.BufferReader(write(table)))
    assert found[BATTERY].to_pylist() == [None, True, None]
    assert found["battery_pct"].to_pylist() == [None, None, 55]


# --- sealing ---


@pytest.mark.parametrize(
    ("sizes", "groups", "frozen"),
    [
        ([], [], 0),
        ([1], [1], 0),
        ([9], [9], 0),
        ([10], [10], 1),
        ([11], [10, 1], 1),
        ([4, 4, 4], [10, 2], 1),
        ([20], [10, 10], 2),
        ([35, 4, 1], [10, 10, 10, 10], 4),
        ([9, 0, 1, 0], [10], 1),
    ],
)
def test_row_groups_are_frozen_when_they_are_full(sizes, groups, frozen):
    tables = [rows(minute, size) if size else rows(minute, 1).slice(0, 0) for minute, size in enumerate(sizes)]
    parts = ParquetParts.open(write(*tables))
    assert [parts.metadata.row_group(i).num_rows for i in range(parts.group_count)] == groups
    assert (parts.frozen_count, len(parts.group_ids)) == (frozen, frozen)
    assert parts.row_count == sum(sizes)
    assert pq.read_table(pa.BufferReader(parts.data)).num_rows == sum(sizes)


def test_bytes_of_frozen_groups_are_copied_as_they_are():
    parts = grown(6)
    before = parts.frozen_count
    assert before == 2
    end = parquet_parts._end_of_groups(parts.frozen)
    for minute in range(6, 14):
        parts = append(parts, rows(minute), str(minute))
        assert parts.data[:end] == grown(6).data[:end]
    assert parts.frozen_count > before


def test_frozen_groups_keep_their_ids_and_new_ones_are_named_by_their_build():
    parts, seen = grown(1), []
    for minute in range(1, 12):
        parts = append(parts, rows(minute), str(minute))
        assert list(parts.group_ids[: len(seen)]) == seen
        seen = list(parts.group_ids)
    assert seen == ["2/0", "4/1", "7/2", "9/3"]


def test_a_file_is_the_same_rows_however_it_was_cut_into_builds():
    tables = [rows(minute) for minute in range(12)]
    at_once = pq.read_table(pa.BufferReader(write(*tables)))
    in_steps = pq.read_table(pa.BufferReader(grown(12).data))
    assert in_steps.equals(at_once)


def test_a_file_does_not_grow_by_garbage_over_500_appends(monkeypatch):
    monkeypatch.setattr(parquet_parts, "FROZEN_ROWS", 70)
    parts = ParquetParts.open(write(rows(0), build_id="0"))
    for minute in range(1, 500):
        parts = append(parts, rows(minute), str(minute))
    at_once = write(*(rows(minute) for minute in range(500)))
    assert pq.read_table(pa.BufferReader(parts.data)).equals(pq.read_table(pa.BufferReader(at_once)))
    assert parts.frozen_count == 28
    assert len(parts.data) < len(at_once) * 1.05


def test_there_are_no_bytes_in_the_file_that_its_footer_does_not_name():
    for builds in range(1, 12):
        parts = grown(builds)
        groups = [parts.metadata.row_group(group) for group in range(parts.group_count)]
        chunks = [group.column(column) for group in groups for column in range(parts.metadata.num_columns)]
        end = len(b"PAR1")
        for chunk in chunks:
            assert (chunk.dictionary_page_offset or chunk.data_page_offset) == end
            end += chunk.total_compressed_size
        footer_size = int.from_bytes(parts.data[-8:-4], "little")
        assert end + footer_size + 8 == len(parts.data)


def test_a_build_that_adds_nothing_keeps_the_file():
    parts = grown(7)
    again = ParquetParts.open(write(*parts.read_groups(parts.frozen_count), previous=parts, build_id="x"))
    assert (again.group_ids, again.row_count) == (parts.group_ids, parts.row_count)
    assert len(again.data) == len(parts.data)


def test_without_previous_nothing_is_taken_over():
    parts = ParquetParts.open(write(rows(99), build_id="x"))
    assert (parts.row_count, parts.group_ids) == (4, ())


def test_the_writer_knows_its_rows_before_it_is_finished():
    writer = PartsWriter(SCHEMA, "b", grown(6))
    assert writer.row_count == 20
    writer.write(rows(9, 13))
    assert writer.row_count == 33


# --- reading back ---


def test_groups_are_read_one_by_one_with_strings_as_dictionaries():
    parts = grown(6)
    groups = list(parts.read_groups())
    assert [group.num_rows for group in groups] == [10, 10, 4]
    for group in groups:
        assert pa.types.is_dictionary(group.schema.field("station_id").type)
        assert all(column.num_chunks == 1 for column in group.columns)
    assert published(*groups).equals(published(*(rows(minute) for minute in range(6))))
    assert [group.num_rows for group in parts.read_groups(1)] == [10, 4]
    assert [group.num_rows for group in parts.read_groups(1, 2)] == [10]
    assert next(parts.read_groups(columns=["bikes"])).schema.names == ["bikes"]


def test_the_highest_value_of_a_group_comes_from_its_statistics():
    parts = grown(6)
    highest = [parts.highest("file_timestamp", group) for group in range(3)]
    assert highest == [AT + timedelta(minutes=minute) for minute in (2, 4, 5)]
    assert highest[0].utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "footer_metadata", [{}, {"a": 1}, {"Ł": ["x", None, {"b": [1.5, True]}]}, {"long": ["ab"] * 50_000}]
)
def test_footer_metadata_comes_back(footer_metadata):
    assert ParquetParts.open(write(rows(0), footer_metadata=footer_metadata)).footer_metadata == footer_metadata


def test_notes_of_before_are_gone():
    first = ParquetParts.open(write(rows(0, 12), footer_metadata={"old": 1}))
    assert ParquetParts.open(write(rows(1), previous=first, footer_metadata={"new": 2})).footer_metadata == {"new": 2}


# --- empty and foreign files ---


def test_an_empty_partition_is_a_file_with_the_schema():
    parts = ParquetParts.open(write(footer_metadata={"a": 1}))
    assert (parts.row_count, parts.group_count, parts.frozen_count, parts.footer_metadata) == (0, 0, 0, {"a": 1})
    table = pq.read_table(pa.BufferReader(parts.data))
    assert table.schema.remove_metadata().equals(SCHEMA)
    assert list(parts.read_groups()) == []
    assert append(parts, rows(0), "1").row_count == 4


def test_an_empty_partition_is_read_by_duckdb_and_pandas(tmp_path):
    path = tmp_path / "p.parquet"
    path.write_bytes(write())
    with duckdb.connect() as connection:
        assert connection.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchone() == (0,)
    assert list(pd.read_parquet(path).columns) == SCHEMA.names


def test_a_file_of_another_writer_has_no_footer_metadata_and_nothing_frozen():
    sink = pa.BufferOutputStream()
    pq.write_table(published(rows(0, 25)), sink, row_group_size=10)
    parts = ParquetParts.open(sink.getvalue().to_pybytes())
    assert (parts.footer_metadata, parts.frozen, parts.group_ids, parts.row_count) == ({}, None, (), 25)
    assert [group.num_rows for group in parts.read_groups()] == [10, 10, 5]
    assert ParquetParts.open(write(rows(1), previous=parts)).row_count == 4


@pytest.mark.parametrize("data", [b"", b"PAR1", b"<html>", b"x" * 1000])
def test_what_is_no_parquet_file_is_refused(data):
    with pytest.raises(pa.ArrowInvalid):
        ParquetParts.open(data)


def test_a_file_that_was_cut_off_is_refused():
    with pytest.raises(pa.ArrowInvalid):
        ParquetParts.open(grown(3).data[:-20])


# --- what is written ---


def test_plain_strings_can_be_written_too():
    table = published(rows(0))
    assert pq.read_table(pa.BufferReader(write(table))).equals(pq.read_table(pa.BufferReader(write(rows(0)))))


def test_strings_of_both_kinds_can_be_written_one_after_the_other():
    data = write(rows(0, 3), rows(1, 3))
    assert pq.read_table(pa.BufferReader(data)).num_rows == 6


def test_a_null_where_none_may_be_is_not_written():
    table = published(rows(0))
    broken = table.set_column(0, "station_id", pa.array([None] * 4, pa.string()))
    with pytest.raises(ValueError, match="station_id"):
        write(broken)


def test_columns_are_compressed():
    metadata = ParquetParts.open(grown(6).data).metadata
    kinds = {metadata.row_group(g).column(c).compression for g in range(3) for c in range(metadata.num_columns)}
    assert kinds == {"ZSTD"}


def test_the_enhanced_schema_is_written_as_exactly():
    schema = arrow_schema(ENHANCED)
    data = PartsWriter(schema, "b").finish({})
    assert pq.read_schema(pa.BufferReader(data)).remove_metadata().equals(schema)
