"""GBFS of each version as rows: discovery, joins, what is unknown, and that each object is accounted for."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from datetime import UTC, datetime

import pytest
from gbfs_validator.feedhelpers import load_schema
from gbfs_validator.validate import validate_file
from hypothesis import given
from hypothesis import strategies as st

from wrm_pipeline.domain.feeds import gbfs, gbfs_zip
from wrm_pipeline.domain.feeds.fetching import NOTHING_EARLIER, Got
from wrm_pipeline.domain.snapshot import RawSnapshot, inspect_fetched, lines_of, parse_snapshots
from wrm_pipeline_tests.fixtures.gbfs_files import REPORTED, URL, VERSIONS, path_of, served, station_files
from wrm_pipeline_tests.fixtures.snapshots import AT, property_settings

KEY = "raw/dt=2025-08-21/gbfs_2025-08-21_13-05-02.zip"
REPORTED_AT = datetime.fromtimestamp(REPORTED, UTC)


class Server:
    """Answers from memory."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers

    def now(self) -> datetime:
        return AT

    def get(self, url: str, **_conditions: str) -> Got:
        body = self.answers[path_of(url)]
        return Got(body, body, url, 200, '"1"', AT)

    def try_get(self, url: str, **_conditions: str) -> Got | None:
        return self.get(url) if path_of(url) in self.answers else None


def fetched(version: str, files: dict | None = None) -> bytes:
    return fetch(Server(served(version, files)))


def fetch(server: Server) -> bytes:
    return gbfs.fetch(server, URL, NOTHING_EARLIER).body


def rows_of(body: bytes) -> list[dict]:
    return parse_snapshots([RawSnapshot(KEY, AT, body)]).rows.to_pylist()


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(f"{name}.json", content)
    return buffer.getvalue()


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_gives_the_same_rows(version):
    knows_types = version >= "2.1"
    rows = {row.pop("station_id"): row for row in rows_of(fetched(version))}
    assert list(rows) == ["2", "a-1", "fbx7"]
    assert {row["feed"] for row in rows.values()} == {"gbfs"}
    shown = ("name", "lat", "bikes", "spaces", "total_docks", "installed", "locked", "temporary", "pedelecs")
    first, second, bike = ([rows[station_id][name] for name in shown] for station_id in ("a-1", "2", "fbx7"))
    known = (True, 2) if knows_types else (None, None)
    assert first == ["Rynek", 51.1097, 3, 7, 10, True, False, *known]
    assert second == ["Świdnicka", 51.1, 0, None, None, True, True, None, None]
    assert bike == ["BIKE x7", 51.11, 1, 0, 0, None, None, None, 1 if knows_types else None]
    assert rows["fbx7"]["battery_pct"] == (84 if knows_types else None)
    assert rows["a-1"]["timestamp"] == REPORTED_AT
    # Without a time of its own, a vehicle's is that of its file.
    assert (rows["fbx7"]["timestamp"] - REPORTED_AT).total_seconds() == (0 if knows_types else 30)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_examples_that_are_read_are_valid_by_the_standards_own_schemas(version):
    files = station_files(version)
    if version < "2":
        # Only since 2.0 may free docks be left out.
        files["station_status"]["data"]["stations"][1]["num_docks_available"] = 0
    for name, content in files.items():
        assert not validate_file(load_schema(version, name), content)["errors"], name


def test_the_zip_has_the_files_as_served_and_says_where_they_are_from():
    answers = served("2.3")
    body = fetch(Server(answers))
    files = gbfs.files_of(body)
    assert {f"/{name}.json": content for name, content in files.items() if name != "fetch"} == answers
    assert json.loads(files["fetch"])["station_status.json"] == {
        "url": "https://gbfs.example.org/station_status.json",
        "status": 200,
        "etag": '"1"',
        "fetched_at": AT.isoformat(),
        "sha256": hashlib.sha256(files["station_status"]).hexdigest(),
    }
    assert fetch(Server(answers)) == body


def test_a_system_of_stations_alone_of_vehicles_alone_and_without_types():
    files = station_files("2.3")
    stations = {name: files[name] for name in ("station_information", "station_status")}
    assert [row["pedelecs"] for row in rows_of(fetched("2.3", stations))] == [None, None]
    assert [row["station_id"] for row in rows_of(fetched("2.3", {"free_bike_status": files["free_bike_status"]}))] == [
        "fbx7"
    ]
    answers = served("2.3")
    del answers["/vehicle_types.json"]
    assert len(rows_of(fetch(Server(answers)))) == 3


@pytest.mark.parametrize("version", ["2.3", "3.0"])
@pytest.mark.parametrize(
    ("short_names", "ids"),
    [
        (("15001", "15002"), ["15001", "15002"]),  # numbers on the signs
        (("15001", None), ["15001", "2"]),
        (("15001", "15001"), ["2", "a-1"]),  # not a station's own
        (("2", "7"), ["7", "a-1"]),  # the id of another station, which is the same in the next snapshot
        (("A32", ""), ["2", "a-1"]),
    ],
)
def test_a_station_has_the_number_on_its_sign(version, short_names, ids):
    files = station_files(version)
    for one, short in zip(files["station_information"]["data"]["stations"], short_names, strict=True):
        if short is not None:
            one["short_name"] = [{"text": short, "language": "pl"}] if version == "3.0" else short

    rows = rows_of(fetched(version, files))

    assert sorted(row["station_id"] for row in rows if row["station_id"] != "fbx7") == ids
    assert {row["pedelecs"] for row in rows if row["name"] == "Rynek"} == {2}


def test_what_cannot_be_joined_is_a_dead_letter_with_both_parts():
    files = station_files("2.3")
    files["station_information"]["data"]["stations"][0]["station_id"] = "b-1"
    report = inspect_fetched(fetched("2.3", files), AT, "gbfs")
    assert (report.counts.lines_in, report.counts.rows_out) == (4, 2)
    assert [(dead.line_number, dead.error_type) for dead in report.dead_rows] == [
        (1, "no_information"),
        (3, "no_status"),
    ]
    first = json.loads(report.dead_rows[0].raw_data)
    assert first["station_status"]["station_id"] == "a-1"
    assert first["station_information"] is None


def test_a_correction_is_of_both_parts():
    files = station_files("2.3")
    files["station_status"]["data"]["stations"][1]["num_bikes_available"] = "many"
    body = fetched("2.3", files)
    (dead,) = inspect_fetched(body, AT, "gbfs").dead_rows
    good = dead.raw_data.replace('"many"', "4")
    rows = parse_snapshots([RawSnapshot(KEY, AT, body, {2: good})]).rows.to_pylist()
    assert [row["bikes"] for row in rows] == [4, 3, 1]


@pytest.mark.parametrize(
    ("body", "fault", "words"),
    [
        (b"", "file_empty", "empty"),
        (b"<html>", "file_not_zip", "not a zip"),
        (fetched("2.3")[:-30], "file_not_zip", "not a zip"),
        (zipped(gbfs=b"<html>"), "file_not_json", "an HTML page"),
        (zipped(gbfs=b"{}"), "file_no_header", "lacks `data`"),
        (zipped(gbfs=b'{"data": {"pl": {"feeds": []}}}'), "file_no_header", "names no feeds"),
        (
            zipped(gbfs=b'{"data": {"feeds": [{"name": "x", "url": "y"}]}}'),
            "file_no_header",
            "names neither station_status",
        ),
        (zipped(station_status=b'{"data": {"stations": 1}}'), "file_no_header", "lacks the list `data.stations`"),
        (zipped(station_status=b'{"data": {"stations": []}}'), "file_no_valid_row", "no station"),
        (zipped(station_status=b'{"data": {"stations": [1]}}'), "file_no_valid_row", "None of 1 objects"),
    ],
)
def test_a_body_without_a_row_says_why(body, fault, words):
    report = inspect_fetched(body, AT, "gbfs")
    assert report.fault is not None
    assert report.fault.error_type == fault
    assert words in report.fault.error_message
    assert report.counts.balanced


def test_a_discovery_file_that_is_none_is_kept_and_says_why():
    body = fetch(Server({"/gbfs.json": b"<html>Maintenance</html>"}))
    assert gbfs.files_of(body)["gbfs"] == b"<html>Maintenance</html>"
    assert inspect_fetched(body, AT, "gbfs").fault.error_type == "file_not_json"


def test_a_zip_that_unpacks_to_too_much_is_not_read(monkeypatch):
    monkeypatch.setattr(gbfs_zip, "MAX_UNPACKED_BYTES", 100)
    assert inspect_fetched(fetched("2.3"), AT, "gbfs").fault.error_type == "file_over_limit"


def test_the_object_of_a_row():
    (found,) = lines_of(RawSnapshot(KEY, AT, fetched("3.0")), "a-1")
    assert (found.line_number, found.unit) == (1, "object")
    content = json.loads(found.text)
    assert content["station_status"]["num_vehicles_available"] == 3
    assert content["station_information"]["lat"] == 51.1097


odd = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.floats(), st.text(max_size=4), st.sampled_from([[], {}])
)
members = st.sampled_from(
    ("station_id", "bike_id", "lat", "name", "num_bikes_available", "is_renting", "last_reported", "vehicle_type_id")
)


@property_settings(120)
@given(
    st.sampled_from(("station_information", "station_status", "free_bike_status", "vehicle_types")),
    st.lists(st.one_of(odd, st.dictionaries(members, odd, max_size=4)), max_size=3),
    st.dictionaries(members, odd, max_size=2),
)
def test_each_object_is_accounted_for(name, more, changes):
    files = station_files("2.3")
    (entries,) = (value for value in files[name]["data"].values() if isinstance(value, list))
    entries[0].update(changes)
    entries.extend(more)
    batch = parse_snapshots([RawSnapshot(KEY, AT, fetched("2.3", files))])
    report = batch.reports[0]
    assert report.counts.balanced
    assert report.counts.remark_lines == 0
    assert (report.fault is not None) == (batch.rows.num_rows == 0)


@property_settings(60)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(content):
    for body in (content, zipped(station_status=content), zipped(gbfs=content)):
        report = inspect_fetched(body, AT, "gbfs")
        assert report.counts.balanced
        assert report.fault is not None
