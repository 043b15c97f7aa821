"""Faults in the bytes of a body: each one is what it says, and only that."""

import csv
import gzip
import io
import json
from datetime import UTC, datetime

import ftfy.bad_codecs  # noqa: F401 - registers sloppy-windows-1252: cp1252 without holes
import pytest

from wrm_pipeline.simulator.city import HEADER, City
from wrm_pipeline.simulator.misbehaviour import (
    BODY_EDITS,
    DEAD_ROWS,
    Misbehaviour,
    Tuning,
    answer,
    dead_row,
    misbehave,
)

AT = datetime(2025, 8, 21, 12, 0, tzinfo=UTC)
BODY = City(1).snapshot(AT)


def table(body: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(body.decode())))


def spoiled(kind: Misbehaviour) -> bytes:
    return BODY_EDITS[kind](BODY)


def added_lines(kind: Misbehaviour) -> list[bytes]:
    """The lines that the fault adds; fails where it changes any other."""
    lines, good = spoiled(kind).splitlines(keepends=True), BODY.splitlines(keepends=True)
    added = []
    for line in lines:
        if good and line == good[0]:
            good.pop(0)
        else:
            added.append(line)
    assert not good, "a good line is gone"
    return added


def test_a_good_answer_is_the_body_and_its_length():
    good = answer(BODY)
    assert (good.status, good.body, good.declared_bytes, good.ending) == (200, BODY, len(BODY), "close")


@pytest.mark.parametrize("kind", Misbehaviour)
def test_every_kind_can_be_answered(kind):
    reply = misbehave(kind, BODY)
    assert reply != answer(BODY) or kind is Misbehaviour.FROZEN


@pytest.mark.parametrize("kind", BODY_EDITS)
def test_an_edit_changes_the_body_and_nothing_else(kind):
    assert misbehave(kind, BODY) == answer(spoiled(kind))
    assert spoiled(kind) != BODY
    assert spoiled(kind) == spoiled(kind)


def test_empty():
    assert spoiled(Misbehaviour.EMPTY) == b""


def test_gzip():
    assert gzip.decompress(spoiled(Misbehaviour.GZIP)) == BODY


def test_no_header():
    assert HEADER.encode() + b"\n" + spoiled(Misbehaviour.NO_HEADER) == BODY


def test_header_only():
    assert spoiled(Misbehaviour.HEADER_ONLY) == HEADER.encode() + b"\n"


def test_html_and_json_say_so():
    page, report = (misbehave(kind, BODY) for kind in (Misbehaviour.HTML, Misbehaviour.JSON))
    assert page.status == report.status == 200
    assert page.body.startswith(b"<!DOCTYPE html>")
    assert page.content_type.startswith("text/html")
    assert "error" in json.loads(report.body)
    assert report.content_type == "application/json"


def test_cp1250_loses_nothing_but_is_not_utf8():
    body = spoiled(Misbehaviour.CP1250)
    assert body.decode("cp1250") == BODY.decode()
    with pytest.raises(UnicodeDecodeError):
        body.decode()


def test_mojibake_is_valid_utf8_and_can_be_repaired():
    body = spoiled(Misbehaviour.MOJIBAKE)
    assert "Wisznia MaÅ‚a" in body.decode()
    assert HEADER in body.decode()
    names, good = ([row[2] for row in table(text)[1:]] for text in (body, BODY))
    assert [name.encode("sloppy-windows-1252").decode() for name in names] == good


def test_html_entities_and_curly_quotes():
    names = [row[2] for row in table(spoiled(Misbehaviour.HTML_ENTITIES))]
    assert names[1] == "„Rynek, pierzeja wschodnia”"
    assert "Kino &quot;Nowe Horyzonty&quot;" in names
    assert "Bielany Wrocławskie P&amp;R" in names


def test_wrong_charset_is_in_the_header_only():
    reply = misbehave(Misbehaviour.WRONG_CHARSET, BODY)
    assert (reply.body, reply.content_type) == (BODY, "text/csv; charset=iso-8859-1")


def test_bom():
    assert spoiled(Misbehaviour.BOM) == b"\xef\xbb\xbf" + BODY


def test_crlf():
    body = spoiled(Misbehaviour.CRLF)
    assert body.count(b"\r\n") == body.count(b"\n") == BODY.count(b"\n")
    assert body.replace(b"\r", b"") == BODY


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        (Misbehaviour.REORDERED_COLUMNS, 13),
        (Misbehaviour.MISSING_OPTIONAL_COLUMNS, 8),
        (Misbehaviour.EXTRA_COLUMN, 14),
    ],
)
def test_columns(kind, columns):
    good = [dict(zip(table(BODY)[0], row, strict=True)) for row in table(BODY)[1:]]
    header, *rows = table(spoiled(kind))
    assert len(header) == columns
    assert header != table(BODY)[0]
    assert len(rows) == len(good)
    for row, right in zip(rows, good, strict=True):
        named = dict(zip(header, row, strict=True))
        assert all(named[column] == right[column] for column in named.keys() & right.keys())


def test_missing_columns_are_the_optional_ones():
    assert table(spoiled(Misbehaviour.MISSING_OPTIONAL_COLUMNS))[0] == [
        "#id",
        "timestamp|gmt_local_diff_sec|gmt_servertime_diff_sec",
        *("name", "lat", "lon", "bikes", "spaces", "total_docks"),
    ]


def test_remarks():
    added = added_lines(Misbehaviour.REMARKS)
    assert len(added) == 3
    assert all(line.split(b",")[0].strip() == b"src" or line.startswith(b"#") for line in added)


def test_remark_before_header():
    assert spoiled(Misbehaviour.REMARK_BEFORE_HEADER) == b"src,nextbike,wroclaw\n" + BODY


def test_repeated_header():
    assert added_lines(Misbehaviour.REPEATED_HEADER) == [HEADER.encode() + b"\n"]


def test_unclosed_quote():
    (line,) = added_lines(Misbehaviour.UNCLOSED_QUOTE)
    assert line.count(b'"') == 1
    assert line.startswith(b"99001,")
    assert len(table(spoiled(Misbehaviour.UNCLOSED_QUOTE))) < len(table(BODY)) - 50, "a naive reader loses rows"


def test_duplicate_station():
    (line,) = added_lines(Misbehaviour.DUPLICATE_STATION)
    (row,) = csv.reader([line.decode()])
    (original,) = (good for good in table(BODY) if good[0] == row[0])
    assert int(row[1].split("|")[0]) == int(original[1].split("|")[0]) - 600
    assert int(row[5]) == int(original[5]) + 1
    assert row[2:5] + row[6:] == original[2:5] + original[6:]


def test_dead_letter_rows_are_one_of_each_kind_among_untouched_neighbours():
    added = added_lines(Misbehaviour.DEAD_LETTER_ROWS)
    assert added == [dead_row(kind, BODY) for kind in DEAD_ROWS]
    ids = [line.split(b",")[0] for line in added]
    assert len(set(ids)) == len(ids)
    assert not {row[0] for row in table(BODY)} & {station.decode() for station in ids}


@pytest.mark.parametrize("kind", DEAD_ROWS)
def test_a_dead_row_differs_in_one_thing(kind):
    (row,) = csv.reader([dead_row(kind, BODY).decode()])
    good = table(BODY)[1]
    if len(row) != len(good):
        assert "fields" in kind
        return
    changed = {index for index in range(1, 13) if row[index] != good[index]}
    assert len(changed) == {"no_position": 2, "empty_id": 0}.get(kind, 1)
    assert (row[0] == "") == (kind == "empty_id")


def test_a_frozen_feed_repeats_itself():
    assert misbehave(Misbehaviour.FROZEN, BODY, previous=b"before").body == b"before"
    assert misbehave(Misbehaviour.FROZEN, BODY).body == BODY


@pytest.mark.parametrize("kind", [Misbehaviour.TRUNCATED, Misbehaviour.TRUNCATED_SILENTLY])
def test_truncation_is_in_mid_row(kind):
    reply = misbehave(kind, BODY)
    assert BODY.startswith(reply.body)
    assert 0.4 < len(reply.body) / len(BODY) < 0.6
    last = reply.body.rpartition(b"\n")[2]
    assert 1 <= last.count(b",") < 12
    assert reply.declared_bytes == (len(BODY) if kind is Misbehaviour.TRUNCATED else -1)


@pytest.mark.parametrize("retry_after", ["7", "Thu, 21 Aug 2025 12:00:00 GMT", ""])
def test_retry_after(retry_after):
    expected = (("Retry-After", retry_after),) if retry_after else ()
    for kind in (Misbehaviour.TOO_MANY_REQUESTS, Misbehaviour.UNAVAILABLE):
        assert misbehave(kind, BODY, tuning=Tuning(retry_after=retry_after)).headers == expected
    assert misbehave(Misbehaviour.SERVER_ERROR, BODY, tuning=Tuning(retry_after=retry_after)).headers == ()
