"""Every spelling that the data contract accepts: read right by both paths, and a whole body never line by line."""

import contextlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain.snapshot import RawSnapshot, inspect_fetched, parse, parse_snapshots, values
from wrm_pipeline.simulator.city import City
from wrm_pipeline_tests.fixtures.snapshots import (
    AT,
    AT_S,
    body,
    line,
    only_row,
    parse_body,
    plain,
    property_settings,
    raw,
)
from wrm_pipeline_tests.fixtures.snapshots import parse as parse_both
from wrm_pipeline_tests.fixtures.spellings import CHANGED, UNCHANGED, each, report

CITY_BODY = City(3, station_count=25, bike_count=12).snapshot(AT)
GOOD = parse_snapshots([raw(CITY_BODY)])
SPELLINGS = {**UNCHANGED, **{name: edit for name, (edit, _) in CHANGED.items()}}


def expected(name: str) -> list[dict]:
    changes = CHANGED[name][1] if name in CHANGED else {}
    return [row | changes for row in plain(GOOD.rows).to_pylist()]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_body_in_another_spelling_is_read(name):
    batch = parse_body(SPELLINGS[name](CITY_BODY))
    assert plain(batch.rows).to_pylist() == expected(name)
    assert batch.counts.dead_lettered == batch.counts.duplicate_rows == 0


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_day_in_another_spelling_is_not_read_line_by_line(name, monkeypatch):
    def line_by_line(file: RawSnapshot) -> None:
        raise AssertionError(f"{file.source_key} was read line by line")

    monkeypatch.setattr(parse, "parse_exactly", line_by_line)
    files = [raw(SPELLINGS[name](CITY_BODY), AT + timedelta(minutes=n), f"raw/{n}.txt") for n in range(3)]
    assert parse_snapshots(files).rows.num_rows == 3 * GOOD.rows.num_rows


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_fetched_body_in_another_spelling_is_a_snapshot_and_one_that_is_cut_off_is_none(name):
    content = SPELLINGS[name](CITY_BODY)
    assert inspect_fetched(content, AT).fault is None
    if "UTF-16" not in name:
        unended = inspect_fetched(content.rstrip(b"\r\n"), AT)
        assert unended.fault is None, "a missing line end after the last row does not mean that it was cut"
    cut = content[: len(content) - 60 - 60 % 2]
    assert inspect_fetched(cut, AT).fault is not None


@property_settings(150)
@given(st.lists(st.sampled_from(sorted(UNCHANGED)), min_size=2, max_size=5))
def test_files_of_many_spellings_go_together(names):
    files = [raw(UNCHANGED[name](CITY_BODY), AT + timedelta(minutes=n), f"raw/{n}.txt") for n, name in enumerate(names)]
    batch = parse_snapshots(files)
    assert batch.counts.rows_out == len(names) * GOOD.rows.num_rows
    columns = [name for name in GOOD.rows.column_names if name not in ("s3_source_key", "file_timestamp")]
    for n in range(len(names)):
        part = batch.rows.slice(n * GOOD.rows.num_rows, GOOD.rows.num_rows).select(columns)
        assert part.to_pylist() == GOOD.rows.select(columns).to_pylist()


# --- the report's time ---


def time_of(text: str) -> datetime:
    return only_row(parse_body(body(line(combined=text))))["timestamp"]


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        (f"{AT_S}.5|7200|-1", 500_000),
        (f"{AT_S}.123456|7200|-1", 123_456),
        (f"{AT_S}.1234564|7200|-1", 123_456),
        (f"{AT_S}.1234565|7200|-1", 123_457),
        (f"{AT_S}.000001|7200|-1", 1),
        (f"{AT_S}.999999|7200|-1", 999_999),
        (f"{AT_S}.|7200|-1", 0),
        (f"{AT_S}123|7200|-1", 123_000),
        (f"{AT_S}123.456|7200|-1", 123_456),
        (f"{AT_S}123.4565|7200|-1", 123_457),
        (f"000{AT_S}|7200|-1", 0),
        (f"{AT_S}.25", 250_000),
        (f"{AT_S}250||", 250_000),
    ],
)
def test_a_reports_time_is_kept_to_the_microsecond(text, micros):
    assert time_of(text) == AT + timedelta(microseconds=micros)


def test_a_reports_time_may_be_a_day_after_the_fetch_to_the_microsecond():
    assert time_of(f"{AT_S + 86_400}.0") == AT + timedelta(days=1)
    late = parse_body(body(line(), line(id="2", combined=f"{AT_S + 86_400}.000001")))
    assert [row.error_type for row in late.reports[0].dead_rows] == ["timestamp_out_of_range"]


@property_settings(60)
@given(st.lists(st.integers(-86_400_000_000 * 90, 86_400_000_000), min_size=1, max_size=30), st.integers(0, 6))
def test_decimal_times_of_a_whole_body_are_exact(offsets, places):
    unit = 10 ** (6 - places)
    micros = [(AT_S * 1_000_000 + offset) // unit * unit for offset in offsets]
    lines = [
        line(id=str(n), combined=f"{Decimal(at).scaleb(-6):.{places}f}|7200|-1")
        for n, at in enumerate(micros, start=100)
    ]
    rows = parse_both(raw(body(*lines))).rows
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert rows["timestamp"].to_pylist() == [epoch + timedelta(microseconds=at) for at in micros]


# --- one value at a time ---


@pytest.mark.parametrize(
    ("field", "served", "column", "value"),
    [
        ("bikes", "5.", "bikes", 5),
        ("bikes", "-0.0", "bikes", 0),
        ("bikes", "+5.00", "bikes", 5),
        ("bikes", '" 5 "', "bikes", 5),
        ("bikes", ' "5" ', "bikes", 5),
        ("bikes", "100000+", "bikes", 100_000),
        ("bikes", "0" * 5_000 + "5." + "0" * 5_000, "bikes", 5),
        ("bikes", "5\u00a0", "bikes", 5),
        ("spaces", '""', "spaces", None),
        ("spaces", "\\\\N", "spaces", None),
        ("total_docks", "n/a", "total_docks", None),
        ("pedelecs", "NONE", "pedelecs", None),
        ("locked", '"No"', "locked", False),
        ("locked", '""', "locked", None),
        ("battery", "0.5", "battery_pct", 1),
        ("battery", "99.5", "battery_pct", 100),
        ("battery", "100.4", "battery_pct", None),
        ("battery", "-0.4", "battery_pct", None),
        ("battery", "0.49999999999999999999999999", "battery_pct", 0),
        ("battery", "1", "battery_pct", 1),
        ("battery", "1e-999999999999999999999", "battery_pct", 0),
        ("battery", "8.35e1", "battery_pct", 84),
        ("battery", "nan", "battery_pct", None),
        ("battery", "T", "givesbonus_acceptspedelecs_fbbattlevel", True),
        ("id", " 15001\u00a0", "station_id", "15001"),
        ("id", '" 15001 "', "station_id", "15001"),
        ("name", '  "Dworzec, południe" ', "name", "Dworzec, południe"),
        ("name", ' "Kino ""Nowe, Horyzonty"""', "name", 'Kino "Nowe, Horyzonty"'),
        ("name", '\u00a0"a, b"', "name", "a, b"),
        ("lat", " +51.1 ", "lat", 51.1),
        ("lat", "\u00a051.1", "lat", 51.1),
        ("combined", f"{AT_S}|null|nan", "gmt_local_diff_sec", None),
        ("combined", f"{AT_S}|0000000000007200|0", "gmt_local_diff_sec", 7200),
        ("combined", f"{AT_S}|-0.5|0", "gmt_local_diff_sec", -1),
    ],
)
def test_a_value_in_another_spelling(field, served, column, value):
    row = only_row(parse_body(body(line(**{field: served}))))
    assert row[column] == value
    assert type(row[column]) is type(value)


def test_quotes_and_commas_in_a_name_cost_nothing_beside_quotes_behind_blanks():
    """`, "` is inside of a name here, and in front of one there; a third name has a quote in its middle."""
    lines = [line(id="1", name='""", """'), line(id="2", name=' "a, b"'), line(id="3", name=' a "b" c')]
    assert parse_body(body(*lines)).rows["name"].to_pylist() == ['", "', "a, b", 'a "b" c']


def test_one_capped_count_flags_its_row_only():
    batch = parse_body(body(line(id="1", bikes="5+"), line(id="2"), line(id="3", total_docks="20+")))
    assert batch.rows["count_capped"].to_pylist() == [True, False, True]
    assert batch.rows["bikes"].to_pylist() == [5, 3, 3]


def test_an_id_in_blanks_is_the_same_station():
    batch = parse_body(body(line(id="15001", bikes="1"), line(id=" 15001 ", bikes="2")))
    assert (batch.counts.rows_out, batch.counts.duplicate_rows) == (1, 1)


@pytest.mark.parametrize("remark", [" src,x", "\t# x", '  "src"', "\u00a0#", ' "#1, x", y'])
def test_a_remark_may_stand_behind_blanks(remark):
    batch = parse_body(body(line(id="1"), remark, line(id="2")))
    assert (batch.counts.rows_out, batch.counts.remark_lines) == (2, 1)


def test_remarks_of_a_table_with_semicolons():
    content = body("src;nextbike", "# a, b", line(), "srcs;x").replace(b",", b";").replace(b"# a; b", b"# a, b")
    batch = parse_body(content)
    assert (batch.counts.rows_out, batch.counts.remark_lines, batch.counts.dead_lettered) == (1, 2, 1)


def test_a_decimal_comma_between_semicolons_is_not_guessed():
    bad = line(id="2", lat="51.2").replace(",", ";").replace("51.2", "51,2")
    header = body().decode().strip().replace(",", ";")
    found = parse_body(body(line().replace(",", ";"), bad, header=header)).reports[0]
    assert [(row.error_type, row.field) for row in found.dead_rows] == [("bad_coordinates", "lat")]


def test_twenty_one_lines_of_something_else_are_no_preface():
    content = b"".join(b"line %d\n" % n for n in range(21)) + CITY_BODY
    found = parse_body(content).reports[0]
    assert (found.fault.error_type, found.counts.rows_out) == ("file_no_header", 0)
    assert "line 1" in found.fault.error_message


def test_remarks_before_the_header_are_not_among_the_twenty():
    content = b"# x\n" * 30 + b"line\n" * 20 + CITY_BODY
    assert parse_body(content).counts.remark_lines == 50


def test_a_line_that_starts_like_a_header_may_come_before_it():
    assert parse_body(b"id,query\n" + CITY_BODY).counts.rows_out == GOOD.rows.num_rows


def test_a_row_with_a_surplus_field_that_holds_something_is_dead():
    found = parse_body(body(line(id="1") + ",", line(id="2") + ",x", line(id="3"), line(id="4") + ',""')).reports[0]
    assert [row.line_number for row in found.dead_rows] == [3]
    assert found.counts.rows_out == 3


def test_where_the_header_ends_in_an_empty_name_its_column_may_hold_anything():
    header = body().decode().strip() + ","
    content = body(line(id="1") + ",x", line(id="2"), line(id="3", name='"a, b"') + ',"y, z"', header=header)
    assert parse_body(content).rows["station_id"].to_pylist() == ["1", "2", "3"]


def test_mixed_lines_of_utf8_and_cp1250_in_one_run():
    lines = [line(id="1", name="Półwiejska"), line(id="2", name="Ółę"), line(id="3", name="Łódź")]
    content = b"\n".join([body().strip(), lines[0].encode("cp1250"), lines[1].encode(), lines[2].encode("cp1250"), b""])
    assert parse_body(content).rows["name"].to_pylist() == ["Półwiejska", "Ółę", "Łódź"]


def test_a_day_that_changes_its_spelling_at_noon():
    edit = report(lambda s: f"{s}.250")
    files = [
        raw((edit if n >= 20 else each(by=str))(CITY_BODY), AT + timedelta(minutes=n), f"raw/{n:02}") for n in range(40)
    ]
    batch = parse_snapshots(files)
    assert batch.counts.rows_out == 40 * GOOD.rows.num_rows
    fractions = {at.microsecond for at in batch.rows["timestamp"].to_pylist()}
    assert fractions == {0, 250_000}


@property_settings(300)
@given(st.text("-+0123456789.|eE nulaN/A\\", max_size=24))
def test_the_scalar_functions_raise_nothing_else(text):
    for read in (
        values.id_of,
        values.report_of,
        values.battery_of,
        values.name_of,
        lambda value: values.count_of("bikes", value),
        lambda value: values.count_of("spaces", value),
        lambda value: values.flag_of("locked", value),
        lambda value: values.coordinate_of("lat", value),
    ):
        with contextlib.suppress(values.BadValueError):
            read(text)
