"""Foreign text on its way to a person: nothing of it acts, and it has a bound."""

from __future__ import annotations

import json
import sys

import pytest

from wrm_pipeline.assets.presentation import markdown_table
from wrm_pipeline.checks.results import result
from wrm_pipeline.cli.output import shown_safely
from wrm_pipeline.domain.shown import MAX_CELL, MAX_DESCRIPTION, shortened, visible
from wrm_pipeline.report.answers import MAX_VALUE_LENGTH, plain

ACTING = {
    "clears the screen": "a\x1b[2Jb",
    "sets the window's title": "\x1b]0;owned\x07",
    "C1 control sequence": "a\x9b31mb",
    "a bell": "\x07",
    "backspaces over it": "safe\x08\x08\x08\x08evil",
    "returns to the line's begin": "safe\revil",
    "turns the direction": "a\u202egpj.exe",
    "isolates": "\u2066x\u2069",
    "NUL": "a\x00b",
    "DEL": "a\x7fb",
    "a line separator": "a\u2028b",
}


@pytest.mark.parametrize("kind", ACTING)
def test_what_acts_on_a_terminal_is_written_out(kind, capsys):
    text = ACTING[kind]
    with shown_safely():
        sys.stdout.write(f"{text}\n")
        sys.stderr.write(text)
    out, err = capsys.readouterr()
    for shown in (out.rstrip("\n"), err, visible(text)):
        assert shown.isprintable(), shown
        assert "\\u" in shown
    with shown_safely():
        sys.stdout.write(json.dumps([text], ensure_ascii=False))
    assert json.loads(capsys.readouterr().out) == [text], "JSON stays JSON, and says the same"


@pytest.mark.parametrize("text", ["Dworzec Główny, południe", "a\tb\nc", "日本", "🚲", "שלום", "e\u0301"])
def test_what_does_not_act_is_as_it_is(text):
    assert visible(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](http://evil.example/pixel.png)",
        "[click](javascript:alert(1))",
        "`code` | more | cells",
        "\\[x](http://evil.example)",
        "a\n\n# heading",
        "\x1b[31mred",
    ],
)
def test_a_cell_of_dagsters_tables_is_text(text):
    table = markdown_table([{"name": text}])
    cell = table.splitlines()[2]
    assert len(table.splitlines()) == 3
    for mark in ("<", "](", "![", "`", "\x1b"):
        assert mark not in cell
    assert cell.count("|") - cell.count("\\|") == 2


def test_a_name_of_31_mb_is_no_larger_than_its_bound_anywhere():
    name = "x" * 31 * 2**20
    assert len(markdown_table([{"name": name}])) < 3 * (MAX_CELL + 10)
    assert len(shortened(name, 50)) == 50
    assert shortened(name, 50).endswith("… (32,505,856 characters)")
    assert len(plain(name)) == MAX_VALUE_LENGTH
    found = result("a_check", False, name, samples=[{"name": name, "bikes": 3}])
    assert len(found.description) == MAX_DESCRIPTION
    assert len(str(found.metadata)) < 1_000
