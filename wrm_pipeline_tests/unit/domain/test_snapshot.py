"""The parser, fact by fact (data contract, sections 1, 3 and 4); each case runs along both of its paths."""

import gzip
import time
from datetime import UTC, datetime, timedelta

import pytest

from wrm_pipeline.domain.schemas import PROCESSED, arrow_schema, validate
from wrm_pipeline.domain.snapshot import (
    MAX_COLUMNS,
    MAX_DEAD_ROWS_KEPT,
    MAX_LINE_BYTES,
    MAX_RAW_DATA_BYTES,
    FileReport,
    LineCounts,
    RawSnapshot,
    exact,
    lines_of,
    parse_snapshots,
    reject_reason,
    typed,
)
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import BODY_EDITS, DEAD_ROWS, Misbehaviour, dead_row, misbehave
from wrm_pipeline_tests.fixtures.snapshots import (
    AT,
    AT_S,
    BATTERY,
    COLUMNS,
    COMBINED,
    HEADER,
    assert_balanced,
    assert_sorted_and_unique,
    body,
    line,
    only_row,
    parse,
    parse_body,
    raw,
    rows_of,
)

CITY = City(1)
CITY_BODY = CITY.snapshot(AT)
CITY_ROWS = CITY_BODY.count(b"\n") - 1


def columns_only(*names: str) -> bytes:
    return body(line(names), header=",".join(names))


def values(content: bytes, column: str) -> list:
    return parse_body(content).rows[column].to_pylist()


# --- a good row ---


def test_every_column_of_a_good_row_has_its_value_and_type():
    batch = parse_body(body(line(battery="83")))
    assert only_row(batch) == {
        "station_id": "15001",
        "name": "Rynek",
        "timestamp": AT,
        "gmt_local_diff_sec": 7200,
        "gmt_servertime_diff_sec": -1,
        "lat": 51.1097,
        "lon": 17.0326,
        "bikes": 3,
        "spaces": 7,
        "total_docks": 10,
        "installed": True,
        "locked": False,
        "temporary": False,
        BATTERY: None,
        "battery_pct": 83,
        "pedelecs": 0,
        "s3_source_key": "raw/a.txt",
        "file_timestamp": AT,
        "feed": "ucl",
        "count_capped": False,
    }
    validate(batch.rows, PROCESSED)


@pytest.mark.parametrize("bodies", [[], [b""], [body(line())], [body(line()), body("junk")]])
def test_the_schema_is_the_same_whatever_was_parsed(bodies):
    batch = parse(*(raw(content, AT + timedelta(minutes=i), f"raw/{i}") for i, content in enumerate(bodies)))
    assert batch.rows.cast(arrow_schema(PROCESSED)).schema.equals(arrow_schema(PROCESSED))


def test_a_row_knows_the_time_of_its_file_to_the_microsecond():
    at = AT + timedelta(microseconds=123_456)
    assert only_row(parse_body(body(line()), at=at))["file_timestamp"] == at


def test_a_simulated_city_is_clean():
    batch = parse_body(CITY_BODY)
    assert batch.counts == LineCounts(lines_in=CITY_ROWS, rows_out=CITY_ROWS)


def test_stations_over_capacity_without_docks_and_far_away_are_kept():
    lines = (
        line(id="1", bikes="45", spaces="0", total_docks="16"),
        line(id="2", total_docks="0"),
        line(id="3", lat="52.27", lon="21.03"),
        line(id="4", combined=f"{AT_S - 86_400 * 90}|7200|-1"),
    )
    assert parse_body(body(*lines)).counts == LineCounts(lines_in=4, rows_out=4)


# --- header ---


def test_columns_are_found_by_name_in_any_order():
    rows = [only_row(parse_body(columns_only(*order))) for order in (COLUMNS, COLUMNS[::-1], COLUMNS[5:] + COLUMNS[:5])]
    assert rows[0] == rows[1] == rows[2]


def test_a_column_that_nobody_announced_is_ignored():
    header = HEADER.replace(",lat,", ",bike_racks,lat,")
    content = body(line().replace(",51.1097,", ',"4,5",51.1097,'), header=header)
    assert only_row(parse_body(content)) == only_row(parse_body(body(line())))


@pytest.mark.parametrize("missing", ["installed", "locked", "temporary", "pedelecs", BATTERY])
def test_an_optional_column_that_is_missing_is_null(missing):
    row = only_row(parse_body(columns_only(*(name for name in COLUMNS if name != missing))))
    assert row == only_row(parse_body(body(line()))) | {missing: None}


def test_all_optional_columns_may_be_missing():
    required = ("#id", COMBINED, "name", "lat", "lon", "bikes", "spaces", "total_docks")
    row = only_row(parse_body(columns_only(*required)))
    assert [name for name, value in row.items() if value is None] == [
        *("installed", "locked", "temporary", BATTERY, "battery_pct", "pedelecs")
    ]


@pytest.mark.parametrize("missing", ["#id", "name", "lat", "lon", "bikes", "spaces", "total_docks"])
def test_a_required_column_that_is_missing_is_a_fault_of_the_file(missing):
    report = parse_body(columns_only(*(name for name in COLUMNS if name != missing))).reports[0]
    assert report.fault.error_type == "file_no_header"
    assert missing == "#id" or missing in report.fault.error_message


@pytest.mark.parametrize("name", ["#id", "id", "station_id", " #id "])
def test_the_id_column_has_three_names(name):
    assert only_row(parse_body(body(line(), header=HEADER.replace("#id", name))))["station_id"] == "15001"


def test_the_combined_field_is_the_second_column_where_none_has_its_name():
    assert only_row(parse_body(body(line(), header=HEADER.replace(COMBINED, "reported"))))["timestamp"] == AT


def test_the_combined_field_is_found_by_name_wherever_it_stands():
    order = ("#id", "name", "lat", COMBINED, *COLUMNS[4:])
    assert only_row(parse_body(columns_only(*order)))["timestamp"] == AT


@pytest.mark.parametrize(
    "order", [("name", "#id", *COLUMNS[3:]), ("#id", *COLUMNS[2:])], ids=["second is the id", "second is the name"]
)
def test_without_a_combined_field_there_is_no_header(order):
    assert parse_body(columns_only(*order)).reports[0].fault.error_type == "file_no_header"


def test_the_header_may_be_quoted_and_padded():
    header = ",".join(f'" {name} "' for name in COLUMNS)
    assert parse_body(body(line(), header=header)).counts.rows_out == 1


def test_an_unknown_column_in_the_header_may_be_in_another_encoding():
    content = (HEADER + ",Rynek Główny\n" + line() + ",1\n").encode("cp1250")
    assert parse_body(content).counts.rows_out == 1


def test_where_a_column_is_there_twice_the_first_counts():
    content = body(line() + ",99", header=HEADER + ",bikes")
    assert only_row(parse_body(content))["bikes"] == 3


# --- bytes and lines ---


@pytest.mark.parametrize("kind", [Misbehaviour.BOM, Misbehaviour.CRLF, Misbehaviour.REORDERED_COLUMNS])
def test_spelling_of_the_file_changes_no_row(kind):
    assert rows_of(parse_body(BODY_EDITS[kind](CITY_BODY))) == rows_of(parse_body(CITY_BODY))


def test_bom_and_crlf_and_no_last_line_end_together_change_nothing():
    content = b"\xef\xbb\xbf" + body(line(), line(id="2")).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    assert parse_body(content).counts == LineCounts(lines_in=2, rows_out=2)


@pytest.mark.parametrize("blank", ["", " ", "\t", "  \t ", "\r", " \r"])
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_blank_lines_count_for_nothing(blank, where):
    lines = [HEADER, line(id="1"), line(id="2")]
    lines.insert(where, blank)
    content = "\n".join([*lines, ""]).encode()
    assert parse_body(content).counts == LineCounts(lines_in=2, rows_out=2)
    assert reject_reason(content, AT) is None


@pytest.mark.parametrize("ending", [b"", b"\n", b"\n\n\n", b"\r\n", b"\n  "])
def test_the_end_of_the_file_may_have_any_number_of_line_ends(ending):
    content = body(line(id="1"), line(id="2")).removesuffix(b"\n") + ending
    assert parse_body(content).counts == LineCounts(lines_in=2, rows_out=2)
    assert reject_reason(content, AT) is None


def test_a_lone_carriage_return_spoils_its_line_only():
    report = parse_body(body(line(id="1"), line(id="2", name="Ry\rnek"), line(id="3"))).reports[0]
    assert report.counts == LineCounts(lines_in=3, rows_out=2, dead_lettered=1)
    assert (report.dead_rows[0].error_type, report.dead_rows[0].line_number) == ("stray_line_break", 3)


def test_lines_may_end_in_carriage_returns():
    content = body("# x", line(id="1"), "", line(id="2"), "bad").replace(b"\n", b"\r")
    report = parse_body(content).reports[0]
    assert report.counts == LineCounts(lines_in=4, rows_out=2, dead_lettered=1, remark_lines=1)
    assert report.dead_rows[0].line_number == 6


REMARKS = [
    "src",
    "src,nextbike,wroclaw",
    "#",
    "# maintenance, tonight",
    HEADER,
    '"src"',
    '"src",1',
    '"# a, b"',
    '#"',
    '"#1",x',
]


@pytest.mark.parametrize("remark", REMARKS)
@pytest.mark.parametrize("where", [0, 1, 2, 3])
@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS[::-1]], ids=["id first", "id last"])
def test_remarks_are_counted_and_cost_nothing(remark, where, columns):
    if remark == HEADER:
        remark = f"#{','.join(columns)}" if where else "# the header comes later"
    lines = [",".join(columns), line(columns, id="1"), line(columns, id="2")]
    lines.insert(where, remark)
    content = "\n".join([*lines, ""]).encode()
    assert parse_body(content).counts == LineCounts(lines_in=3, rows_out=2, remark_lines=1)
    assert reject_reason(content, AT) is None


def test_the_header_repeated_is_a_remark():
    batch = parse_body(body(line(id="1"), HEADER, line(id="2"), HEADER))
    assert batch.counts == LineCounts(lines_in=4, rows_out=2, remark_lines=2)


def test_remarks_of_the_simulator_are_counted():
    edit = BODY_EDITS[Misbehaviour.REMARKS]
    assert parse_body(edit(CITY_BODY)).counts == LineCounts(CITY_ROWS + 3, CITY_ROWS, 0, 0, 3)
    edit = BODY_EDITS[Misbehaviour.REMARK_BEFORE_HEADER]
    assert parse_body(edit(CITY_BODY)).counts == LineCounts(CITY_ROWS + 1, CITY_ROWS, 0, 0, 1)


@pytest.mark.parametrize("text", ["srcs", "Src", "source,1", "1#", "s", "'#'"])
def test_what_only_looks_like_a_remark_is_a_dead_row(text):
    assert parse_body(body(line(), text)).counts == LineCounts(lines_in=2, rows_out=1, dead_lettered=1)


@pytest.mark.parametrize("name", ['"#1, Rynek"', '"src"', '""#1', '"s"rc'])
def test_a_row_whose_first_field_is_a_mark_in_quotes_is_a_remark_whichever_column_it_is(name):
    columns = ("name", "#id", *(column for column in COLUMNS if column not in ("name", "#id")))
    content = body(line(columns), line(columns, id="2", name=name), header=",".join(columns))
    assert parse_body(content).counts == LineCounts(lines_in=2, rows_out=1, remark_lines=1)


def test_an_id_that_starts_with_src_is_an_id():
    assert values(body(line(id="src1")), "station_id") == ["src1"]


def test_a_station_whose_name_starts_with_a_number_sign_is_no_remark():
    assert values(body(line(name="#1 Rynek")), "name") == ["#1 Rynek"]


# --- names ---


@pytest.mark.parametrize(
    ("served", "name"),
    [
        ("Rynek", "Rynek"),
        ('"Dworzec Główny, południe"', "Dworzec Główny, południe"),
        ('"Kino ""Nowe Horyzonty"""', 'Kino "Nowe Horyzonty"'),
        ('""""', '"'),
        ('Kino "Nowe Horyzonty"', 'Kino "Nowe Horyzonty"'),
        ('"Rynek" Główny', "Rynek Główny"),
        ("  Hala Targowa ", "Hala Targowa"),
        ("Hala Targowa\u00a0", "Hala Targowa"),
        ("WrocÅ‚aw", "Wrocław"),  # UTF-8 taken for cp1252
        ("WrocÅ\x82aw", "Wrocław"),  # UTF-8 taken for ISO-8859-1
        ("Åšwidnicka", "Świdnicka"),
        ("Å\x81Ã³dzka", "Łódzka"),
        ("WrocÅ‚aw".encode().decode("cp1252"), "Wrocław"),  # twice
        ("Åšwidnicka".encode().decode("cp1252"), "Świdnicka"),
        ("Główny", "Główny"),
        ("Góra", "Góra"),
        ("Łódź", "Łódź"),
        ("pl. Jana Pawła II / Żółkiewskiego", "pl. Jana Pawła II / Żółkiewskiego"),
        ("Galeria &amp; Kino", "Galeria & Kino"),
        ("Kino &quot;Nowe&quot;", 'Kino "Nowe"'),
        ("&Oacute;semka", "Ósemka"),
        ("< 5 m &amp; rampa", "< 5 m & rampa"),
        ("„Rynek” ‘a’", "„Rynek” ‘a’"),
        ("“Rynek”", "“Rynek”"),
        ("oﬁcyna", "oﬁcyna"),
        ("Rondo 0x1 0X", "Rondo 0x1 0X"),
        ("a\x00b", "ab"),
        ("", ""),
        ('""', ""),
        ("Ry\ufffdnek", "Ry\ufffdnek"),
        ("null", "null"),
        ("NA", "NA"),
        ("💡", "💡"),
        ("A" * 1_000, "A" * 1_000),
        ("A" * 1_001, "A" * 999 + "…"),
        ("A" * 200_000, "A" * 999 + "…"),
        ("Ł" * 200_000, "Ł" * 999 + "…"),
        ("A" * 999 + " " * 5_000, "A" * 999),
        ('"' + "A," * 100_000 + '"', ("A," * 500)[:999] + "…"),
    ],
    ids=lambda text: text[:20],
)
def test_names_are_repaired_and_otherwise_left_alone(served, name):
    assert values(body(line(name=served)), "name") == [name]


@pytest.mark.parametrize("around", [0, MAX_LINE_BYTES], ids=["small body", "large body"])
def test_a_line_of_a_mebibyte_is_read_and_a_longer_one_is_a_dead_letter(around):
    start = line(id="1") + ","
    longest = start + "A" * (MAX_LINE_BYTES - len(start) - 1)
    lines = [line(id="2") + ",", longest, longest.replace("1", "3", 1) + "A", line(id="4") + "," + "\n" * around]
    report = parse(raw(body(*lines, header=HEADER + ",remark"))).reports[0]
    assert report.counts == LineCounts(lines_in=4, rows_out=3, dead_lettered=1)
    (dead,) = report.dead_rows
    assert (dead.line_number, dead.error_type) == (4, "line_too_long")
    assert f"{MAX_LINE_BYTES + 1} bytes" in dead.error_message
    assert len(dead.raw_data) <= MAX_RAW_DATA_BYTES
    assert dead.raw_data.startswith("3,1755781502|")


def test_a_correction_takes_the_place_of_a_line_that_is_too_long():
    content = body(line(id="1"), "A" * MAX_LINE_BYTES)
    batch = parse_snapshots([raw(content, corrections={3: line(id="2")})])
    assert batch.rows["station_id"].to_pylist() == ["1", "2"]
    assert [found.line_number for found in lines_of(raw(content, corrections={3: line(id="2")}), "2")] == [3]
    assert lines_of(raw(content), "2") == []


# --- bounds of a file ---


def over_limit(content: bytes) -> FileReport:
    report = parse(raw(content)).reports[0]
    assert report.fault.error_type == "file_over_limit"
    assert report.dead_counts == {"file_over_limit": report.counts.lines_in}
    assert len(report.fault.error_message) < 400
    assert "MAX_" in report.fault.error_message, "no remedy"
    return report


def test_a_file_has_at_most_so_many_lines(monkeypatch):
    """Rows, dead rows, remarks and the header; blank ones count for nothing."""
    for module in (exact, typed):
        monkeypatch.setattr(module, "MAX_LINES", 100)
    monkeypatch.setattr(exact, "_FEW_LINES_BYTES", 0)
    rows = [line(id=str(number)) for number in range(90)]
    most = [*rows, "x", "", " \t", *["# x"] * 8]
    assert parse(raw(body(*most))).reports[0].counts == LineCounts(99, 90, 1, 0, 8)
    report = over_limit(body(*most, "# x"))
    assert report.counts == LineCounts(lines_in=101, dead_lettered=101)
    assert "101 lines" in report.fault.error_message
    assert "at most 100" in report.fault.error_message


def test_a_file_of_many_lines_without_a_header_has_no_header(monkeypatch):
    monkeypatch.setattr(exact, "MAX_LINES", 100)
    monkeypatch.setattr(exact, "_FEW_LINES_BYTES", 0)
    assert fault_of(b"<p>\n" * 200) == "file_no_header"
    assert over_limit(b"# x\n" * 200).counts.lines_in == 200


def test_the_rows_of_a_file_have_at_most_so_much_text(monkeypatch):
    monkeypatch.setattr(exact, "MAX_TABLE_BYTES", 1_000_000)
    lines = [line(id=str(number), name="n" * 990 + f"{number:05}") for number in range(1_500)]
    assert parse_snapshots([raw(body(*lines[:700], "x"))]).reports[0].fault is None
    report = parse_snapshots([raw(body(*lines, "x"))]).reports[0]
    assert (report.fault.error_type, report.counts) == ("file_over_limit", LineCounts(1_502, 0, 1_502))


@pytest.mark.parametrize("count", [MAX_COLUMNS, MAX_COLUMNS + 1])
def test_a_header_has_at_most_so_many_columns(count):
    more = count - len(COLUMNS)
    content = body(line() + "," * more, header=HEADER + "".join(f",c{number}" for number in range(more)))
    if count == MAX_COLUMNS:
        assert parse_body(content).counts.rows_out == 1
    else:
        assert f"{count} columns" in over_limit(content).fault.error_message


@pytest.mark.parametrize("length", [70_000, MAX_LINE_BYTES + 1])
def test_a_header_has_at_most_so_many_bytes(length):
    content = body(line() + ",", header=f"{HEADER},{'c' * length}")
    assert "65536 bytes" in over_limit(content).fault.error_message
    assert fault_of(body(line(), header="<p>" * length)) == "file_no_header"


def test_a_whole_file_in_cp1250_is_read_as_such():
    assert rows_of(parse_body(BODY_EDITS[Misbehaviour.CP1250](CITY_BODY))) == rows_of(parse_body(CITY_BODY))


def test_one_line_in_cp1250_does_not_change_the_others():
    lines = (line(id="1", name="Łódzka"), line(id="2", name="Żabia Ścieżka"), line(id="3", name="Świdnicka"))
    utf8 = [text.encode() for text in (HEADER, *lines)]
    utf8[2] = lines[1].encode("cp1250")
    assert values(b"\n".join(utf8), "name") == ["Łódzka", "Żabia Ścieżka", "Świdnicka"]


def test_a_line_is_in_one_encoding_even_if_only_an_unread_column_tells_which():
    content = body(line() + ",zielony", line(id="2", name="Zoo") + ",?", header=HEADER + ",colour")
    assert values(content.replace(b"?", "żółty".encode("cp1250")), "name") == ["Rynek", "Zoo"]
    # Such a line has no right reading, but it has one.
    parse_body(body(line(name="Łódzka") + ",?", header=HEADER + ",colour").replace(b"?", b"\xb3"))


def test_bytes_that_are_in_no_encoding_become_replacement_characters():
    assert values(body(line(name="Ry?nek")).replace(b"?", b"\x81"), "name") == ["Ry\ufffdnek"]


def test_a_double_encoded_file_is_repaired():
    content = BODY_EDITS[Misbehaviour.MOJIBAKE](CITY_BODY)
    assert rows_of(parse_body(content)) == rows_of(parse_body(CITY_BODY))


def test_entities_and_curly_quotes_do_not_break_the_table():
    batch = parse_body(BODY_EDITS[Misbehaviour.HTML_ENTITIES](CITY_BODY))
    good = rows_of(parse_body(CITY_BODY))
    good[0]["name"] = f"„{good[0]['name']}”"
    assert rows_of(batch) == good


# --- bodies that are no snapshot ---


def fault_of(content: bytes) -> str | None:
    fault = parse_body(content).reports[0].fault
    return fault.error_type if fault else None


def utf16(encoding: str) -> bytes:
    return body(line()).decode().encode(encoding)


NO_SNAPSHOTS = {
    "empty": (b"", "file_empty"),
    "line ends only": (b"\r\n\n\n", "file_empty"),
    "spaces only": (b"   \n\t", "file_empty"),
    "BOM only": (b"\xef\xbb\xbf", "file_empty"),
    "HTML": (misbehave(Misbehaviour.HTML, CITY_BODY).body, "file_no_header"),
    "JSON": (misbehave(Misbehaviour.JSON, CITY_BODY).body, "file_no_header"),
    "gzip": (gzip.compress(CITY_BODY, mtime=0), "file_not_text"),
    "NULs": (b"\x00" * 1000, "file_not_text"),
    "UTF-16 LE": (utf16("utf-16-le"), "file_not_text"),
    "UTF-16 BE": (utf16("utf-16-be"), "file_not_text"),
    "no header": (BODY_EDITS[Misbehaviour.NO_HEADER](CITY_BODY), "file_no_header"),
    "header only": (BODY_EDITS[Misbehaviour.HEADER_ONLY](CITY_BODY), "file_no_valid_row"),
    "header without line end": (HEADER.encode(), "file_no_valid_row"),
    "cut off in the header": (HEADER[:40].encode(), "file_no_header"),
    "remarks only": (b"src,1\n# x\n", "file_no_header"),
    "header and remarks": (body("src", "# x"), "file_no_valid_row"),
    "one dead row": (body(line(lat="north")), "file_no_valid_row"),
    "a word": (b"OK", "file_no_header"),
}


@pytest.mark.parametrize("case", NO_SNAPSHOTS)
def test_a_body_that_is_no_snapshot_says_why(case):
    content, error_type = NO_SNAPSHOTS[case]
    report = parse_body(content).reports[0]
    assert report.fault.error_type == error_type
    assert len(report.fault.error_message) < 500
    assert report.counts.rows_out == 0
    assert reject_reason(content, AT) == report.fault


def test_an_html_page_is_called_one():
    assert "HTML" in reject_reason(misbehave(Misbehaviour.HTML, CITY_BODY).body, AT).error_message


def test_lines_of_a_body_without_header_are_all_dead():
    report = parse_body(b"\n".join([b"<html>", b"", b"a,b", b" ", b"</html>"])).reports[0]
    assert report.counts == LineCounts(lines_in=3, dead_lettered=3)
    assert report.dead_counts == {"file_no_header": 3}


def test_remarks_before_a_missing_header_are_counted_somewhere():
    report = parse_body(b"src,1\n<html>\n</html>\n").reports[0]
    assert (report.counts.lines_in, report.counts.rows_out, report.fault.error_type) == (3, 0, "file_no_header")


def test_a_file_of_dead_rows_keeps_them_and_why():
    report = parse_body(body("# x", line(lat="north"), line(bikes="-1"))).reports[0]
    assert report.counts == LineCounts(lines_in=3, dead_lettered=2, remark_lines=1)
    assert report.dead_counts == {"bad_coordinates": 1, "bad_count": 1}
    assert [row.line_number for row in report.dead_rows] == [3, 4]
    assert "line 3" in report.fault.error_message


@pytest.mark.parametrize("kind", [kind for kind in BODY_EDITS if kind != Misbehaviour.CP1250])
def test_every_spoiled_body_of_the_simulator_is_accepted_or_faulted_as_a_whole(kind):
    no_snapshot = {Misbehaviour.EMPTY, Misbehaviour.GZIP, Misbehaviour.NO_HEADER, Misbehaviour.HEADER_ONLY}
    content = BODY_EDITS[kind](CITY_BODY)
    assert (reject_reason(content, AT) is not None) == (kind in no_snapshot)
    assert parse_body(content).counts.rows_out == (0 if kind in no_snapshot else CITY_ROWS)


# --- cut off ---


def test_a_body_cut_off_in_mid_row_is_rejected_at_the_fetch():
    fault = reject_reason(misbehave(Misbehaviour.TRUNCATED_SILENTLY, CITY_BODY).body, AT)
    assert fault.error_type == "file_truncated"


def test_under_raw_a_body_cut_off_in_mid_row_costs_its_last_row_only():
    content = body(line(id="1"), line(id="2"), line(id="3"))[:-30]
    report = parse_body(content).reports[0]
    assert report.counts == LineCounts(lines_in=3, rows_out=2, dead_lettered=1)
    assert (report.dead_rows[0].line_number, report.fault) == (4, None)


@pytest.mark.parametrize("name", ["Rynek", '"Dworzec, południe"'])
def test_every_cut_inside_the_last_row_but_its_last_field_is_noticed(name):
    content = body(line(id="1"), line(id="2", name=name))
    last_row = content.rindex(b"2,")
    for end in range(last_row + 1, len(content) - 1):
        fault = reject_reason(content[:end], AT)
        assert fault is not None, content[last_row:end]
        assert fault.error_type == "file_truncated"


def test_a_cut_in_mid_character_is_noticed():
    content = body(line(id="1"), line(id="2", name="Świdnicka"))
    assert reject_reason(content[: content.index("Ś".encode()) + 1], AT).error_type == "file_truncated"


def test_a_body_that_ends_with_its_last_row_is_no_cut_body():
    assert reject_reason(body(line()).removesuffix(b"\n"), AT) is None


def test_a_dead_row_at_the_end_is_no_cut():
    assert reject_reason(body(line(), "1,2,3"), AT) is None
    assert reject_reason(body(line(), line(lat="north")).removesuffix(b"\n"), AT) is None


def test_a_cut_is_noticed_behind_other_rows_of_the_wrong_length():
    assert reject_reason(body(line(), *["1,2,3"] * 10) + b"15003,17", AT).error_type == "file_truncated"


def test_a_cut_in_a_remark_is_no_fault():
    assert reject_reason(body(line()) + b"# main", AT) is None


# --- quotes ---


@pytest.mark.parametrize("where", [0, 1, 2, 9])
@pytest.mark.parametrize(
    "broken",
    [line(id="9", name='"Plac bez końca'), line(id="9", name='"Plac ""bez'), '"', '"9', line(id="9") + ',"', '"""'],
)
def test_an_unclosed_quote_costs_its_line_only(where, broken):
    lines = [line(id=f"{number:02}", name=f'"a, ""{number}"""') for number in range(10, 19)]
    lines.insert(where, broken)
    report = parse_body(body(*lines)).reports[0]
    assert report.counts == LineCounts(lines_in=10, rows_out=9, dead_lettered=1)
    (dead,) = report.dead_rows
    assert (dead.error_type, dead.line_number, dead.raw_data) == ("unclosed_quote", where + 2, broken)


def test_two_unclosed_quotes_do_not_close_each_other():
    lines = [line(id="1"), line(id="2", name='"a'), line(id="3"), line(id="4", name='b"'), line(id="5", name='"a')]
    batch = parse_body(body(*lines))
    assert batch.rows["station_id"].to_pylist() == ["1", "3", "4"]


def test_an_unclosed_quote_in_the_last_line_without_line_end():
    report = parse_body(body(line(id="1"), line(id="2", name='"a')).removesuffix(b"\n")).reports[0]
    assert report.counts == LineCounts(lines_in=2, rows_out=1, dead_lettered=1)


def test_an_unclosed_quote_does_not_reach_into_the_next_file():
    first, second = body(line(id="1"), line(id="2", name='"a')), body(line(id="3", name='"b"'))
    batch = parse(raw(first), raw(second, AT + timedelta(minutes=1), "raw/b.txt"))
    assert batch.rows["station_id"].to_pylist() == ["1", "3"]


# --- dead letters: every rule, its boundaries on both sides ---

GOOD_VALUES = [
    *((column, "0", column, 0) for column in ("bikes", "spaces", "total_docks", "pedelecs")),
    *((column, "100000", column, 100_000) for column in ("bikes", "spaces", "total_docks", "pedelecs")),
    ("bikes", "007", "bikes", 7),
    ("bikes", " 12 ", "bikes", 12),
    ("bikes", "\t12", "bikes", 12),
    ("bikes", "-0", "bikes", 0),
    ("bikes", '"12"', "bikes", 12),
    ("bikes", "0" * 5000 + "12", "bikes", 12),
    ("lat", "90", "lat", 90.0),
    ("lat", "-90.0", "lat", -90.0),
    ("lat", "0", "lat", 0.0),
    ("lat", "+51.1", "lat", 51.1),
    ("lat", " 51.1 ", "lat", 51.1),
    ("lat", "5.11e1", "lat", 51.1),
    ("lat", "51.", "lat", 51.0),
    ("lat", ".5", "lat", 0.5),
    ("lat", "1e-400", "lat", 0.0),
    ("lon", "180", "lon", 180.0),
    ("lon", "-180", "lon", -180.0),
    ("lon", "0.0", "lon", 0.0),
    *(("installed", text, "installed", True) for text in ("true", "True", "TRUE", '"true"')),
    *(("locked", text, "locked", False) for text in ("false", "False", "FALSE")),
    ("combined", "1262304000|0|0", "timestamp", datetime(2010, 1, 1, tzinfo=UTC)),
    ("combined", f"{AT_S + 86_400}|0|0", "timestamp", AT + timedelta(days=1)),
    ("combined", f"{AT_S}|-3600|0", "gmt_local_diff_sec", -3600),
    ("combined", f"{AT_S}|0|999999999", "gmt_servertime_diff_sec", 999_999_999),
    ("combined", f"0{AT_S}|0|0", "timestamp", AT),
    ("battery", "true", BATTERY, True),
    ("battery", "false", BATTERY, False),
    ("battery", "", BATTERY, None),
    ("battery", "", "battery_pct", None),
    ("battery", "true", "battery_pct", None),
    ("battery", "83", "battery_pct", 83),
    ("battery", "83", BATTERY, None),
    ("battery", "0", "battery_pct", 0),
    ("battery", "100", "battery_pct", 100),
    ("battery", "83.5", "battery_pct", 84),
    ("battery", " 83 ", "battery_pct", 83),
    ("battery", "101", "battery_pct", None),  # a number, but no level: the row is true all the same
    ("battery", "-1", "battery_pct", None),
    ("battery", "1e400", "battery_pct", None),
    ("id", "00123", "station_id", "00123"),
    ("id", "fb591106", "station_id", "fb591106"),
    ("id", '"15,001"', "station_id", "15,001"),
    ("id", "0x1F", "station_id", "0x1F"),
]


@pytest.mark.parametrize(("field", "served", "column", "value"), GOOD_VALUES, ids=lambda value: str(value)[:16])
def test_a_value_inside_the_limits_is_a_row(field, served, column, value):
    (found,) = values(body(line(**{field: served})), column)
    assert found == value
    assert type(found) is type(value)


# fmt: off
NOT_WHOLE = [
    "-2", "-1.5", "-1+", "--1", "100001", "100001+", "3.5", "5.5+", "5++", "+-5", "x", "0x10", "0X10", "1e3", "٣",
    "３", "1_0", "1 2", "1 000", "5 +", "inf", ".5", "9" * 19, "-" + "9" * 5000, "9" * 5000, "12\x00", "true", "?",
    "unknown",
]
NEEDED = [
    "", " ", "\t", "null", "NULL", "None", "nan", "NaN", "N/A", "\\N", "-", "\u00a0", "-1"
]
NOT_A_DEGREE = [
    "nan", "NaN", "inf", "-inf", "infinity", "1e400", "-1e400", "", " ", "north", "0x10", "٥١", "5_1", "51,1", "null",
    "-", "N/A", "51.1.1", "1e", "--5", "51°", "9" * 400, "51 .1",
]
NOT_A_FLAG = [
    "maybe", "2", "-1", "tru", "1.0", "on", "wahr", "t f", "01", "١"
]
NO_TIME = [
    "", "||", "soon|7200|-1", "1755781502|x|-1", "1755781502|7200|-1|0", "1755781502|7200|-1|", "null|7200|-1",
    "-|7200|-1", "0x5|0|0", "1.755781502e9|7200|-1", "١٧٥٥٧٨١٥٠٢|7200|-1", "9" * 19 + "|0|0", f"{AT_S}|1000000000|0",
    f"{AT_S}|0|1000000000", "1755781502;7200;-1", "1755781502|1e3|0", "1755781502.5.5|0|0", "1755 781502|0|0",
    "1755781502|7 200|0", "1755781502,5|0|0", ".5|0|0",
]
# fmt: on

DEAD_VALUES = [
    *(
        (column, value, "bad_count", column)
        for column in ("bikes", "spaces", "total_docks", "pedelecs")
        for value in NOT_WHOLE
    ),
    *(("bikes", value, "bad_count", "bikes") for value in NEEDED),
    *(
        (column, value, "bad_coordinates", column)
        for column in ("lat", "lon")
        for value in NOT_A_DEGREE
        if "," not in value
    ),
    ("lat", '"51,1"', "bad_coordinates", "lat"),
    ("lat", "90.0000001", "bad_coordinates", "lat"),
    ("lat", "-90.5", "bad_coordinates", "lat"),
    ("lon", "180.0000001", "bad_coordinates", "lon"),
    ("lon", "-180.5", "bad_coordinates", "lon"),
    *((column, value, "bad_flag", column) for column in ("installed", "locked", "temporary") for value in NOT_A_FLAG),
    *(("battery", value, "bad_flag", BATTERY) for value in ("abc", "0x10", "٨٣", "83%", "inf", "8 3", "83.5.5", "2+")),
    *(("combined", value, "bad_timestamp", COMBINED) for value in NO_TIME if "," not in value),
    ("combined", '"1755781502,5|0|0"', "bad_timestamp", COMBINED),
    ("battery", '"83,5"', "bad_flag", BATTERY),
    ("spaces", '"1,000"', "bad_count", "spaces"),
    ("combined", "1262303999|0|0", "timestamp_out_of_range", COMBINED),
    ("combined", "0|0|0", "timestamp_out_of_range", COMBINED),
    ("combined", "-1755781502|0|0", "timestamp_out_of_range", COMBINED),
    ("combined", f"{AT_S + 86_401}|0|0", "timestamp_out_of_range", COMBINED),
    ("combined", "9" * 18 + "|0|0", "timestamp_out_of_range", COMBINED),
    *(
        ("id", value, "empty_id", "station_id")
        for value in ("", " ", "\t", '""', "\u00a0", "null", "None", "nan", "N/A", "-")
    ),
]


@pytest.mark.parametrize(
    ("field", "served", "error_type", "blamed"), DEAD_VALUES, ids=lambda value: ascii(value)[1:-1][:24] or "empty"
)
def test_a_value_outside_the_limits_is_a_dead_letter_and_costs_no_neighbour(field, served, error_type, blamed):
    bad = line(**({"id": "15002"} | {field: served}))
    report = parse_body(body(line(id="15001"), bad, line(id="15003"))).reports[0]
    assert report.counts == LineCounts(lines_in=3, rows_out=2, dead_lettered=1)
    (dead,) = report.dead_rows
    assert (dead.line_number, dead.raw_data, dead.error_type, dead.field) == (3, bad, error_type, blamed)
    assert 10 < len(dead.error_message) < 500
    assert report.dead_counts == {error_type: 1}
    assert report.fault is None


@pytest.mark.parametrize(
    ("field", "served", "error_type", "blamed"),
    [case for i, case in enumerate(DEAD_VALUES) if i % 7 == 0 or "|" in case[1]],
    ids=lambda value: ascii(value)[1:-1][:24] or "empty",
)
def test_a_dead_row_alone_makes_a_file_without_valid_row(field, served, error_type, blamed):
    report = parse_body(body(line(**{field: served}))).reports[0]
    assert report.fault.error_type == "file_no_valid_row"
    assert (report.dead_rows[0].error_type, report.dead_rows[0].field) == (error_type, blamed)


@pytest.mark.parametrize(("lat", "lon"), [("0", "0"), ("0.0", "-0"), ("-0.0", "0e5"), ("1e-400", "0")])
def test_latitude_and_longitude_both_zero_are_no_place(lat, lon):
    report = parse_body(body(line(), line(id="2", lat=lat, lon=lon))).reports[0]
    assert [row.error_type for row in report.dead_rows] == ["bad_coordinates"]


@pytest.mark.parametrize(
    "text",
    [
        line() + ",0",
        line().rpartition(",")[0],
        "15001",
        ",",
        "," * 11,
        "," * 14,
        "<html>",
        line() + ",,",
        line() + ",0,",
    ],
)
def test_a_wrong_number_of_fields_is_a_dead_letter(text):
    report = parse_body(body(line(id="1"), text, line(id="2"))).reports[0]
    assert report.counts == LineCounts(lines_in=3, rows_out=2, dead_lettered=1)
    (dead,) = report.dead_rows
    assert (dead.line_number, dead.raw_data, dead.error_type, dead.field) == (3, text, "wrong_field_count", "")


def test_a_row_with_several_faults_is_one_dead_letter():
    report = parse_body(body(line(), line(id="2", lat="north", bikes="x", locked="?"))).reports[0]
    assert report.counts.dead_lettered == len(report.dead_rows) == 1


def test_values_of_a_column_that_nobody_reads_do_not_matter():
    content = body(line() + ",nan", line(id="2") + ",", line(id="3") + ",<b>", header=HEADER + ",bike_racks")
    assert parse_body(content).counts.rows_out == 3


def test_each_dead_row_of_the_simulator_alone_among_good_rows_is_the_only_loss():
    for kind in DEAD_ROWS:
        bad = dead_row(kind, CITY_BODY)
        header, first, rest = CITY_BODY.split(b"\n", 2)
        report = parse_body(b"\n".join([header, first, bad.removesuffix(b"\n"), rest])).reports[0]
        assert report.counts == LineCounts(CITY_ROWS + 1, CITY_ROWS, 1), kind
        assert report.dead_rows[0].raw_data == bad.decode().removesuffix("\n")


def test_all_kinds_of_dead_rows_in_one_file_cost_just_themselves():
    batch = parse_body(BODY_EDITS[Misbehaviour.DEAD_LETTER_ROWS](CITY_BODY))
    assert batch.counts == LineCounts(CITY_ROWS + len(DEAD_ROWS), CITY_ROWS, len(DEAD_ROWS))
    assert rows_of(batch) == rows_of(parse_body(CITY_BODY))
    counts = batch.reports[0].dead_counts
    assert set(counts) == {
        *("wrong_field_count", "empty_id", "bad_timestamp", "timestamp_out_of_range"),
        *("bad_coordinates", "bad_count", "bad_flag"),
    }


def test_line_numbers_count_remarks_blank_lines_and_what_comes_before_the_header():
    content = b"\xef\xbb\xbfsrc\r\n\r\n" + body("# x", "", line(), "bad").replace(b"\n", b"\r\n")
    assert [row.line_number for row in parse_body(content).reports[0].dead_rows] == [7]


def test_a_hundred_thousand_bad_rows_are_counted_and_not_all_kept():
    content = body(line(id="1"), *[line(lat="north")] * 60_000, *["x"] * 40_000, line(id="2"))
    start = time.perf_counter()
    batch = parse_snapshots([raw(content)])
    assert time.perf_counter() - start < 10
    assert_balanced(batch)
    report = batch.reports[0]
    assert report.counts == LineCounts(lines_in=100_002, rows_out=2, dead_lettered=100_000)
    assert report.dead_counts == {"bad_coordinates": 60_000, "wrong_field_count": 40_000}
    assert len(report.dead_rows) == 2 * MAX_DEAD_ROWS_KEPT
    assert report.dead_rows[0].line_number == 3


def test_a_hundred_thousand_bad_rows_and_no_good_one_are_bounded_too():
    report = parse_snapshots([raw(body(*["x"] * 60_000, *[line(lat="")] * 40_000))]).reports[0]
    assert (report.counts.dead_lettered, report.fault.error_type) == (100_000, "file_no_valid_row")
    assert 0 < len(report.dead_rows) <= 2 * MAX_DEAD_ROWS_KEPT


def test_one_bad_file_costs_only_itself():
    good = [raw(CITY_BODY, AT + timedelta(minutes=i), f"raw/{i}") for i in range(5)]
    bad = [
        raw(content, AT + timedelta(minutes=i, seconds=30), f"raw/bad{i}")
        for i, (content, _) in enumerate(NO_SNAPSHOTS.values())
    ]
    batch = parse(*good, *bad)
    assert batch.counts.rows_out == 5 * CITY_ROWS
    assert sum(report.fault is not None for report in batch.reports) == len(bad)


# --- duplicates ---


def report_at(seconds: int) -> str:
    return f"{AT_S + seconds}|7200|-1"


@pytest.mark.parametrize("order", [[-60, 0, -30], [0, -60, -30], [-30, -60, 0]])
def test_the_latest_report_of_a_station_stays(order):
    lines = [line(combined=report_at(at), bikes=str(100 + at)) for at in order]
    batch = parse_body(body(*lines, line(id="2")))
    assert batch.counts == LineCounts(lines_in=4, rows_out=2, duplicate_rows=2)
    assert rows_of(batch)[0]["bikes"] == 100


def test_of_equal_reports_the_later_line_stays():
    batch = parse_body(body(line(bikes="1"), line(bikes="3"), line(bikes="2")))
    assert batch.counts == LineCounts(lines_in=3, rows_out=1, duplicate_rows=2)
    assert only_row(batch)["bikes"] == 2


def test_a_dead_repeat_is_dead_and_no_duplicate():
    batch = parse_body(body(line(bikes="1"), line(bikes="-1")))
    assert batch.counts == LineCounts(lines_in=2, rows_out=1, dead_lettered=1)


def test_leading_zeros_make_another_station():
    batch = parse_body(body(line(id="0123"), line(id="123"), line(id="00123")))
    assert batch.rows["station_id"].to_pylist() == ["00123", "0123", "123"]


def test_the_simulators_duplicate_is_counted():
    batch = parse_body(BODY_EDITS[Misbehaviour.DUPLICATE_STATION](CITY_BODY))
    assert batch.counts == LineCounts(CITY_ROWS + 1, CITY_ROWS, 0, 1)
    assert rows_of(batch) == rows_of(parse_body(CITY_BODY))


def test_two_files_of_one_time_share_their_stations():
    first = raw(body(line(combined=report_at(0), bikes="1"), line(id="2", bikes="1")), key="raw/a.txt")
    second = raw(body(line(combined=report_at(-9), bikes="2"), line(id="2", bikes="2")), key="raw/b.txt")
    batch = parse(second, first)
    kept = [(row["station_id"], row["bikes"], row["s3_source_key"]) for row in rows_of(batch)]
    assert kept == [("15001", 1, "raw/a.txt"), ("2", 2, "raw/b.txt")]
    assert {report.source_key: report.counts.duplicate_rows for report in batch.reports} == {
        "raw/a.txt": 1,
        "raw/b.txt": 1,
    }


def test_a_file_whose_rows_are_all_repeats_is_no_fault():
    batch = parse(raw(body(line()), key="raw/a.txt"), raw(body(line()), key="raw/b.txt"))
    assert [(report.counts.rows_out, report.fault) for report in batch.reports] == [(0, None), (1, None)]


def test_a_station_in_two_snapshots_is_two_rows():
    batch = parse(raw(body(line())), raw(body(line()), AT + timedelta(seconds=1), "raw/b.txt"))
    assert batch.counts == LineCounts(lines_in=2, rows_out=2)


# --- order ---


def test_rows_are_sorted_by_time_and_id_whatever_the_order_of_lines_and_files():
    ids = ["fb2", "2", "10", "010", "Ł", "a", "\U0001f6b2", "\uffee"]
    files = [
        raw(body(*(line(id=station) for station in ids[i:] + ids[:i])), AT + timedelta(minutes=-i), f"raw/{i}.txt")
        for i in range(4)
    ]
    batch = parse(*files)
    assert batch.rows.num_rows == 32
    assert_sorted_and_unique(batch.rows)
    assert [report.source_key for report in batch.reports] == ["raw/3.txt", "raw/2.txt", "raw/1.txt", "raw/0.txt"]


def test_files_of_different_headers_go_together():
    few = ("#id", COMBINED, "name", "lat", "lon", "bikes", "spaces", "total_docks")
    bodies = [columns_only(*COLUMNS), columns_only(*few), columns_only(*COLUMNS[::-1]), columns_only(*COLUMNS)]
    batch = parse(*(raw(content, AT + timedelta(minutes=i), f"raw/{i}") for i, content in enumerate(bodies)))
    assert [row["locked"] for row in rows_of(batch)] == [False, None, False, False]
    validate(batch.rows, PROCESSED)


# --- corrections ---


def test_a_correction_takes_the_place_of_its_line():
    content = body(line(id="1"), line(id="2", bikes="many"), line(id="3"))
    batch = parse(raw(content, corrections={3: line(id="2", bikes="12")}))
    assert batch.counts == LineCounts(lines_in=3, rows_out=3)
    assert batch.rows["bikes"].to_pylist() == [3, 12, 3]
    assert rows_of(batch) == rows_of(parse(raw(body(line(id="1"), line(id="2", bikes="12"), line(id="3")))))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_correction_may_end_in_a_line_end(ending):
    batch = parse(raw(body(line(id="1"), "x"), corrections={3: line(id="2") + ending}))
    assert batch.counts == LineCounts(lines_in=2, rows_out=2)


@pytest.mark.parametrize("inside", ["\n", "\r", "\r\n"])
def test_a_correction_of_two_lines_is_a_dead_letter(inside):
    correction = line(id="2", name=f"Ry{inside}nek")
    report = parse(raw(body(line(id="1"), "x"), corrections={3: correction})).reports[0]
    assert [(row.line_number, row.error_type) for row in report.dead_rows] == [(3, "stray_line_break")]


def test_a_correction_that_is_wrong_itself_leaves_the_line_as_it_was_served():
    report = parse(raw(body(line(id="1"), line(id="2", bikes="many")), corrections={3: line(bikes="-7")})).reports[0]
    (dead,) = report.dead_rows
    assert dead.raw_data == line(id="2", bikes="many")
    assert "-7" in dead.error_message


def test_corrections_can_save_a_file_without_valid_row():
    batch = parse(raw(body(line(lat="north")), corrections={2: line()}))
    assert (batch.counts, batch.reports[0].fault) == (LineCounts(lines_in=1, rows_out=1), None)


def test_a_correction_counts_lines_as_dead_letters_do():
    content = b"\xef\xbb\xbf# x\r\n\r\n" + body(line(id="1"), "bad").replace(b"\n", b"\r\n")
    number = parse(raw(content)).reports[0].dead_rows[0].line_number
    batch = parse(raw(content, corrections={number: line(id="2", name="Łódzka")}))
    assert batch.rows["name"].to_pylist() == ["Rynek", "Łódzka"]


@pytest.mark.parametrize("number", [-1, 0, 1, 99])
def test_a_correction_of_a_line_that_is_no_row_does_nothing(number):
    assert parse(raw(body(line()), corrections={number: line(id="9")})).rows["station_id"].to_pylist() == ["15001"]


def test_a_correction_with_a_lone_surrogate_is_published_as_text():
    batch = parse_snapshots([raw(body("x"), corrections={2: line(name="a\ud800b")})])
    assert only_row(batch)["name"] == "a?b"


# --- small things that others build on ---


def test_counts_add_up_column_by_column():
    one, two = LineCounts(10, 4, 3, 2, 1), LineCounts(1, 1, 0, 0, 0)
    assert LineCounts.total([one, two]) == LineCounts(11, 5, 3, 2, 1)
    assert LineCounts.total([]) == LineCounts()
    assert one.balanced
    assert not LineCounts(10, 4, 3, 2, 2).balanced


def test_counts_of_a_batch_are_the_sum_of_its_files():
    files = [raw(body(line(), "x"), AT + timedelta(minutes=i), f"raw/{i}") for i in range(3)]
    assert parse(*files).counts == LineCounts(lines_in=6, rows_out=3, dead_lettered=3)


def test_a_snapshot_without_corrections_has_none():
    assert RawSnapshot("raw/a", AT, b"").corrections == {}


def test_a_file_that_the_two_paths_disagree_about_costs_itself_only(monkeypatch):
    # As if a later Arrow refused what the exact path lets pass.
    right = exact._line_problem
    lenient = lambda line, *rest: (None, line) if "odd" in line else right(line, *rest)  # noqa: E731
    monkeypatch.setattr(exact, "_line_problem", lenient)
    bad = raw(body(line(), line(id="15002", bikes="odd")), AT, "raw/bad.txt")
    good = raw(body(line()), AT + timedelta(minutes=1), "raw/good.txt")
    batch = parse_snapshots([bad, good])
    assert [report.fault and report.fault.error_type for report in batch.reports] == ["file_unreadable", None]
    assert batch.rows.num_rows == 1
    assert_balanced(batch)
