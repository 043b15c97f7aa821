"""The operator's commands, as a person types them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wrm_pipeline.cli.main import main
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
    assert main(["dlq", "correct", entry, "--line", "8", "--data", good, "--apply"]) == 0
    assert main(["dlq", "replay", "--dry-run"]) == 0
    assert not any(row["station_id"] == "15998" for row in lake.rows("enhanced"))
    assert main(["dlq", "replay", "--id", entry[:8], "--apply"]) == 0
    assert "reprocessed" in capsys.readouterr().out
    (row,) = [row for row in lake.rows("enhanced") if row["station_id"] == "15998"]
    assert row["bikes"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dlq", "show", "nothing-like-it"], "not exactly one entry"),
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
    assert main(["dlq", "discard", entry, "--reason", "test bike", "--apply"]) == 0
    stored = json.loads(lake.store.get(lake.layout.dead_letter_key(DAY, entry)))
    assert stored["status"] == "discarded"
    assert "test bike" in stored["note"]
    assert main(["dlq", "replay", "--apply"]) == 0
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


def test_doctor_checks_each_feed(
    entry: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRM_FEEDS", "ucl,operator")
    with serve(City(seed=1), clock=lambda: datetime.now(UTC)) as feed:
        monkeypatch.setenv("WRM_STATIONS_DATA_URL", feed.url)
        monkeypatch.setenv("WRM_OPERATOR_URL", "http://127.0.0.1:9/")
        assert main(["doctor", "--json"]) == 1
    found = findings(capsys)
    assert found["feed ucl"]["status"] == "ok"
    assert found["feed operator"]["status"] == "failed"
    assert found["feed operator"]["todo"]


def test_doctor_finds_a_lake_of_another_zone(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for hour in range(-12, 12):
        lake.put_raw(NOON + timedelta(hours=hour))
    monkeypatch.setenv("WRM_STATIONS_DATA_URL", "http://127.0.0.1:9/")
    main(["doctor", "--json"])
    assert findings(capsys)["time zone"]["status"] == "ok"
    monkeypatch.setenv("WRM_TIMEZONE", "America/New_York")
    assert main(["doctor", "--json"]) == 1
    found = findings(capsys)["time zone"]
    assert found["status"] == "failed"
    assert found["got"].startswith("6 of 24 snapshots are of another day, as bike-data/gen_info/raw/dt=2025-08-2")
    assert "Set WRM_TIMEZONE to the zone in which this lake was made" in found["todo"]


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


def test_discard_of_many_says_how_many_and_does_it_with_apply(
    entry: str, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    combined = f"{int(NOON.timestamp()) + 60}|7200|-1"
    dead = [line(id="1", combined=combined, bikes="x"), line(id="2", combined=combined, lat="x")]
    lake.put_raw(NOON + timedelta(minutes=1), snapshot(NOON, 5, *dead))
    build_day()
    many = ["dlq", "discard", "--error", "bad_count", "--date", str(DAY), "--reason", "test bikes"]
    before = lake.etags()
    assert main(many) == 0
    assert "2 entries would be discarded" in capsys.readouterr().out
    assert lake.etags() == before

    assert main([*many, "--apply"]) == 0
    assert "2 entries are discarded" in capsys.readouterr().out
    letters = [json.loads(lake.store.get(key)) for key in lake.letters()]
    assert {(letter["error_type"], letter["status"]) for letter in letters} == {
        ("bad_count", "discarded"),
        ("bad_coordinates", "pending_reprocessing"),
    }
    assert main([*many, "--apply"]) == 0
    assert "0 entries" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["ENTRY", "--error", "bad_count"], ["ENTRY", "--date", str(DAY)]])
def test_discard_must_know_which(
    entry: str, lake: Lake, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = lake.etags()
    chosen = [entry if argument == "ENTRY" else argument for argument in arguments]
    assert main(["dlq", "discard", *chosen, "--reason", "x", "--apply"]) == 2
    assert "select entries" in capsys.readouterr().err
    assert lake.etags() == before


def test_a_parked_entry_is_replayed_when_it_is_meant(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "replay", "--max-retries", "1", "--apply"]) == 0
    assert "parked" in capsys.readouterr().out
    assert main(["dlq", "replay"]) == 0
    assert "No such entries" in capsys.readouterr().out
    for meant in (["--parked"], ["--id", entry]):
        assert main(["dlq", "replay", *meant]) == 0
        assert entry[:8] in capsys.readouterr().out


def test_doctor_names_dead_letters_that_cannot_be_read(
    entry: str, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"{lake.layout.dead_letter_folder(DAY)}spoiled.json"
    lake.store.put(key, b"{not json")
    main(["doctor", "--json"])
    finding = findings(capsys)["dead letters"]
    assert finding["status"] == "warning"
    assert "1 entries: 1 pending_reprocessing" in finding["got"]
    assert f"{key}: it is not JSON" in finding["got"]
    assert "wrm dlq discard" in finding["todo"]
