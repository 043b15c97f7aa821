"""Published snapshots as GBFS: valid by the standard's schemas, the same stations and counts, and served atomically."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gbfs_validator import GBFS
from gbfs_validator.fetch import FetchError

from wrm_pipeline.cli.main import main
from wrm_pipeline.domain import parquet_parts
from wrm_pipeline.domain.feeds import gbfs
from wrm_pipeline.domain.feeds.fetching import NOTHING_EARLIER, Got
from wrm_pipeline.domain.gbfs_out import LIVE, VERSIONS
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.domain.public_system import PublicSystem
from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.flows.gbfs_out import IdFiles, publish_latest
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.other_feeds import operator_answer
from wrm_pipeline_tests.fixtures.enhanced import enhanced_file
from wrm_pipeline_tests.fixtures.lake import NOON, Lake, build_day
from wrm_pipeline_tests.fixtures.snapshots import body, line

CITY = City(4, station_count=40, bike_count=20)
MINUTE = timedelta(minutes=1)
URL = "https://bikes.example/gbfs/"
SYSTEM = PublicSystem(URL, "wro", "Wrocław", "Europe/Warsaw", "pl", "bikes@bikes.example", "24/7", 60_000, "Nextbike")
LATER = datetime(2026, 1, 1, tzinfo=UTC)


class Folder:
    """A folder that is published to, read as by a web server's client."""

    def __init__(self, path: Path) -> None:
        self.path = path / "public"
        self.ids = IdFiles(path / "ids")

    def publish(self, *bodies: tuple[datetime, bytes], feed: str = "ucl", now: datetime = LATER) -> datetime | None:
        return publish_latest(enhanced_file(bodies, feed), SYSTEM, self.path, self.ids, now=now)

    def get_json(self, url: str) -> Any:
        """As the validator's own fetcher does it."""
        path = self.path / url.removeprefix(URL)
        if not path.is_file():
            raise FetchError(url, "404")
        return json.loads(path.read_bytes())

    def data(self, version: str, name: str) -> Any:
        return self.get_json(f"{URL}v{version}/{name}.json")["data"]

    def stations(self, name: str, version: str = "2.3") -> dict[str, dict[str, Any]]:
        return {station["station_id"]: station for station in self.data(version, name)["stations"]}

    def vehicles(self, version: str = "2.3") -> list[dict[str, Any]]:
        if version == "2.3":
            return self.data(version, "free_bike_status")["bikes"]
        return self.data(version, "vehicle_status")["vehicles"]

    def problems(self) -> list[Any]:
        """What the official rules say against it, each version in turn."""
        found = []
        for version in VERSIONS:
            report = GBFS(f"{URL}v{version}/gbfs.json", docked=True, freefloating=True, fetcher=self).validation()
            assert report["summary"]["version"]["detected"] == version
            found += [(version, file) for file in report["files"] if file["hasErrors"]]
        return found

    def rows(self, version: str, at: datetime) -> list[dict[str, Any]]:
        """What our own reader makes of it."""
        zipped = gbfs.fetch(self, f"{URL}v{version}/gbfs.json", NOTHING_EARLIER).body
        return parse_snapshots([RawSnapshot("x", at, zipped, feed="gbfs")]).rows.to_pylist()

    def now(self) -> datetime:
        return NOON

    def get(self, url: str, **_conditions: str) -> Got:
        content = (self.path / url.removeprefix(URL)).read_bytes()
        return Got(content, content, url, 200, "", NOON)

    try_get = get


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def at_noon(*rows: str) -> tuple[datetime, bytes]:
    return NOON, body(*rows)


def station(number: int = 15001, **values: str) -> str:
    return line(**{"id": str(number), "combined": f"{int(NOON.timestamp())}|7200|-1"} | values)


def bike(number: int = 591106, **values: str) -> str:
    free = {"bikes": "1", "spaces": "0", "total_docks": "0"}
    return station(**{"id": f"fb{number}", "name": f"BIKE {number}"} | free | values)


def test_each_snapshot_of_a_day_is_valid(folder: Folder):
    first = datetime(2025, 8, 21, 0, 3, 2, tzinfo=UTC)
    for hours in range(0, 22, 7):
        at = first + timedelta(hours=hours)
        assert folder.publish((at, CITY.snapshot(at))) == at
        assert folder.problems() == []
    at = first + timedelta(hours=22)
    assert folder.publish((at, operator_answer(CITY, at)), feed="operator") == at
    assert folder.problems() == []


@pytest.mark.parametrize(
    "row",
    [
        station(spaces="null", total_docks="-1", pedelecs="", installed="", locked="", temporary=""),
        station(bikes="5+", spaces="0", total_docks="0", pedelecs="7"),
        station(combined="1262304000|3600|-1"),
        station(name=""),
        bike(pedelecs="1", battery=""),
        bike(pedelecs=""),
        bike(lat="52.27", lon="21.03", pedelecs="1", battery="83"),
    ],
    ids=["unknown", "capped", "of 2010", "nameless", "uncharged", "of no type", "in the depot"],
)
def test_what_a_feed_leaves_out_or_gets_wrong_is_valid_too(folder: Folder, row: str):
    folder.publish(at_noon(row))
    assert folder.problems() == []
    folder.publish((NOON + MINUTE, body(row, station(15002, pedelecs="1"), bike(591107))))
    assert folder.problems() == []


@pytest.mark.parametrize("version", VERSIONS)
def test_our_own_reader_finds_the_same_stations_counts_and_bikes(folder: Folder, version: str):
    folder.publish((NOON, CITY.snapshot(NOON)))
    same = ("station_id", "name", "lat", "lon", "bikes", "spaces", "total_docks", "installed", "locked", "pedelecs")
    found = folder.rows(version, NOON)
    expected = parse_snapshots([RawSnapshot("x", NOON, CITY.snapshot(NOON))]).rows.to_pylist()
    docked, free = (
        [row for row in expected if row["station_id"].isdigit() is is_docked] for is_docked in (True, False)
    )
    assert [[row[name] for name in same] for row in found if row["station_id"].isdigit()] == [
        [row[name] for name in same] for row in docked
    ]
    where = ("lat", "lon", "pedelecs", "battery_pct")
    assert sorted(str([row[name] for name in where]) for row in found if row["station_id"].startswith("fb")) == sorted(
        str([row[name] for name in where]) for row in free
    )


def test_what_the_files_say(folder: Folder):
    folder.publish(
        at_noon(
            station(bikes="3", spaces="7", pedelecs="1", locked="true"),
            bike(pedelecs="1", battery="83"),
            bike(591107, lat="52.27", lon="21.03", battery="60"),
        )
    )
    assert folder.stations("station_information")["15001"] == {
        "station_id": "15001",
        "name": "Rynek",
        "lat": 51.1097,
        "lon": 17.0326,
        "capacity": 10,
        "is_virtual_station": False,
    }
    status = folder.stations("station_status", "3.0")["15001"]
    assert status.pop("vehicle_types_available") == [
        {"vehicle_type_id": "bike", "count": 2},
        {"vehicle_type_id": "e-bike", "count": 1},
    ]
    assert status == {
        "station_id": "15001",
        "num_vehicles_available": 3,
        "num_docks_available": 7,
        "is_installed": True,
        "is_renting": False,
        "is_returning": False,
        "last_reported": "2025-08-21T12:00:00Z",
    }
    assert folder.stations("station_information", "3.0")["15001"]["name"] == [{"text": "Rynek", "language": "pl"}]
    electric, in_depot = folder.vehicles()
    assert (electric["current_fuel_percent"], electric["current_range_meters"]) == (0.83, 49_800)
    assert (electric["is_disabled"], in_depot["is_disabled"]) == (False, True)
    # The battery of a bike without a motor is that of its lock.
    assert not {"current_fuel_percent", "current_range_meters"} & in_depot.keys()
    about = folder.data("3.0", "system_information")
    assert about["name"] == [{"text": "Wrocław", "language": "pl"}]
    assert (about["timezone"], about["operator"][0]["text"]) == ("Europe/Warsaw", "Nextbike")


def test_times_of_the_files_are_that_of_the_snapshot(folder: Folder):
    folder.publish(at_noon(station()))
    for version, updated in (("2.3", int(NOON.timestamp())), ("3.0", "2025-08-21T12:00:00Z")):
        file = folder.get_json(f"{URL}v{version}/station_status.json")
        assert (file["last_updated"], file["ttl"], file["version"]) == (updated, 60, version)


def test_a_licence_is_always_named_since_without_one_the_data_would_count_as_public_domain(folder: Folder):
    folder.publish(at_noon(station()))
    address = folder.data("3.0", "system_information")["license_url"]
    assert address == folder.data("2.3", "system_information")["license_url"]
    assert "grants no rights" in (folder.path / address.removeprefix(URL)).read_text()


def test_no_number_of_a_bike_is_published_and_its_id_changes_with_each_trip(folder: Folder):
    there, gone = body(station(), bike()), body(station())
    ids = []
    for minute, snapshot in enumerate((there, there, gone, there, there)):
        folder.publish((NOON + minute * MINUTE, snapshot))
        ids.append([vehicle["bike_id"] for vehicle in folder.vehicles()])
        assert [vehicle["vehicle_id"] for vehicle in folder.vehicles("3.0")] == ids[-1]
        assert all(b"591106" not in path.read_bytes() for path in folder.path.rglob("*.json"))
    assert ids[0] == ids[1] != ids[3] == ids[4]
    assert ids[2] == []


def test_ids_are_the_same_if_snapshots_come_together_or_the_stays_are_lost(folder: Folder, tmp_path: Path):
    day = [(NOON + 20 * minute * MINUTE, CITY.snapshot(NOON + 20 * minute * MINUTE)) for minute in range(6)]
    for count in range(1, 7):
        folder.publish(*day[:count])
    expected = folder.vehicles()
    assert len(expected) > 10
    (folder.ids.folder / "stays.json").write_text("{")
    assert folder.publish(*day) == day[-1][0]
    assert folder.vehicles() == expected
    other = Folder(tmp_path / "other")
    other.publish(*day)
    positions = [[(bike["lat"], bike["lon"]) for bike in one.vehicles()] for one in (folder, other)]
    assert positions[0] == positions[1]
    assert not {bike["bike_id"] for bike in expected} & {bike["bike_id"] for bike in other.vehicles()}


def test_a_snapshot_in_two_row_groups_is_whole(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet_parts, "FROZEN_ROWS", 50)
    day = [(NOON + minute * MINUTE, CITY.snapshot(NOON + minute * MINUTE)) for minute in range(3)]
    assert ParquetParts.open(enhanced_file(day)).group_count > 2
    folder.publish(*day)
    assert len(folder.stations("station_status")) == 40
    assert len(folder.vehicles()) == CITY.snapshot(day[-1][0]).count(b"\nfb")


def test_older_snapshots_and_those_of_a_clock_that_is_ahead_are_not_published(folder: Folder):
    second = NOON + MINUTE
    assert folder.publish((second, CITY.snapshot(second))) == second
    assert folder.publish((second, CITY.snapshot(second))) is None
    assert folder.publish((NOON, CITY.snapshot(NOON))) is None
    third, ahead = NOON + 2 * MINUTE, NOON + timedelta(hours=5)
    assert folder.publish((third, CITY.snapshot(third)), (ahead, CITY.snapshot(ahead)), now=third) == third
    # One that was published while the clock was ahead counts for nothing either.
    assert folder.publish((ahead, CITY.snapshot(ahead)), now=ahead) == ahead
    assert folder.publish((third, CITY.snapshot(third)), now=third) == third


def test_files_are_replaced_one_by_one_and_those_that_lead_to_others_last(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
):
    written, replace = [], Path.replace

    def noted(self: Path, target: Path) -> Path:
        written.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    folder.publish(at_noon(station(), bike()))
    of_two = written[written.index("system_information.json") : written.index("gbfs.json") + 1]
    assert of_two[-2:] == ["gbfs_versions.json", "gbfs.json"]
    assert len(of_two) == 7
    assert not list(folder.path.rglob("*.part"))
    written.clear()
    folder.publish((NOON + MINUTE, body(station(), bike())))
    assert {name.removesuffix(".json") for name in written} == {*LIVE, "stays"}


def test_a_file_that_no_longer_belongs_to_them_goes(folder: Folder):
    folder.publish(at_noon(station(), bike()))
    assert (folder.path / "v3.0/vehicle_types.json").exists()
    folder.publish((NOON + MINUTE, body(station(), bike(pedelecs=""))))
    assert not (folder.path / "v3.0/vehicle_types.json").exists()
    assert folder.problems() == []


def test_the_key_is_the_owners_alone_and_not_among_the_files(folder: Folder):
    folder.publish(at_noon(station(), bike()))
    key = folder.ids.folder / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = folder.ids.key()
    assert folder.ids.key() == before
    key.write_text("damaged")
    assert folder.ids.key() != before


# --- in the pipeline ---


def test_a_run_of_the_newest_day_publishes_and_one_that_changes_nothing_does_not(lake: Lake):
    lake.put_day(2)
    build_day()
    file = lake.settings.reports_dir / "gbfs/v3.0/station_status.json"
    assert json.loads(file.read_bytes())["last_updated"] == "2025-08-21T12:01:00Z"
    file.unlink()
    build_day()
    assert not file.exists()
    lake.put_day(1, first=2)
    build_day()
    assert json.loads(file.read_bytes())["last_updated"] == "2025-08-21T12:02:00Z"


def test_a_folder_that_cannot_be_written_costs_no_row(lake: Lake):
    lake.settings.reports_dir.mkdir(parents=True)
    (lake.settings.reports_dir / "gbfs").write_text("in the way")
    lake.put_day(1)
    assert build_day().success
    assert len(lake.rows("enhanced")) == 11


def test_a_past_minute_by_command(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lake.put_day(3)
    build_day()
    for _ in range(2):
        assert main(["gbfs", "--at", "2025-08-21T14:01:30", "--output", str(tmp_path / "then")]) == 0
        said = capsys.readouterr().out
        assert "the snapshot of 2025-08-21 12:01:00 UTC" in said
        assert "taken as" in said
    discovery = json.loads((tmp_path / "then/v3.0/gbfs.json").read_bytes())
    assert discovery["last_updated"] == "2025-08-21T12:01:00Z"
    addresses = [feed["url"] for feed in discovery["data"]["feeds"]]
    assert all(Path(address.removeprefix("file://")).is_file() for address in addresses)
    report = GBFS((tmp_path / "then/v2.3/gbfs.json").as_uri(), docked=True, freefloating=True).validation()
    assert report["summary"]["hasErrors"] is False


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--at", "yesterday"], 2, "'yesterday' is not an ISO 8601 time"),
        (["--at", "2025-08-21T11:00Z"], 1, "no snapshot of 2025-08-21 up to 2025-08-21 11:00:00 UTC is published"),
        (["--at", "2025-08-21T12:00Z", "--url", "bikes.example"], 2, "--url is not an address to publish"),
    ],
)
def test_what_the_command_refuses(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, words: str
):
    lake.put_day(1)
    build_day()
    assert main(["gbfs", *arguments, "--output", str(tmp_path / "out")]) == status
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
