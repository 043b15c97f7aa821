"""A GBFS feed over HTTP: which addresses it may name, what is sent there, and what is kept; then the rows of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from wrm_pipeline.clients.errors import PermanentError, TransientError
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.domain.feeds import KINDS, gbfs
from wrm_pipeline.flows.ingest import take_snapshot
from wrm_pipeline.flows.trace import trace
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.fixtures.gbfs_files import served, station_files
from wrm_pipeline_tests.fixtures.lake import DAY, NOON, Lake, build_day

ONE_TRY = RetryPolicy(attempts=1, deadline_s=10, base_wait_s=0, max_wait_s=0, attempt_s=10)
KEY = "canary-a1b2c3d4"  # pragma: allowlist secret


class Server(ThreadingHTTPServer):
    """Serves the files of a system; remembers paths and Authorization headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.answers: dict[str, bytes] = {}
        self.serve_system("2.3", self.base)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def serve_system(self, version: str, base: str) -> None:
        answers = served(version)
        named = answers["/gbfs.json"].replace(b"https://gbfs.example.org", base.encode())
        self.answers = answers | {"/gbfs.json": named}

    def feed(self, **changes) -> Feed:
        options = {"policy": ONE_TRY, "kind": KINDS["gbfs"], "now": lambda: NOON} | changes
        with_password = self.base.replace("//", "//reader:canary-password@")  # pragma: allowlist secret
        return Feed(f"{with_password}/gbfs.json?key={KEY}", **options)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append((path, self.headers.get("Authorization")))
        body = self.server.answers.get(path)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_arguments) -> None:
        """Keep stderr quiet."""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def server(running: Server) -> Server:
    running.asked.clear()
    running.serve_system("2.3", running.base)
    return running


def test_all_files_are_fetched_with_the_credentials_of_the_feed_and_kept_without(server: Server):
    body = server.feed().fetch(correlation_id="c").body
    assert [path for path, _ in server.asked] == [
        "/gbfs.json",
        "/station_status.json",
        "/station_information.json",
        "/free_bike_status.json",
        "/vehicle_types.json",
    ]
    assert len({authorization for _, authorization in server.asked}) == 1
    assert server.asked[0][1]
    files = gbfs.files_of(body)
    assert files["station_status"] == server.answers["/station_status.json"]
    for content in files.values():
        assert KEY.encode() not in content
        assert b"canary-password" not in content


def test_a_key_that_the_addresses_repeat_is_used_and_not_kept(server: Server):
    server.answers["/gbfs.json"] = server.answers["/gbfs.json"].replace(b".json", f".json?key={KEY}".encode())
    files = gbfs.files_of(server.feed().fetch().body)
    assert "station_status" in files
    assert all(KEY.encode() not in content for content in files.values())


def test_a_file_on_another_host_is_not_fetched_unless_it_is_allowed(server: Server):
    server.serve_system("2.3", "http://localhost:9")
    with pytest.raises(PermanentError, match="leads to http://localhost:9, which is not its own host and port"):
        server.feed().fetch()
    server.serve_system("2.3", f"http://localhost:{server.server_port}")
    feed = server.feed(redirect_hosts=frozenset({f"localhost:{server.server_port}"}))
    server.asked.clear()
    assert "station_status" in gbfs.files_of(feed.fetch().body)
    assert [authorization for _, authorization in server.asked][1:] == [None] * 4


def test_without_vehicle_types_there_is_a_snapshot_and_without_statuses_there_is_none(server: Server):
    del server.answers["/vehicle_types.json"]
    assert "vehicle_types" not in gbfs.files_of(server.feed().fetch().body)
    del server.answers["/station_status.json"]
    with pytest.raises((PermanentError, TransientError), match="404"):
        server.feed().fetch()


@pytest.mark.parametrize(
    ("path", "content", "error", "words"),
    [
        ("/gbfs.json", b"<html>Maintenance</html>", "file_not_json", "an HTML page"),
        ("/gbfs.json", b'{"data": {"pl": {}}}', "file_no_header", "names no feeds"),
        ("/station_status.json", b'{"data": {"stations": 1}}', "file_no_header", "lacks the list `data.stations`"),
        ("/station_status.json", b'{"data"', "file_not_json", "JSON"),
    ],
)
def test_an_invalid_document_goes_to_quarantine_and_says_why(server: Server, lake: Lake, path, content, error, words):
    server.answers[path] = content
    spool = Spool(lake.settings.spool_dir, 10_000_000)
    result = take_snapshot(server.feed(), lambda: lake.store, lake.layout, spool)
    assert result.key.endswith("quarantine/dt=2025-08-21/gbfs_2025-08-21_12-00-00.zip")
    assert gbfs.files_of(lake.store.get(result.key))[path.strip("/").removesuffix(".json")] == content
    (letter,) = (json.loads(lake.store.get(key)) for key in lake.letters(DAY))
    assert (letter["error_type"], letter["source_key"]) == (error, result.key)
    assert words in letter["error_message"]
    assert lake.keys("raw/") == []


def test_from_the_feed_to_published_rows_and_back(server: Server, lake: Lake, monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "gbfs")
    lake = Lake(load_settings())
    files = station_files("2.3")
    files["station_information"]["data"]["stations"][1]["lat"] = None
    server.answers["/station_information.json"] = json.dumps(files["station_information"]).encode()
    spool = Spool(lake.settings.spool_dir, 10_000_000)
    result = take_snapshot(server.feed(), lambda: lake.store, lake.layout, spool)
    assert result.key.endswith("raw/dt=2025-08-21/gbfs_2025-08-21_12-00-00.zip")
    build_day()
    rows = {row["station_id"]: row for row in lake.rows("enhanced")}
    assert {name: row["record_type"] for name, row in rows.items()} == {"a-1": "station", "fbx7": "bike"}
    (letter,) = (json.loads(lake.store.get(key)) for key in lake.letters(DAY))
    assert letter["error_type"] == "bad_coordinates"
    found = trace(lake.store, lake.layout, "a-1", NOON)
    assert found.warnings == ()
    assert json.loads(found.line.text)["station_information"]["capacity"] == 10
