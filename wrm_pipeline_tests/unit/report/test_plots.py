"""Small charts: what is in them for eyes, and for readers who do not see them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from wrm_pipeline.report.plots import bar_chart, line_chart

SVG = "{http://www.w3.org/2000/svg}"
HOURS = [f"{hour:02}" for hour in range(24)]


def test_a_line_has_its_values_as_points_and_as_words():
    root = ET.fromstring(line_chart("Bikes out", HOURS, {"out": [float(n) for n in range(24)]}))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == "Bikes out"
    assert "out. 00: 0, 01: 1, " in root.findtext(f"{SVG}desc")
    (line,) = [path for path in root.iter(f"{SVG}path") if path.get("fill") == "none"]
    assert line.get("d").count("L") == 23


def test_a_gap_ends_the_line_and_is_said():
    root = ET.fromstring(line_chart("t", ["a", "b", "c", "d"], {"x": [1, None, 3, 4]}))
    (line,) = [path for path in root.iter(f"{SVG}path") if path.get("fill") == "none"]
    assert line.get("d").count("M") == 2
    assert "b: no value" in root.findtext(f"{SVG}desc")


def test_the_scale_holds_the_highest_value_and_points_stay_inside():
    for highest in (0, 0.004, 0.9, 1, 7, 99.7, 999.7, 250_000):
        root = ET.fromstring(bar_chart("t", ["a", "b"], [highest, None]))
        (bar,) = root.iter(f"{SVG}rect")
        assert 52 <= float(bar.get("y")) <= 206
        scale = [float(text.text) for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
        assert highest <= max(scale) <= max(highest * 5, 1)


def test_names_are_text_and_not_markup():
    hostile = '<img src=x onerror=alert(1)>"'
    svg = line_chart(hostile, [hostile], {hostile: [1]})
    assert "<img" not in svg
    root = ET.fromstring(svg)
    assert root.findtext(f"{SVG}title") == hostile


def test_nothing_to_draw_is_a_chart_all_the_same():
    ET.fromstring(line_chart("t", [], {"x": []}))
    ET.fromstring(bar_chart("t", [], []))


def test_labels_and_values_must_fit():
    with pytest.raises(ValueError, match="each with 2 values"):
        line_chart("t", ["a", "b"], {"x": [1]})
    with pytest.raises(ValueError, match="at most 3 lines"):
        line_chart("t", ["a"], {name: [1] for name in "wxyz"})
    with pytest.raises(ValueError, match="2 labels"):
        bar_chart("t", ["a", "b"], [1])


def test_a_day_is_small_enough_for_metadata():
    assert len(line_chart("t" * 60, HOURS, {name: [123.4] * 24 for name in ("out", "empty", "full")})) < 8_000
