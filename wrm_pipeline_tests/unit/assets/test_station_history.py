"""Stations through time in Dagster: days of a feed in, rows and a view out, and people's decisions on top."""

import csv
import io
import json
from datetime import date, datetime

import dagster as dg
import pytest

from wrm_pipeline.cli.main import main
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake

DAYS = [date(2026, 3, 23), date(2026, 3, 24)]


@pytest.fixture
def history() -> History:
    """Two days; on the second, from 12:00 UTC on, the first station has another name and its number passes on."""
    made = History(Lake(load_settings()), stations=4, bikes=1)
    made.put(DAYS[0], made.times(DAYS[0], 60))
    made.put(DAYS[1], made.times(DAYS[1], 60), changed)
    made.create_views()
    return made


def changed(body: bytes, at: datetime) -> bytes:
    if at < datetime.fromisoformat("2026-03-24T12:00:00+00:00"):
        return body
    header, *lines = body.decode().splitlines(keepends=True)
    rows = list(csv.reader(lines))
    rows[0][2], rows[1][0] = "Nowa Nazwa", "15999"
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return (header + text.getvalue()).encode()


def run() -> dg.AssetMaterialization:
    result = build_defs(load_settings()).resolve_job_def("wrm_stations_history_job").execute_in_process()
    assert result.success
    (found,) = result.get_asset_materialization_events()
    return found.materialization


def rows(history: History) -> list[tuple]:
    return history.query(
        "SELECT station_key, station_id, change, decided_by FROM wrm_analytics.stations_history "
        "ORDER BY station_key, valid_from"
    )


def test_one_identity_through_names_and_numbers_and_what_people_decide(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = [
        row[0] for row in history.query("SELECT DISTINCT station_id FROM wrm_analytics.wrm_stations_only ORDER BY 1")
    ]
    made = run()
    assert made.metadata["stations"].value == 4
    assert [row for row in rows(history) if row[2] != "first"] == [
        (first, first, "renamed", "rule"),
        (second, "15999", "number_changed", "rule"),
    ]
    by_key = history.query(
        "SELECT station_key, count(*), count(DISTINCT current_name) FROM wrm_analytics.wrm_stations_keyed "
        "GROUP BY 1 ORDER BY 1"
    )
    assert [row[1:] for row in by_key] == [(48, 1)] * 4

    # Nothing changed: nothing is read.
    assert run().metadata["days_read"].value == 0

    words = ["stations", "split", second, "--at", "2026-03-24T13:00+01:00", "--reason", "another one", "--by", "Ala"]
    assert main(words) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert run().metadata["decisions"].value == 0
    assert main([*words, "--apply"]) == 0
    assert run().metadata["decisions"].value == 1
    assert ("15999-a", "15999", "split", "Ala") in rows(history)

    assert main(["stations", "merge", second, "15999-a", "--reason", "no", "--by", "Ola", "--apply"]) == 0
    run()
    assert (second, "15999", "merged+number_changed", "Ola") in rows(history)
    capsys.readouterr()
    assert main(["stations", "decisions", "--json"]) == 0
    assert [one["decided_by"] for one in json.loads(capsys.readouterr().out)] == ["Ala", "Ola"]

    # Decisions survive a database that is made from nothing; old numbers are found.
    history.database.path.unlink()
    history.create_views()
    run()
    assert (second, "15999", "merged+number_changed", "Ola") in rows(history)
    assert main(["stations", "list", second, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["station_key"], found["station_id"]) == (second, "15999")


def test_what_cannot_be_decided_is_refused(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stations"]) == 1
    assert "Materialize the asset stations_history" in capsys.readouterr().err
    run()
    keys = [row[0] for row in rows(history) if row[2] == "first"]
    for words, said in [
        (["merge", keys[0], keys[0]], "they are one station already"),
        (["merge", keys[0], "99999"], "There is no station '99999'"),
        (["split", keys[0], "--at", "2026-03-01"], "begins after"),
    ]:
        assert main(["stations", *words, "--reason", "x", "--apply"]) == 1
        assert said in capsys.readouterr().err
    assert main(["stations"]) == 0
    assert "Nowa Nazwa" in capsys.readouterr().out
