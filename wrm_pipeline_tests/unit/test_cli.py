"""The operator's commands, as a person types them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from wrm_pipeline.cli import main
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import serve
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, build_day, snapshot
from wrm_pipeline_tests.fixtures.snapshots import line


@pytest.fixture
def entry(lake: Lake) -> str:
    """The id of a dead letter of one row, line 8 of its file."""
    combined = f"{int(NOON.timestamp())}|7200|-1"
    lake.put_raw(NOON, snapshot(NOON, 5, line(id="15998", combined=combined, name="<b>Rynek</b>", bikes="x")))
    build_day()
    return Path(lake.letters()[0]).stem


def test_list_shows_entries_as_a_table_and_as_json(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "list"]) == 0
    table = capsys.readouterr().out
    assert entry[:8] in table
    assert "bad_count" in table
    assert main(["dlq", "list", "--json", "--status", "pending_reprocessing"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["entry_id"] == entry
    assert main(["dlq", "list", "--status", "parked"]) == 0
    assert "No such entries" in capsys.readouterr().out


def test_show_gives_the_line_and_what_is_wrong_with_it(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "show", entry[:6]]) == 0
    shown = capsys.readouterr().out
    assert "line 8: bikes 'x' is not a whole number" in shown


def test_correct_and_replay_publish_the_row(entry: str, lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    combined = f"{int(NOON.timestamp())}|7200|-1"
    good = line(id="15998", combined=combined, bikes="4")
    assert main(["dlq", "correct", entry, "--line", "8", "--data", good]) == 0
    assert main(["dlq", "replay", "--dry-run"]) == 0
    assert not any(row["station_id"] == "15998" for row in lake.rows("enhanced"))
    assert main(["dlq", "replay", "--id", entry[:8]]) == 0
    assert "reprocessed" in capsys.readouterr().out
    (row,) = [row for row in lake.rows("enhanced") if row["station_id"] == "15998"]
    assert row["bikes"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dlq", "show", "nothing-like-it"], "no one entry"),
        (["dlq", "correct", "ENTRY", "--line", "99", "--data", "x"], "has no record of line 99; it has 8"),
        (["dlq", "correct", "ENTRY", "--line", "8", "--data", "a\nb"], "one line"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_changes_nothing(
    entry: str, lake: Lake, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = lake.etags()
    assert main([entry if argument == "ENTRY" else argument for argument in arguments]) == 2
    assert said in capsys.readouterr().err
    assert lake.etags() == before


def test_discard_keeps_the_entry_with_the_reason(entry: str, lake: Lake) -> None:
    assert main(["dlq", "discard", entry, "--reason", "test bike"]) == 0
    stored = json.loads(lake.store.get(lake.layout.dead_letter_key(DAY, entry)))
    assert stored["status"] == "discarded"
    assert "test bike" in stored["note"]
    assert main(["dlq", "replay"]) == 0
    assert json.loads(lake.store.get(lake.layout.dead_letter_key(DAY, entry)))["retry_count"] == 0


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WRM_ENV", "prod")
    assert main(["dlq", "list"]) == 2
    assert "WRM_ENV='prod'" in capsys.readouterr().err


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_doctor_finds_a_working_system_well(
    entry: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(City(seed=1), clock=lambda: datetime.now(UTC)) as feed:
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", feed.url)
        assert main(["doctor", "--json"]) == 0
    found = findings(capsys)
    assert {"configuration", "feed", "storage", "spool", "redis", "postgresql", "duckdb", "disk", "clock"} <= set(found)
    for name in ("configuration", "feed", "storage", "spool", "clock"):
        assert found[name]["status"] == "ok", found[name]


def test_doctor_leaves_no_probe_behind(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRM_STATIONS_DATA_URL", "http://127.0.0.1:9/")
    main(["doctor", "--json"])
    assert lake.keys() == []


def test_doctor_says_what_is_broken_and_what_to_do(
    lake: Lake, environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRM_STATIONS_DATA_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("POSTGRES_HOST", "127.0.0.1")
    monkeypatch.setenv("POSTGRES_PORT", "9")
    waiting = environment / "spool"
    waiting.mkdir(parents=True)
    (waiting / "20250821T120000.000000Z.raw.body").write_bytes(b"x")
    assert main(["doctor", "--json"]) == 1
    found = findings(capsys)
    assert {name: found[name]["status"] for name in ("feed", "redis", "postgresql", "spool", "storage")} == {
        "feed": "failed",
        "redis": "warning",
        "postgresql": "failed",
        "spool": "warning",
        "storage": "ok",
    }
    for name in ("feed", "redis", "postgresql", "spool", "clock"):
        assert found[name]["todo"], found[name]
