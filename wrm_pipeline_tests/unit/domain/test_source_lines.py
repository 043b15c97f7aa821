"""From a row back to its line: whatever the bytes, the line that is named makes just that row."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wrm_pipeline.domain.snapshot import RawSnapshot, SourceLine, lines_of, parse_snapshots
from wrm_pipeline_tests.fixtures.snapshots import AT, AT_S, HEADER, line, property_settings

KEY = "raw/dt=2025-08-21/x.txt"


def winner(body: bytes, station_id: str, corrections: dict[int, str] | None = None) -> SourceLine:
    found = lines_of(RawSnapshot(KEY, AT, body, corrections or {}), station_id)
    return max(found, key=lambda found: (found.reported_at, found.line_number))


def rows(body: bytes, corrections: dict[int, str] | None = None) -> list[dict]:
    return parse_snapshots([RawSnapshot(KEY, AT, body, corrections or {})]).rows.to_pylist()


station = st.sampled_from(["15001", "15002", "fb591106", " 15001", '"15001"', "#15001", "src", "0015"])
good_line = st.builds(
    lambda number, ago, name, bikes: line(id=number, combined=f"{AT_S - ago}|7200|-1", name=name, bikes=bikes),
    station,
    st.integers(0, 3),
    st.sampled_from(["Rynek", '"Dworzec, południe"', "WrocÅ‚aw", "Świdnicka &amp; Rynek", "a\x0bb", "x\x1b[1m"]),
    st.sampled_from(["0", "07", "3", "x", "-1", "1e3"]),
)
other_line = st.sampled_from(["", "# remark", "src,x", '"unclosed,1', "1,2,3", "   ", line(id="15001") + ",more"])
bodies = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.sampled_from(["# before", ""]), max_size=2),
    st.lists(st.one_of(good_line, good_line, other_line), max_size=12),
    st.sampled_from(["utf-8", "cp1250"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
).map(lambda p: p[0] + p[4].join([*p[1], HEADER, *p[2]]).encode(p[3], "replace") + (p[4].encode() if p[5] else b""))


@property_settings(200)
@given(bodies, st.dictionaries(st.integers(1, 14), good_line, max_size=2))
@example(("\ufeff" + HEADER + "\r\n" + line(name="Łódź")).encode("utf-8"), {})
@example((HEADER + "\n" + line(name="Łódź")).encode("cp1250"), {})
def test_the_line_makes_the_row_and_is_where_it_says(body, corrections):
    for row in rows(body, corrections):
        found = winner(body, row["station_id"], corrections)
        assert found.reported_at == row["timestamp"]
        raw_line = body[found.offset : found.offset + found.length]
        assert raw_line == body.split(b"\n")[found.line_number - 1].removesuffix(b"\r").removeprefix(b"\xef\xbb\xbf")
        assert raw_line.decode(found.encoding, "replace") == found.text
        made_of = raw_line if found.correction is None else found.correction.encode()
        (again,) = rows(HEADER.encode() + b"\n" + made_of)
        assert again == row


def test_a_correction_of_an_empty_line_is_not_a_line():
    body = f"{HEADER}\n{line()}\n\n".encode()
    corrections = {3: line(bikes="7"), 4: line(bikes="8")}
    assert rows(body, corrections)[0]["bikes"] == 3
    assert winner(body, "15001", corrections).line_number == 2


def test_of_repeats_the_latest_report_wins_and_of_equal_ones_the_last():
    old, new = (f"{AT_S - ago}|7200|-1" for ago in (60, 0))
    lines = [line(combined=new, bikes="1"), line(combined=new, bikes="2"), line(combined=old, bikes="3")]
    body = "\n".join([HEADER, *lines]).encode()
    found = lines_of(RawSnapshot(KEY, AT, body), "15001")
    assert [one.line_number for one in found] == [2, 3, 4]
    assert found[0].reported_at - found[2].reported_at == timedelta(seconds=60)
    assert winner(body, "15001").text == lines[1]
    assert rows(body)[0]["bikes"] == 2


@pytest.mark.parametrize("body", [b"", b"<html>", HEADER.encode(), HEADER.encode() + b"\n" + line(bikes="x").encode()])
def test_a_body_without_a_good_line_has_none(body):
    assert lines_of(RawSnapshot(KEY, AT, body), "15001") == []
