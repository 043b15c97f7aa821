"""What the scenarios share, and the table at the end of the run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from tabulate import tabulate

from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.server import SimulatedFeed, serve
from wrm_pipeline_tests.faults.harness import Harness
from wrm_pipeline_tests.integration.conftest import seaweedfs  # noqa: F401 - a fixture

# 12 stations and 20 free bikes: small files, quick runs, all kinds of rows.
CITY = City(7, station_count=12, bike_count=20)


@pytest.fixture
def city() -> City:
    return CITY


@pytest.fixture
def world(environment) -> Harness:
    """A world in a local folder, without a feed."""
    return Harness(load_settings())


@pytest.fixture
def feed_world(world: Harness) -> Iterator[tuple[Harness, SimulatedFeed]]:
    """A world and its simulated feed, both on the world's clock."""
    with serve(CITY, clock=lambda: world.now) as feed:
        world.feed_url = feed.url
        yield world, feed


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Each scenario says what it injects and what must become of it, for the table."""

    def tell(injected: str, outcome: str) -> None:
        category = request.node.module.__name__.rpartition("test_")[2]
        request.node.user_properties.append(("fault", (category, request.node.name, injected, outcome)))

    return tell


@pytest.fixture
def silent_name_server(monkeypatch) -> Iterator[None]:
    """What getaddrinfo is while the name server does not answer; the system's own takes as long."""
    over, of_system = threading.Event(), socket.getaddrinfo

    def hang(host: str, *arguments: object, **options: object) -> list:
        if host.endswith(".example"):
            over.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return of_system(host, *arguments, **options)

    monkeypatch.setattr("socket.getaddrinfo", hang)
    yield
    over.set()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the matrix."""
    rows = []
    for result in [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]:
        for name, value in result.user_properties:
            if name == "fault":
                category, test, injected, outcome = value
                scenario = test.removeprefix("test_").partition("[")[0].replace("_", " ")
                outcome = outcome if result.passed else "FAILED"
                rows.append([category, scenario, injected, outcome, result.duration])
    if not rows:
        return
    headers = ["category", "scenario", "injected", "outcome", "s"]
    terminalreporter.section("fault matrix")
    terminalreporter.write_line(
        tabulate(rows, headers=headers, floatfmt=".1f", maxcolwidths=[None, 60, 60, None, None])
    )
    terminalreporter.write_line(f"\n{len(rows)} scenarios, {sum(row[4] for row in rows):.0f} s")
