"""A feed that changes its format: one incident, nothing lost, and all of it published once a release reads it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import dagster as dg
import pytest

from wrm_pipeline.checks.feed import FEED_CHECK
from wrm_pipeline.cli.main import main
from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain import partition_build
from wrm_pipeline.domain import snapshot as parser
from wrm_pipeline.domain.manifest import Manifest
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.flows.drift import look_for_drift
from wrm_pipeline.flows.replay import Selection, replay
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.sensors.alerts import AlertCursor, check_outcomes, collect_outcomes, run_outcomes, send_notifications
from wrm_pipeline_tests.faults.harness import (
    ANALYTICS,
    JOB,
    MINUTE,
    NOON,
    REPLAY,
    Harness,
    Says,
    _pairs,
    local_day,
    overrides_of,
)

DAY = local_day(NOON)
STEP = 2 * MINUTE


def respelt(body: bytes, column: str, spell, every: int = 1) -> bytes:
    """A body with one column of each `every`-th row spelt otherwise."""
    header, *rows = body.decode().splitlines()
    position = header.split(",").index(column)
    lines = [header]
    for number, row in enumerate(rows):
        fields = row.split(",")
        if number % every == 0:
            # Columns are counted from the right: a name in quotes may hold a comma.
            at = position - len(header.split(","))
            fields[at] = spell(fields[at])
        lines.append(",".join(fields))
    return ("\n".join(lines) + "\n").encode()


def rows_of(body: bytes) -> int:
    return len(body.splitlines()) - 1


def newer_parser(monkeypatch: pytest.MonkeyPatch, *, version: str | None = None) -> None:
    """The release that reads what this one does not: `12 docks` is 12."""
    right = parser.parse_snapshots

    def parse(files):
        return right([replace(file, body=file.body.replace(b" docks", b"")) for file in files])

    monkeypatch.setattr("wrm_pipeline.domain.snapshot.parse.parse_snapshots", parse)
    monkeypatch.setattr(partition_build, "parse_snapshots", parse)
    if version:
        monkeypatch.setattr(partition_build, "PARSER_VERSION", version)


def docks(text: str) -> str:
    return f"{text} docks"


class Watched:
    """A person with a webhook: the messages that they get."""

    def __init__(self, world: Harness) -> None:
        self.world = world
        self.world.instance = dg.DagsterInstance.ephemeral()
        self.states = [(AlertCursor(time.time() - 60), read) for read in (run_outcomes, check_outcomes)]
        self.messages: list[str] = []

    def look(self, *, later: float = 0) -> None:
        for state, read in self.states:
            collect_outcomes(self.world.instance, state, read)
            send_notifications(state, {"webhook": self.messages.append}, now=time.time() + later, ui_url="http://ui")

    def run(self, job: str, dt=None, *, body: bytes | None = None) -> bool:
        """A run of Dagster's, as the schedules and sensors start them."""
        overrides = overrides_of(self.world, self.world.now)
        if body is not None:
            feed = SimpleNamespace(clients=[Says(lambda: self.world.now, [body])])
            overrides["feed"] = dg.ResourceDefinition.hardcoded_resource(feed)
        defs = build_defs(self.world.settings, overrides)
        key = dt.isoformat() if dt else None
        ran = defs.resolve_job_def(job).execute_in_process(
            instance=self.world.instance, partition_key=key, raise_on_error=False
        )
        return ran.success


def fetch(world: Harness, body: bytes) -> None:
    world.fetch(Says(lambda: world.now, [body]))


def letters(world: Harness):
    return DeadLetterQueue(world.truth, world.layout).all()


def assert_all_published_once(world: Harness, bodies: dict[datetime, bytes]) -> None:
    """Each row of each body, once, in both layers; and the manifest says the same."""
    for layer in ("processed", "enhanced"):
        found = Counter(_pairs(world.truth, world.settings, layer))
        assert set(found.values()) == {1}
        assert Counter(at for _, at in found) == {at: rows_of(body) for at, body in bodies.items()}
    (data,) = world.contents("processed/").values()
    manifest = Manifest.from_footer(ParquetParts.open(data).footer_metadata)
    assert manifest is not None
    assert manifest.counts.balanced
    assert (manifest.counts.dead_lettered, manifest.counts.rows_out) == (0, sum(map(rows_of, bodies.values())))


@pytest.mark.parametrize("release", ["another parser version", "the same version"])
def test_a_drift_of_two_hours_is_one_incident_and_comes_back_by_one_command(world, city, report, monkeypatch, release):
    report(
        f"an hour in which a fifth of the rows, an hour in which all have `12 docks`; then a release ({release}) that "
        "reads it",
        "one alert begins, one ends; all rows once",
    )
    watched = Watched(world)
    bodies: dict[datetime, bytes] = {}

    def minute(body: bytes, *, as_run: bool = False) -> None:
        bodies[world.now] = body
        if as_run:
            watched.run("wrm_stations_ingest_job", body=body)
            world.now += MINUTE
        else:
            fetch(world, body)
        world.now += STEP - MINUTE

    def tables() -> None:
        world.now -= MINUTE
        watched.run(JOB, DAY)
        watched.run("wrm_freshness_job")
        watched.look()
        world.now += MINUTE

    for _ in range(3):
        minute(city.snapshot(world.now))
    tables()
    assert watched.messages == []
    for every in (5, 1):
        for number in range(30):
            minute(respelt(city.snapshot(world.now), "total_docks", docks, every), as_run=number % 10 == 5)
            if number % 10 == 5:
                tables()
        world.run(ANALYTICS, only=["wrm_stations_dlq"])
        watched.look()

    (begun,) = watched.messages
    assert begun.startswith(f"🔴 *Check {FEED_CHECK} of wrm_stations_dlq* does not hold")
    assert "total_docks of 7 of 31 rows (23%)" in begun
    assert "it is '" in begun
    assert " docks'" in begun
    assert "it was '" in begun
    assert "wrm dlq replay --drift" in begun
    assert len(world.keys("quarantine/")) == 30

    # Meanwhile somebody tried in vain, until all was parked.
    for _ in range(5):
        assert world.run(REPLAY), world.failures
    assert {letter.status for letter in letters(world)} == {"parked"}
    # Another fetcher had the same second's body right, so it has the name.
    taken = next(at for at in sorted(bodies, reverse=True) if at - STEP in bodies)
    spare = city.snapshot(taken)
    world.truth.put(world.layout.raw_key(taken), spare)

    newer_parser(monkeypatch, version="next" if release == "another parser version" else None)
    minute(respelt(city.snapshot(world.now), "total_docks", docks), as_run=True)
    world.now += 6 * MINUTE
    minute(respelt(city.snapshot(world.now), "total_docks", docks))
    tables()
    assert len(watched.messages) == 1
    assert main(["dlq", "replay", "--drift", "--apply"]) == 0
    assert {letter.status for letter in letters(world)} == {"reprocessed"}
    bodies[taken + timedelta(seconds=1)] = bodies[taken]
    bodies[taken] = spare
    assert_all_published_once(world, bodies)
    before = world.contents("")
    assert main(["dlq", "replay", "--drift", "--apply"]) == 0
    assert world.contents("") == before

    world.now += 11 * MINUTE
    minute(city.snapshot(world.now))
    tables()
    watched.look(later=301)
    assert len(watched.messages) == 2
    assert watched.messages[1].startswith(f"🟢 *Check {FEED_CHECK} of wrm_stations_dlq* holds again")


SPELLINGS = {
    "bikes in words": ("bikes", lambda text: f"{text} bikes"),
    "decimal commas in quotes": ("lat", lambda text: f'"{text.replace(".", ",")}"'),
    "minus for spaces": ("spaces", lambda text: f"-{int(text) + 7}"),
    "degrees": ("lon", lambda text: f"{text}°"),
    "markup": ("total_docks", lambda _: "<!channel> `rm`"),
    "a terminal's escape": ("total_docks", lambda _: "\x1b[2J"),
    "100 kB in one field": ("total_docks", lambda _: "9" * 100_000),
}


@pytest.mark.parametrize("share", ["a fifth", "all"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_field_in_another_spelling_is_named_with_examples(world, city, report, spelling, share):
    column, spell = SPELLINGS[spelling]
    report(f"{spelling}, in {share} of the rows", "the field, the old and the new value, the share")
    fetch(world, city.snapshot(world.now))
    fetch(world, respelt(city.snapshot(world.now), column, spell, every=1 if share == "all" else 5))
    found, looked_at = look_for_drift(world.truth, world.layout, now=world.now)
    assert found is not None
    assert looked_at == 2
    assert (found.drift.field, found.drift.whole) == (column, share == "all")
    assert (found.drift.dead, found.drift.rows) == (31 if share == "all" else 7, 31)
    assert found.old.strip("'").lstrip("-").replace(".", "").isdigit()
    assert found.new != found.old
    assert len(str(found)) < 400
    assert str(found).isprintable()
    assert world.truth.get(found.key)


@pytest.mark.parametrize(
    ("dead", "drifts"),
    [(6, False), (7, True), (31, True)],
    ids=["less", "a fifth", "all"],
)
def test_a_drift_begins_at_a_fifth_of_the_rows(world, city, report, dead, drifts):
    report(f"{dead} of 31 rows die of one thing", "a drift" if drifts else "no drift")
    header, *rows = city.snapshot(world.now).decode().splitlines(keepends=True)
    bad = respelt("".join([header, *rows[:dead]]).encode(), "total_docks", docks)
    fetch(world, bad + "".join(rows[dead:]).encode())
    found, _ = look_for_drift(world.truth, world.layout, now=world.now)
    assert bool(found) == drifts


def other_ways(good: bytes) -> dict[str, tuple[bytes, str | None]]:
    lines = good.splitlines(keepends=True)
    return {
        "one column more, not in the header": (lines[0] + b"".join(row[:-1] + b",new\n" for row in lines[1:]), ""),
        "a renamed column": (lines[0].replace(b"total_docks", b"capacity") + b"".join(lines[1:]), "header"),
        "an HTML page": (b"<html><body>503 Service Unavailable</body></html>\n", None),
        "nothing": (b"", None),
        "a header alone": (lines[0], None),
        "random bytes": (bytes(range(256)) * 20, None),
    }


@pytest.mark.parametrize("way", other_ways(b"#id,total_docks\n1,2\n"))
def test_what_is_a_change_of_format_and_what_is_not(world, city, report, way):
    report(way, "a drift, or a body that is not a snapshot")
    fetch(world, city.snapshot(world.now))
    body, field = other_ways(city.snapshot(world.now))[way]
    fetch(world, body)
    found, _ = look_for_drift(world.truth, world.layout, now=world.now)
    assert (found.drift.field if found else None) == field
    assert len(world.keys("quarantine/")) == 1


def test_a_drift_lasts_while_the_feed_says_nothing_and_ends_when_it_is_read(world, city, report):
    report("a drifted body, five hours without any, then good ones for ten minutes", "open until then")
    fetch(world, respelt(city.snapshot(world.now), "total_docks", docks))
    world.now += timedelta(hours=5)
    for minutes, drifts in ((0, True), (1, True), (12, False)):
        for _ in range(minutes):
            world.now += timedelta(seconds=1)
            fetch(world, city.snapshot(world.now))
        found, _ = look_for_drift(world.truth, world.layout, now=world.now)
        assert bool(found) == (drifts and minutes == 0)


def test_a_body_that_equals_the_one_before_is_not_published_again(world, city, report, monkeypatch):
    report("the same drifted bytes in three minutes, then a release that reads them", "one snapshot, as at the fetch")
    body = respelt(city.snapshot(world.now), "total_docks", docks)
    for _ in range(3):
        fetch(world, body)
    newer_parser(monkeypatch)
    done = replay(world.truth, world.layout, Selection(drift=True), area=world.settings.area, now=world.now)
    assert done.count("reprocessed") == 3
    assert len(world.keys("raw/")) == 1
    assert len(world.keys("quarantine/")) == 3
    assert_all_published_once(world, {NOON: body})
