"""One of several feeds fails, lies or stutters: the others' snapshots of the minute are stored, and it is named."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from wrm_pipeline.clients.breaker import Breakers
from wrm_pipeline.clients.feed import Feed
from wrm_pipeline.clients.feed_memory import FeedMemory
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.domain.feeds import KINDS, gbfs_zip
from wrm_pipeline.domain.layout import Layout
from wrm_pipeline.flows.ingest import Minute, take_snapshots
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.other_feeds import gbfs_file, operator_answer
from wrm_pipeline_tests.faults.conftest import CITY
from wrm_pipeline_tests.faults.harness import MINUTE, PUBLISHED, QUARANTINED, REPAIRED, Harness
from wrm_pipeline_tests.fixtures.fault_server import HANG, HTML_200, RESET, Answer, FaultServer, Received, html

KEY = "canary-9f8e7d6c"  # pragma: allowlist secret
PASSWORD = "canary-password-1a2b"  # pragma: allowlist secret
NAMES = ("ucl", "operator", "gbfs")
TWO_TRIES = RetryPolicy(attempts=2, deadline_s=5, base_wait_s=0.01, max_wait_s=0.02, attempt_s=1)
UCL, OPERATOR, GBFS = "/ucl", "/operator", "/gbfs/gbfs.json"
STATUS, INFORMATION = "/gbfs/station_status.json", "/gbfs/station_information.json"
VEHICLES, TYPES = "/gbfs/free_bike_status.json", "/gbfs/vehicle_types.json"

Fault = Answer | Callable[[bytes, Received], Answer]


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@dataclass
class World:
    """A lake with three feeds on one server, whose answers by path can be replaced."""

    harness: Harness
    server: FaultServer
    faults: dict[str, Fault] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.play(then=self.answer)
        base = self.server.url.replace("//", f"//reader:{PASSWORD}@")
        for name, path in zip(NAMES, (UCL, OPERATOR, GBFS), strict=True):
            self.urls[name] = f"{base}{path}?key={KEY}"

    @property
    def layout(self) -> Layout:
        return self.harness.layout

    def answer(self, request: Received) -> Answer:
        path, now = urlsplit(request.path).path, self.harness.now
        name = path.rpartition("/")[2].removesuffix(".json")
        if path == UCL:
            body: bytes | None = CITY.snapshot(now)
        elif path == OPERATOR:
            body = operator_answer(CITY, now)
        else:
            body = gbfs_file(CITY, now, "2.3", name, self.server.url)
            body = body and body.replace(b"/gbfs/v2.3/", b"/gbfs/")
        if body is None:
            return Answer(404)
        fault = self.faults.get(path)
        if fault is None:
            self.served[path] = body
            return Answer(200, body)
        return fault if isinstance(fault, Answer) else fault(body, request)

    def feed(self, name: str) -> Feed:
        now = self.harness.now
        settings = self.harness.settings
        return Feed(
            self.urls[name],
            2**20,
            Breakers(settings.breaker_dir, now=lambda: now).of(KINDS[name].target),
            TWO_TRIES,
            now=lambda: now,
            kind=KINDS[name],
            memory=FeedMemory(settings.feed_dir, name),
        )

    def fetch(self) -> Minute:
        """One run, and a minute passes."""
        feeds = [self.feed(name) for name in NAMES]
        minute = take_snapshots(feeds, self.harness.connect, self.layout, self.harness.spool)
        self.messages += [f"{error} {error!r}" for error in minute.failures.values()]
        self.messages += [str(result) for result in minute.results]
        self.harness.now += MINUTE
        return minute

    def good_minute(self) -> None:
        self.faults.clear()
        minute = self.fetch()
        assert [result.kind.name for result in minute.snapshots] == list(NAMES), minute.failures
        assert not list(self.harness.spool.waiting())

    def raw(self) -> dict[str, int]:
        """Raw objects of each feed."""
        keys = [key.rpartition("/")[2] for key in self.harness.keys("raw/")]
        return {name: sum(KINDS[name].is_name(key) for key in keys) for name in NAMES}

    def verify(self, caplog: pytest.LogCaptureFixture) -> None:
        """No secret is in any file, zip, message or line of the log, and no half-written file is left."""
        for path in self.harness.settings.data_dir.rglob("*"):
            for content in _contents(path.read_bytes() if path.is_file() else b""):
                assert KEY.encode() not in content, path
                assert PASSWORD.encode() not in content, path
        for text in (*self.messages, caplog.text):
            assert KEY not in text
            assert PASSWORD not in text
        leftovers = [path for path in self.harness.settings.data_dir.rglob("*") if "/feeds/." in str(path)]
        assert leftovers == []


def _contents(body: bytes) -> Iterator[bytes]:
    yield body
    if body[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(body)) as file:
            for name in file.namelist():
                yield file.read(name)


@pytest.fixture
def world(environment, running: FaultServer, monkeypatch) -> World:
    monkeypatch.setenv("WRM_FEEDS", ",".join(NAMES))
    monkeypatch.setattr("wrm_pipeline.clients.feed.READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr("wrm_pipeline.clients.feed.CONNECT_TIMEOUT_S", 0.3)
    return World(Harness(load_settings()), running)


def cut(body: bytes, _request: Received) -> Answer:
    return Answer(200, body, cut_after=len(body) // 2)


def cut_silently(body: bytes, _request: Received) -> Answer:
    return Answer(200, body[: len(body) // 2])


def echo(_body: bytes, request: Received) -> Answer:
    text = f"{request.path} {dict(request.headers)}"
    return Answer(200, f"<html>bad request: {text}</html>".encode(), {"ETag": f'"{KEY}"'})


def echo_in_status(_body: bytes, request: Received) -> Answer:
    return Answer(500, f"{request.path} {dict(request.headers)}".encode(), {"X-Request": request.path})


NO_ANSWER: Mapping[str, Fault] = {
    "500": Answer(500),
    "503 in HTML": html(503),
    "404": Answer(404),
    "401": Answer(401),
    "304 that nobody asked for": Answer(304),
    "a reset": RESET,
    "silence": HANG,
    "cut off": cut,
    "429": Answer(429, b"", {"Retry-After": "1200"}),
    "a redirect elsewhere": Answer(302, b"", {"Location": "http://127.0.0.2:9/"}),
    "a redirect to itself": lambda _, request: Answer(302, b"", {"Location": request.path}),
    "2 MB": lambda body, _: Answer(200, body * (2 * 2**20 // len(body) + 1)),
    "500 with our credentials": echo_in_status,
}
NO_SNAPSHOT: Mapping[str, Fault] = {
    "an HTML page": HTML_200,
    "nothing": Answer(200),
    "random bytes": Answer(200, bytes(range(256)) * 8),
    "cut off silently": cut_silently,
    "another structure": Answer(200, b'{"data": {"answer": 42}}'),
    "a list": Answer(200, b"[1, 2, 3]"),
    "a page with our credentials": echo,
}


def of_one_feed(world: World, broken: str) -> None:
    """A minute in which one feed is broken: the others have a snapshot, and it is named."""
    minute = world.fetch()
    others = [name for name in NAMES if name != broken]
    assert [result.kind.name for result in minute.snapshots] == others
    assert not any(result.spooled or result.duplicate for result in minute.snapshots)
    named = [*minute.failures, *(result.kind.name for result in minute.results if result.fault)]
    assert named == [broken]


@pytest.mark.parametrize(("name", "path"), [("operator", OPERATOR), ("gbfs", GBFS)])
@pytest.mark.parametrize("fault", NO_ANSWER)
def test_a_feed_without_an_answer_costs_no_other(world, report, caplog, name, path, fault):
    report(f"{name}: {fault}", REPAIRED)
    world.faults[path] = NO_ANSWER[fault]
    of_one_feed(world, name)
    assert world.harness.keys("quarantine/") == []
    world.harness.now += 30 * MINUTE
    world.good_minute()
    assert world.raw() == {"ucl": 2, "operator": 2, "gbfs": 2} | {name: 1}
    world.verify(caplog)


@pytest.mark.parametrize(("name", "path"), [("operator", OPERATOR), ("gbfs", GBFS)])
@pytest.mark.parametrize("fault", NO_SNAPSHOT)
def test_garbage_of_a_feed_is_in_quarantine_and_costs_no_other(world, report, caplog, name, path, fault):
    report(f"{name}: 200 with {fault}", QUARANTINED)
    world.faults[path] = NO_SNAPSHOT[fault]
    of_one_feed(world, name)
    (key,) = world.harness.keys("quarantine/")
    assert KINDS[name].is_name(key.rpartition("/")[2])
    (letter,) = (json.loads(body) for body in world.harness.contents("dlq/").values())
    assert letter["source_key"] == key
    world.good_minute()
    assert world.raw() == {"ucl": 2, "operator": 2, "gbfs": 2} | {name: 1}
    world.verify(caplog)


@pytest.mark.parametrize(
    ("path", "fault", "quarantined"),
    [
        (STATUS, "500", 0),
        (STATUS, "404", 0),
        (STATUS, "silence", 0),
        (INFORMATION, "503 in HTML", 0),
        (INFORMATION, "cut off", 0),
        (VEHICLES, "429", 0),
        (STATUS, "an HTML page", 1),
        (INFORMATION, "cut off silently", 1),
        (VEHICLES, "another structure", 1),
        (STATUS, "a page with our credentials", 1),
    ],
)
def test_a_broken_file_of_gbfs_spoils_its_snapshot_and_no_other(world, report, caplog, path, fault, quarantined):
    report(f"gbfs: {path.rpartition('/')[2]}: {fault}", QUARANTINED if quarantined else REPAIRED)
    world.faults[path] = {**NO_ANSWER, **NO_SNAPSHOT}[fault]
    of_one_feed(world, "gbfs")
    assert len(world.harness.keys("quarantine/")) == quarantined
    world.harness.now += 30 * MINUTE
    world.good_minute()
    assert world.raw() == {"ucl": 2, "operator": 2, "gbfs": 1}
    world.verify(caplog)


@pytest.mark.parametrize("fault", ["500", "404", "a reset"])
def test_gbfs_without_its_vehicle_types_is_a_snapshot(world, report, caplog, fault):
    report(f"gbfs: vehicle_types.json: {fault}", PUBLISHED)
    world.faults[TYPES] = NO_ANSWER[fault]
    minute = world.fetch()
    assert [result.kind.name for result in minute.snapshots] == list(NAMES)
    world.good_minute()
    zips = [body for key, body in world.harness.contents("raw/").items() if key.endswith(".zip")]
    assert ["vehicle_types" in gbfs_zip.files_of(body) for body in zips] == [False, True]
    world.verify(caplog)


@pytest.mark.parametrize(
    ("faults", "good"),
    [
        ({OPERATOR: "500", GBFS: "silence"}, ["ucl"]),
        ({OPERATOR: "an HTML page", GBFS: "an HTML page"}, ["ucl"]),
        ({OPERATOR: "429", GBFS: "random bytes"}, ["ucl"]),
        ({UCL: "500", GBFS: "404"}, ["operator"]),
        ({UCL: "silence", OPERATOR: "silence"}, ["gbfs"]),
        ({UCL: "an HTML page"}, ["operator", "gbfs"]),
        ({UCL: "500", OPERATOR: "cut off", GBFS: "a reset"}, []),
        ({UCL: "nothing", OPERATOR: "nothing", GBFS: "nothing"}, []),
        ({UCL: "429", OPERATOR: "a list", STATUS: "500"}, []),
    ],
)
def test_several_feeds_at_once_fail_alone(world, report, caplog, faults, good):
    report(", ".join(f"{path}: {fault}" for path, fault in faults.items()), REPAIRED)
    world.faults = {path: {**NO_ANSWER, **NO_SNAPSHOT}[fault] for path, fault in faults.items()}
    minute = world.fetch()
    assert [result.kind.name for result in minute.snapshots] == good
    named = {*minute.failures, *(result.kind.name for result in minute.results if result.fault)}
    assert named == set(NAMES) - {*good}
    world.harness.now += 30 * MINUTE
    world.good_minute()
    assert world.raw() == {name: 2 if name in good else 1 for name in NAMES}
    world.verify(caplog)


def test_a_dead_feed_opens_its_own_circuit_and_no_other(world, report, caplog):
    report("operator: 500 for six minutes", REPAIRED)
    world.faults[OPERATOR] = Answer(500)
    for _ in range(5):
        world.fetch()
    asked = [urlsplit(request.path).path for request in world.server.requests]
    assert (asked.count(OPERATOR), asked.count(UCL)) == (10, 5)
    world.harness.now -= MINUTE / 3
    minute = world.fetch()
    assert "circuit open" in str(minute.failures["operator"])
    assert len(minute.snapshots) == 2
    world.verify(caplog)


def test_a_day_with_three_feeds_is_published_without_the_one_that_broke(world, report, caplog):
    report("operator: HTML in minute 2, gbfs: 500 in minute 3", QUARANTINED)
    world.good_minute()
    world.faults[OPERATOR] = HTML_200
    world.fetch()
    world.faults = {GBFS: Answer(500)}
    world.fetch()
    world.good_minute()
    assert world.harness.process(), world.harness.failures
    rows = world.harness.contents("processed/")
    assert len(rows) == 1
    assert world.raw() == {"ucl": 4, "operator": 3, "gbfs": 3}
    world.verify(caplog)
