"""The city's lists of rides in Dagster: kept as they came, published with stations, compared with what was seen."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from wrm_pipeline.analytics.materialized_views import refresh_materialized_views
from wrm_pipeline.cli.main import main
from wrm_pipeline.clients.errors import ExternalError
from wrm_pipeline.clients.ride_files import RideFile, RideFiles
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.ride_ledger import COLUMNS
from wrm_pipeline.resources.lake import LakeResource
from wrm_pipeline.settings import SettingsError, load_settings
from wrm_pipeline_tests.fixtures.fault_server import Answer, FaultServer
from wrm_pipeline_tests.fixtures.history import History
from wrm_pipeline_tests.fixtures.lake import Lake

DAY = date(2026, 3, 23)
ROWS = [
    "7,600007,2026-03-23 08:00:00,2026-03-23 08:10:00,FIRST\u00a0,Poza stacją,10",
    "8,600008,2026-03-23 09:00:00,2026-03-23 09:10:00,Poza stacją,FIRST,10",
    "9,600009,2026-03-23 09:00:00,2026-03-23 09:10:00,.SAMOCHÓD 1,FIRST,11",
    "10,600010,2026-03-23 09:00:00,später,.SAMOCHÓD 1,FIRST,11",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "rides"
    made.mkdir()
    monkeypatch.setenv("WRM_RIDES_DIR", str(made))
    return made


@pytest.fixture
def history() -> History:
    made = History(Lake(load_settings()), stations=6, bikes=1)
    made.put(DAY, made.times(DAY, 60))
    made.create_views()
    refresh_materialized_views(made.database, made.partitions, refreshed_at=made.now)
    return made


def run(job: str, day: date | None = None) -> dict[str, dg.AssetMaterialization]:
    result = (
        build_defs(load_settings())
        .resolve_job_def(job)
        .execute_in_process(partition_key=str(day) if day else None, raise_on_error=False)
    )
    assert result.success
    return {str(e.asset_key.path[-1]): e.materialization for e in result.get_asset_materialization_events()}


def put(folder: Path, rows: list[str], name: str) -> None:
    text = "\n".join([",".join(COLUMNS.values()), *rows, ""]).replace("FIRST", name)
    (folder / f"rides_ended_{DAY}.csv").write_text(text)


def test_a_list_that_arrives_late_is_kept_published_and_compared(folder: Path, history: History) -> None:
    run("wrm_stations_history_job")
    assert "It may come later" in run("wrm_city_rides_job", DAY)["city_rides"].metadata["nothing_to_do"].text

    ((number, name),) = history.query(
        "SELECT station_id, name FROM wrm_analytics.stations_history WHERE NOT regexp_matches(name, '[\",]') LIMIT 1"
    )
    with history.database.refresh() as connection:
        connection.execute(
            "INSERT INTO wrm_analytics.mv_rides VALUES (?, '600007', '2026-03-23 07:59:02+01', ?, 51.1, 17.0, "
            "'2026-03-23 08:10:02+01', NULL, 51.1, 17.1, 660, 900, 'ride')",
            [DAY, number],
        )
    put(folder, ROWS, name)
    made = run("wrm_city_rides_job", DAY)

    counts = {key: made["city_rides"].metadata[key].value for key in ("lines_in", "rows_out", "dead_lettered")}
    assert counts == {"lines_in": 5, "rows_out": 3, "dead_lettered": 1}
    (kept,) = history.lake.keys("ledger/")
    assert history.lake.store.get(kept) == next(folder.iterdir()).read_bytes()
    assert len(history.lake.letters(DAY)) == 1
    assert history.query("SELECT * FROM wrm_analytics.ride_comparison") == [
        (DAY, 2, 1, 1, 0, 1, 0.5, 0.5, 0.0, 0, 1, 1, 0)
    ]
    assert history.query("SELECT name, what, station_id, ends FROM wrm_analytics.ride_ledger_names_latest") == [
        ("Poza stacją", "outside", None, 2),
        (name, "station", number, 3),
        (".SAMOCHÓD 1", "van", None, 1),
    ]

    # A corrected list stays beside the first one, and what was wrong is settled.
    put(folder, [*ROWS[:3], ROWS[3].replace("später", "2026-03-23 09:11:00")], name)
    made = run("wrm_city_rides_job", DAY)
    assert made["city_rides"].metadata["rows_out"].value == 4
    assert len(history.lake.keys("ledger/")) == 2
    assert {json.loads(history.lake.store.get(key))["status"] for key in history.lake.letters(DAY)} == {"reprocessed"}

    # The list is gone from the folder: the newest that is kept counts.
    next(folder.iterdir()).unlink()
    assert run("wrm_city_rides_job", DAY)["city_rides"].metadata["rows_out"].value == 4


def test_what_is_not_a_list_fails_and_is_a_dead_letter(folder: Path, history: History) -> None:
    (folder / f"{DAY:%Y%m%d}.csv").write_text("<html>maintenance</html>")
    result = (
        build_defs(load_settings())
        .resolve_job_def("wrm_city_rides_job")
        .execute_in_process(partition_key=str(DAY), raise_on_error=False)
    )

    assert not result.success
    assert len(history.lake.letters(DAY)) == 1
    assert history.lake.keys("ledger/") == []


def test_a_list_waits_until_stations_are_known(folder: Path) -> None:
    put(folder, ROWS, "Rynek")
    lake = Lake(load_settings())
    result = (
        build_defs(lake.settings)
        .resolve_job_def("wrm_city_rides_job")
        .execute_in_process(partition_key=str(DAY), asset_selection=[dg.AssetKey("city_rides")], raise_on_error=False)
    )

    (failure,) = result.get_step_failure_events()
    message = str(failure.event_specific_data)
    assert "No station is known yet" in message
    assert "materialize stations_history" in message
    (kept,) = lake.keys("ledger/")
    assert lake.store.get(kept) == next(folder.iterdir()).read_bytes()
    assert lake.keys("city_rides/") == []


def test_a_rebuild_brings_back_the_lists_that_are_kept(
    folder: Path, history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    ((number, name),) = history.query(
        "SELECT station_id, name FROM wrm_analytics.wrm_stations_only WHERE NOT regexp_matches(name, '[\",]') LIMIT 1"
    )
    put(folder, ROWS, name)
    run("wrm_city_rides_job", DAY)
    sql = "SELECT name, station_id, ends FROM wrm_analytics.ride_ledger_names WHERE what = 'station'"
    assert history.query(sql) == [(name, number, 3)]

    # Only the bucket is left, and one list in it is damaged.
    next(folder.iterdir()).unlink()
    history.lake.settings.database_path.unlink()
    (rides,) = history.lake.keys("city_rides/")
    history.lake.store.delete(rides)
    history.lake.store.put(f"{history.lake.layout.ledger_folder(DAY + timedelta(days=2))}rides.csv", b"<html>")
    assert main(["rebuild"]) == 1

    assert history.query(sql) == [(name, number, 3)]
    assert history.lake.keys("city_rides/") == [rides]
    assert history.query("SELECT count(*) > 0 FROM wrm_analytics.stations_history") == [(True,)]
    said = capsys.readouterr().err
    assert "the city's lists of rides of 2026-03-25 to 2026-03-25: wrm_city_rides_job failed" in said
    assert "All else is done" in said


def test_the_schedule_asks_for_days_that_may_have_arrived(folder: Path, history: History) -> None:
    put(folder, ROWS, "Rynek")
    defs = build_defs(load_settings())
    schedule = defs.resolve_schedule_def("wrm_city_rides_schedule")
    at = datetime(2026, 3, 26, 1, 20, tzinfo=UTC)

    lake, repository = LakeResource.of(load_settings()), defs.get_repository_def()

    def asked() -> list[str | None]:
        with dg.build_schedule_context(
            scheduled_execution_time=at, resources={"lake": lake}, repository_def=repository
        ) as context:
            return [request.partition_key for request in schedule.evaluate_tick(context).run_requests or []]

    assert asked() == [str(DAY)]
    run("wrm_city_rides_job", DAY)
    assert asked() == []


def test_without_lists_there_is_no_schedule() -> None:
    assert not [one for one in build_defs(load_settings()).schedules or [] if "rides" in one.name]


def test_a_list_at_an_address() -> None:
    with FaultServer([Answer(404), Answer(200, b"UID wynajmu"), Answer(403)]) as server:
        files = RideFiles(url=f"{server.url}/{{date}}.csv")
        assert files.find(DAY) is None
        assert files.find(DAY) == RideFile(f"rides_{DAY}.csv", b"UID wynajmu")
        assert server.requests[-1].path == "/2026-03-23.csv"
        with pytest.raises(ExternalError):
            files.find(DAY)


@pytest.mark.parametrize("url", ["https://example.org/rides.csv", "ftp://example.org/{date}.csv"])
def test_an_address_without_day_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRM_RIDES_URL", url)
    with pytest.raises(SettingsError, match="WRM_RIDES_URL"):
        load_settings()
