"""Metrics that assets declare: what is taken, how it adds up, and what is bounded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from wrm_pipeline.clients.metrics_log import MetricsLog, logs_of, read_log, remove_forgotten
from wrm_pipeline.domain.declared_metrics import (
    MAX_METRICS,
    MAX_NUMBERS,
    OTHER,
    Recorded,
    checked_amount,
    declare,
    label_values,
)

HITS = declare("hits_total", "counter", "Hits", ["status"])
LEVEL = declare("level", "gauge", "", [])
TIMES = declare("times_seconds", "histogram", "", [], [1, 2.5, math.inf])


def values(recorded: Recorded) -> dict[str, dict[tuple[str, ...], list[float]]]:
    return {name: series for name, (_, series) in recorded.metrics.items()}


def test_values_add_up_and_a_gauge_is_what_was_set_last() -> None:
    one, two = Recorded(), Recorded()
    for recorded, status, at in ((one, "ok", 10.0), (one, "ok", 20.0), (two, "bad", 15.0)):
        recorded.add(HITS, (status,), 2, at)
        recorded.add(LEVEL, (), at, at)
        recorded.add(TIMES, (), at / 10, at)
    one.merge(two)
    assert values(one) == {
        "hits": {("ok",): [4.0], ("bad",): [2.0]},
        "level": {(): [20.0, 20.0]},
        "times_seconds": {(): [4.5, 1.0, 2.0, 0.0]},
    }
    assert values(Recorded.from_json(json.loads(json.dumps(one.to_json())))) == values(one)


def test_a_declaration_alone_is_a_zero_where_there_are_no_labels() -> None:
    recorded = Recorded()
    for declaration in (HITS, LEVEL, TIMES, declare("plain", "counter", "", [])):
        recorded.declare(declaration)
    assert values(recorded) == {"hits": {}, "level": {}, "times_seconds": {(): [0.0] * 4}, "plain": {(): [0.0]}}


def test_the_later_of_two_declarations_counts() -> None:
    recorded = Recorded()
    recorded.add(HITS, ("ok",), 1, 0)
    recorded.add(declare("hits", "counter", "other words", ["status"]), ("ok",), 1, 0)
    assert values(recorded) == {"hits": {("ok",): [2.0]}}
    recorded.add(declare("hits", "counter", "", ["place"]), ("x",), 1, 0)
    assert values(recorded) == {"hits": {("x",): [1.0]}}


def test_series_and_metrics_are_bounded() -> None:
    recorded = Recorded(max_series=3)
    for n in range(10):
        recorded.add(HITS, (str(n),), 1, 0)
    assert values(recorded)["hits"] == {("0",): [1.0], ("1",): [1.0], ("2",): [1.0], (OTHER,): [7.0]}
    for n in range(2 * MAX_METRICS):
        recorded.add(declare(f"m{n}", "counter", "", []), (), 1, 0)
    assert len(recorded.metrics) == MAX_METRICS
    recorded = Recorded()
    for n in range(500):
        recorded.add(declare(f"m{n % 10}", "histogram", "", ["n"], range(50)), (str(n),), 1, 0)
    recorded.add(HITS, ("ok",), 1, 0)
    assert values(recorded)["hits"] == {(OTHER,): [1.0]}
    numbers = sum(len(value) for series in values(recorded).values() for value in series.values())
    assert MAX_NUMBERS < numbers < MAX_NUMBERS + 11 * 52
    assert len(declare("a", "counter", "x" * 10_000, []).documentation) == 500
    (label,) = label_values(HITS, {"status": "ż" * 1000})
    assert label == "ż" * 100


@pytest.mark.parametrize(
    ("name", "labels", "buckets", "words"),
    [
        ("a-b", [], [1], "'a-b' is not a metric's name"),
        ("wrm_rows", [], [1], "'wrm_rows' begins with .* Choose another name"),
        ("rain_sum", [], [1], "'rain_sum' ends with .* Choose another name"),
        ("asset_block_seconds", [], [1], "is what observe_asset records. Choose another name"),
        ("a", [f"l{n}" for n in range(11)], [1], "a has 11 labels and 1 buckets. Use at most 10 and 50"),
        ("a", [], range(51), "a has 0 labels and 51 buckets. Use at most 10 and 50"),
        ("a", ["le"], [1], "'le' of a is not a label's name"),
        ("a", ["__x"], [1], "is not a label's name"),
        ("a", ["x", "x"], [1], "has a label twice: x, x"),
        ("a", [], [], "buckets of a are not ascending"),
        ("a", [], [2, 1], "buckets of a are not ascending"),
    ],
)
def test_what_prometheus_would_not_take_is_refused_by_name(name, labels, buckets, words) -> None:
    with pytest.raises(ValueError, match=words):
        declare(name, "histogram", "", labels, buckets)


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf, True, "1"])
def test_a_counter_takes_what_lets_it_rise(amount) -> None:
    with pytest.raises(ValueError, match="hits"):
        checked_amount(HITS, amount)


def test_other_labels_than_declared_are_named() -> None:
    with pytest.raises(ValueError, match="labels of hits: declared are status, given are place"):
        label_values(HITS, {"place": "x"})


@pytest.mark.parametrize(
    "content", [None, 7, [7], [["x"]], [["a", "counter", "", [], [], [["x"]]]], [["a", "sum", "", [], [], []]]]
)
def test_what_makes_no_sense_in_a_state_file_is_left_out(content) -> None:
    assert all(not series or series == {(): [0.0]} for series in values(Recorded.from_json(content)).values())


# --- the file of a process ---


def test_a_file_holds_all_that_was_recorded_up_to_a_line_that_was_cut(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics", "run", 10, clock=lambda: 5.0)
    for n in range(3):
        log.record(HITS, ("ok",), 1)
        log.record(TIMES, (), n)
    log.record(LEVEL, (), 7)
    ((process, path),) = logs_of(tmp_path / "metrics", "run").items()
    assert path == log.path
    assert process in path.name
    assert values(read_log(path)) == values(log.recorded)
    path.write_bytes(path.read_bytes()[:-5])
    assert values(read_log(path))["level"] == {}
    log.close()
    assert logs_of(tmp_path / "metrics", "run") == {}


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b"7\n", b'["a"]\n', b"[3, [], 1, 1]\n", b'{"a": 1}\n'])
def test_a_file_that_is_not_ours_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    assert values(read_log(tmp_path / "x.jsonl")) == {}
    assert values(read_log(tmp_path / "absent.jsonl")) == {}


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    log = MetricsLog(tmp_path / "file", "run", 10)
    log.record(HITS, ("ok",), 1)
    log.record(HITS, ("ok",), 1)
    assert values(log.recorded) == {"hits": {("ok",): [2.0]}}
    assert len(caplog.records) == 1


def test_files_that_nobody_counts_go_after_a_week(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, "run", 10)
    log.record(LEVEL, (), 1)
    at = log.path.stat().st_mtime
    remove_forgotten(tmp_path, at + 6 * 86400)
    assert log.path.exists()
    remove_forgotten(tmp_path, at + 8 * 86400)
    assert not log.path.exists()
