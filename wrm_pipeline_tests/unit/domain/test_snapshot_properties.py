"""What holds for any bytes at all: no exception, every line accounted for, one meaning on both paths."""

from datetime import timedelta

import ftfy
import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from wrm_pipeline.domain.snapshot import parse_snapshots, reject_reason
from wrm_pipeline.simulator.city import City
from wrm_pipeline_tests.fixtures.snapshots import (
    AT,
    BATTERY,
    COLUMNS,
    COMBINED,
    FORCE_EXACT,
    GOOD_ROW,
    HEADER,
    assert_balanced,
    assert_sorted_and_unique,
    body,
    line,
    parse,
    plain,
    property_settings,
    raw,
)

CITY_BODY = City(3, station_count=12, bike_count=6).snapshot(AT)


def check(content: bytes) -> None:
    """Both paths agree and every line is accounted for; what the fetch would say of it raises nothing."""
    batch = parse(raw(content))
    reject_reason(content, AT)
    report = batch.reports[0]
    assert (report.fault is not None) == (report.counts.rows_out + report.counts.duplicate_rows == 0)
    # A line that is not blank is counted once: never fewer lines than there are rows, never more than there are.
    text = (
        content.decode("utf-16", "replace") if content[:2] in (b"\xff\xfe", b"\xfe\xff") else content.decode("latin-1")
    )
    assert report.counts.lines_in <= text.count("\n") + text.count("\r") + 1


# --- any bytes ---

tricky_bytes = st.lists(
    st.one_of(
        st.sampled_from([b"\n", b"\r\n", b"\r", b",", b'"', b'""', b"#", b"src", b"src,", b"|", b"\x00", b" ", b"\t"]),
        st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\x81", b"\xc5\x82", b"\xb3", b"0x", b"\x0b", b"\xc2\xa0"]),
        st.sampled_from([line().encode(), line(id="fb1", battery="83").encode(), HEADER.encode(), b"<html>"]),
        st.binary(max_size=6),
    ),
    max_size=12,
).map(b"".join)


@property_settings(300)
@given(st.one_of(st.binary(max_size=200), tricky_bytes))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b'"')
@example(b"\r")
@example(b"#id,x")
def test_any_bytes_are_accounted_for(content):
    check(content)


@property_settings(300)
@given(st.one_of(st.binary(max_size=200), tricky_bytes), st.sampled_from([b"\n", b"\r\n"]))
@example(b"", b"\n")
@example(b'"', b"\n")
def test_any_bytes_behind_a_header_are_accounted_for(content, line_end):
    check(HEADER.encode() + line_end + content)


mutation = st.tuples(
    st.sampled_from(["flip", "insert", "delete byte", "delete line", "repeat line", "swap lines", "cut"]),
    st.integers(0, 2**20),
    st.sampled_from([b'"', b",", b"\r", b"\n", b"\x00", b"|", b"#", b" ", b"\xff", b"-", b"0x", b"e9", b"\xc2\xa0"]),
)


def mutated(content: bytes, mutations: list[tuple[str, int, bytes]]) -> bytes:
    for kind, where, what in mutations:
        position = where % (len(content) + 1)
        lines = content.split(b"\n")
        number = where % len(lines)
        match kind:
            case "flip":
                content = content[:position] + what[:1] + content[position + 1 :]
            case "insert":
                content = content[:position] + what + content[position:]
            case "delete byte":
                content = content[:position] + content[position + 1 :]
            case "delete line":
                content = b"\n".join(lines[:number] + lines[number + 1 :])
            case "repeat line":
                content = b"\n".join([*lines[: number + 1], *lines[number:]])
            case "swap lines":
                content = b"\n".join([*lines[number:], *lines[:number]])
            case "cut":
                content = content[:position]
    return content


@property_settings(300)
@given(st.lists(mutation, min_size=1, max_size=6))
def test_a_spoiled_snapshot_is_accounted_for(mutations):
    check(mutated(CITY_BODY, mutations))


# --- one meaning ---

# fmt: off
number_parts = st.sampled_from(
    [
        "0", "1", "-1", "+5", "007", "12.0", "12.", ".5", "1e1", "1E-2", "1e400", "-1e400", "1e-400", "5e-324",
        "0x10", "0X1", "nan", "NaN", "inf", "-inf", "Infinity", "100000", "100001", "-0", "-0.0", "٣", "３", "1_0",
        "", " ", " 12 ", "\t7", "7\u00a0", "7\x0b", "--1", "1-", "90", "90.0000001", "-180", "180.5", "9" * 19,
        "0" * 30 + "5", "9" * 400, "0" * 5000 + "1", "1,5", '"8"', '""8', '8"', '"8" ', ' "8"', "1\x00", "true",
        "12", "5+", "+5", "5.", "5.0+", "+5.00", "-1", "-1.0", "-1+", "null", "NULL", "None", "N/A", "n/a", "\\N", "-",
        ' "8"', '\u00a0"8"', ' "8', "\u2003 9", "1e-999999999999",
    ]
)
flag_parts = st.sampled_from(
    [
        "true", "false", "True", "FALSE", "TRUE", "tRUE", "yes", "1", "0", "", " true", "true ", '"true"', '"tr"ue',
        "83", "0", "100", "101", "-1", "83.5", "82.5", "abc", "99.6", "100.4", "-0.4", " 83 ", "٨٣", "1e400", "0x10",
        "nan", "\u00a0", "\t", "null", "NULL", "NA", "#N/A", "T", "f", "Yes", "no", "Y", "n", "None", "-", "\\N",
        "0.5", "1.0", ' "t"',
    ]
)
combined_parts = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "1755781502.5", "1755781502.1234567", "1755781502123", "1755781502123.4", "1755867902.000001",
                "1755781502", "1262304000", "1262303999", "1755867902", "1755867903", "-5", "0", "9" * 18, "9" * 19,
                "9" * 30, "01755781502", "001755781502", "+1755781502", " 1755781502", "1755781502.0", "", "١٧",
            ]
        ),
        st.sampled_from(["7200", "-7200", "0", "999999999", "1000000000", "0000007200", "00000007200", "", "x", "-0",
            "7200.0", "7199.5", "+1", "null", " 5 ", "-0.5"]),
        st.sampled_from(["-1", "1", "--1", "999999999", "-999999999", "-1000000000", "-0000000001", " 1", "", "1\n"]),
    ).map("|".join),
    st.sampled_from(["1755781502|7200", "1755781502|7200|-1|0", "|||", "", "1755781502", "1755781502.25",
        "1755781502||", "1755781502123", " 1755781502 | 7200 | -1 ", '"1755781502|7200|-1"', "soon|7200|-1"]),
)
id_parts = st.one_of(
    st.sampled_from(["15001", "15002", "015001", " 15001", "15001 ", "fb590", "FB1", "", " ", "\u00a0", "#1", "src"])
    | st.sampled_from(
        ['"#1"', '"src"', '"15001"', '"15,001"', '""', '"src', "Src", "src ", '""src', '""#x', "\x00", "ł", "💡"]
    ),
    st.text("01#src\"' \t,", max_size=5),
)
names = st.one_of(
    st.sampled_from(
        [
            "Rynek", '"Dworzec Główny, południe"', '"a ""b"" c"', 'a "b" c', '"a" b', "&amp;", "&quot;", "&#10;",
            "&#xD800;", "WrocÅ‚aw", "WrocÅ\x82aw", "Åšwidnicka", "„Ryn”ek", "“Rynek”", "ﬁ", "０", "", " ", '"', '"""',
            '""""', "a\x00b", "\ufeff", "\u2028", "\x85", "\x1b[31mX", "#", "src", '"#1, x"', '"src"', "src,",
            ' "a, b"', '\u00a0"a"', ' "a, ""b"""', ' "a', ' "a" b', "\t\"a,b\"", "A" * 5000, "\r", '"\r"', '"a\rb"',
        ]
    ),
    st.text('"a,ł&;#x1Å\x82\u2028\r ', max_size=8),
)
# fmt: on
PARTS = {
    "#id": id_parts,
    COMBINED: combined_parts,
    "name": names,
    **dict.fromkeys(("lat", "lon", "bikes", "spaces", "total_docks", "pedelecs"), number_parts),
    **dict.fromkeys(("installed", "locked", "temporary", BATTERY), flag_parts),
}


@st.composite
def odd_lines(draw, columns: tuple[str, ...]) -> bytes:
    """A row, good but for some of its values; or a line that is not a row."""
    shape = draw(st.sampled_from(["row"] * 8 + ["short", "long", "blank", "remark", "header", "text"]))
    if shape == "blank":
        return draw(st.sampled_from([b"", b" ", b"\t", b"\x0b", b"\xc2\xa0", b"\x1c", b"  \t"]))
    if shape == "remark":
        return draw(
            st.sampled_from([b"src", b"src,a", b"# x", b"#", b'"src"', b'"src",1', b'"#", "', b"src\t", b" #", b'#"'])
        )
    if shape == "header":
        return ",".join(columns).encode()
    if shape == "text":
        return draw(st.text(',"|# \r0e', max_size=30)).encode()
    values = dict(GOOD_ROW)
    values["#id"] = str(draw(st.integers(15001, 15006)))
    for column in draw(st.lists(st.sampled_from(columns), max_size=2)):
        values[column] = draw(PARTS.get(column, names))
    fields = [values.get(column, "?") for column in columns]
    if shape == "short":
        del fields[draw(st.integers(0, len(fields) - 1))]
    if shape == "long":
        fields.append(draw(st.sampled_from(["", "0", '"'])))
    text = ",".join(fields)
    return text.encode(draw(st.sampled_from(["utf-8"] * 7 + ["cp1250"])), "replace")


@st.composite
def odd_files(draw) -> bytes:
    """A header with the columns in any order, some optional ones missing or an unknown one more, and odd lines."""
    columns = COLUMNS
    if draw(st.integers(0, 3)) == 0:
        columns = tuple(draw(st.permutations(COLUMNS)))
    if draw(st.integers(0, 5)) == 0:
        columns = (*columns, "bike_racks")
    if draw(st.integers(0, 5)) == 0:
        columns = tuple(column for column in columns if column not in ("locked", BATTERY, "pedelecs"))
    header = ",".join(columns).encode()
    if draw(st.integers(0, 7)) == 0:
        header = header.replace(b"#id", draw(st.sampled_from([b"id", b"station_id"])))
    # Two good lines, so that not every file is given up as one without a valid row.
    good = [line(columns, bike_racks="7", id=station).encode() for station in ("15001", "15009")]
    lines = good + draw(st.lists(odd_lines(columns), max_size=6))
    lines = draw(st.permutations(lines))
    end = draw(st.sampled_from([b"\n"] * 5 + [b"\r\n", b"\r", b"\r\r\n"]))
    bom = draw(st.sampled_from([b""] * 7 + [b"\xef\xbb\xbf"]))
    last = draw(st.sampled_from([end, end, b"", end + end]))
    content = end.join([header, *lines]) + last
    separator = draw(st.sampled_from([b","] * 6 + [b";", b"\t", b", ", b" ,"]))
    content = content.replace(b",", separator)
    if draw(st.integers(0, 7)) == 0:
        content = b"Warning: x, y in z on line 3" + draw(st.sampled_from([b"\n", end])) + content
    if draw(st.integers(0, 7)) == 0:
        content = content.replace(end, draw(st.sampled_from([b",", b", ", b";"])) + end)
    if draw(st.integers(0, 9)) == 0:
        content = content.decode("utf-8", "replace").encode("utf-16")
    return bom + content


@property_settings(400)
@given(odd_files())
def test_both_paths_give_the_same_rows_and_counts(content):
    check(content)


@property_settings(150)
@given(st.lists(st.one_of(odd_files(), st.just(CITY_BODY)), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_files_parsed_together_are_as_if_parsed_alone(contents, random):
    files = [raw(content, AT + timedelta(minutes=i), f"raw/{i}.txt") for i, content in enumerate(contents)]
    alone = [parse_snapshots([file]) for file in files]
    shuffled = list(files)
    random.shuffle(shuffled)
    together = parse_snapshots(shuffled)
    assert_balanced(together)
    assert plain(together.rows).equals(pa.concat_tables([plain(batch.rows) for batch in alone]))
    reports = {report.source_key: report for report in together.reports}
    assert reports == {batch.reports[0].source_key: batch.reports[0] for batch in alone}


@property_settings(120)
@given(st.lists(odd_files(), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_files_of_one_time_keep_each_station_once_whatever_their_order(contents, random):
    files = [raw(content, AT, f"raw/{i}.txt") for i, content in enumerate(contents)]
    together = parse(*files)
    random.shuffle(files)
    again = parse_snapshots(files)
    assert again.reports == together.reports
    assert plain(again.rows).equals(plain(together.rows))
    assert_sorted_and_unique(again.rows)


@property_settings(150)
@given(odd_files(), st.dictionaries(st.integers(-1, 12), st.one_of(names, st.just(line(id="15077"))), max_size=3))
def test_any_correction_is_accounted_for(content, corrections):
    batch = parse_snapshots([raw(content, corrections={**corrections, **FORCE_EXACT})])
    assert_balanced(batch)
    assert_sorted_and_unique(batch.rows)


@property_settings(200)
@given(st.text(st.characters(codec="ascii", exclude_characters=',"\r\n'), max_size=40))
@example("BIKE 57123")
@example(" &amp; ")
def test_an_ascii_name_becomes_what_ftfy_makes_of_it(name):
    spelling = {"uncurl_quotes": False, "fix_latin_ligatures": False, "fix_character_width": False}
    batch = parse(raw(body(line(id="1", name=name))))
    assert batch.rows["name"].to_pylist() == [ftfy.fix_text(name, unescape_html=True, **spelling).strip()]


def test_the_simulated_city_is_clean_on_both_paths():
    batch = parse(raw(CITY_BODY))
    assert batch.counts.rows_out == batch.counts.lines_in == CITY_BODY.count(b"\n") - 1
