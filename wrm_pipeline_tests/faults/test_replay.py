"""Dead letters that are tried again: each row once, whatever fails or is killed when."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from wrm_pipeline.domain import partition_build
from wrm_pipeline.lake.dead_letter_queue import DeadLetterQueue
from wrm_pipeline.simulator.misbehaviour import Misbehaviour, dead_row
from wrm_pipeline_tests.faults import crash_runner
from wrm_pipeline_tests.faults.harness import (
    DEAD_LETTERED,
    MINUTE,
    NOON,
    QUARANTINED,
    REPAIRED,
    REPLAY,
    Harness,
    failing,
    local_day,
)
from wrm_pipeline_tests.fixtures.snapshots import refuse_battery_levels

DAY = local_day(NOON)
LETTER = ["rename metadata of dlq", "rename dlq", "rename cache"]
LAYERS = [f"rename {what}{layer}" for layer in ("processed", "enhanced") for what in ("metadata of ", "")]
# A letter that is found again, the partition, and the verdict on each of two letters.
CHANGES = [*LETTER, *LAYERS, *LETTER * 2]


def queue_of(world: Harness) -> DeadLetterQueue:
    return DeadLetterQueue(world.truth, world.layout)


def statuses(world: Harness) -> dict[str, tuple[str, int]]:
    return {letter.error_type: (letter.status, letter.retry_count) for letter in queue_of(world).all()}


def corrected_day(world: Harness, city) -> None:
    """A day with one dead row that is corrected by a person, and one that is not."""
    good = city.snapshot(NOON)
    lines = good.splitlines(keepends=True)
    bad = [dead_row("bikes_not_a_number", good), dead_row("flag_unknown", good)]
    key = world.put_raw(NOON, b"".join([*lines[:3], *bad, *lines[3:]]))
    world.put_raw(NOON + MINUTE, city.snapshot(NOON + MINUTE))
    assert world.process(DAY), world.failures
    letter = next(letter for letter in queue_of(world).all() if letter.error_type == "bad_count")
    (record,) = letter.records
    right = record.raw_data.replace("many", "3")
    queue_of(world).put(replace(letter, records=(replace(record, corrected_data=right),)))
    world.corrections[key] = {record.line_number: right.encode()}
    world.now += timedelta(hours=1)


def test_a_corrected_row_is_published_once(world, city, report):
    report("one row corrected, one not; two replays", DEAD_LETTERED)
    corrected_day(world, city)
    assert world.run(REPLAY), world.failures
    assert statuses(world) == {"bad_count": ("reprocessed", 0), "bad_flag": ("pending_reprocessing", 1)}
    before = world.contents("processed/")
    world.now += MINUTE
    assert world.run(REPLAY)
    assert statuses(world) == {"bad_count": ("reprocessed", 0), "bad_flag": ("pending_reprocessing", 2)}
    assert len(world.contents("processed/")) == len(before)
    world.verify(DEAD_LETTERED)


def test_rows_that_an_older_parser_refused(world, city, monkeypatch, report):
    report("a parser that rejects battery levels, then the fixed one; two replays", DEAD_LETTERED)
    for n in range(3):
        world.put_raw(NOON + n * MINUTE, city.snapshot(NOON + n * MINUTE))
    with monkeypatch.context() as old:
        refuse_battery_levels(old)
        old.setattr(partition_build, "PARSER_VERSION", "0")
        assert world.process(DAY), world.failures
    refused = sum(letter.records_total for letter in queue_of(world).all())
    assert refused > 0
    world.now += timedelta(hours=1)
    assert world.run(REPLAY), world.failures
    assert statuses(world) == {"bad_flag": ("reprocessed", 0)}
    before = world.contents("")
    world.now += timedelta(hours=1)
    assert world.run(REPLAY)
    assert world.contents("") == before, "a second replay changes nothing"
    world.verify(DEAD_LETTERED)


def test_poison_is_parked(world, city, report):
    report("a row that cannot be helped, replayed 10 x", DEAD_LETTERED)
    good = city.snapshot(NOON)
    world.put_raw(NOON, good + dead_row("empty_id", good))
    assert world.process(DAY)
    for n in range(10):
        world.now += MINUTE
        assert world.run(REPLAY)
        assert statuses(world) == {"empty_id": ("parked" if n >= 4 else "pending_reprocessing", min(n + 1, 5))}
        if n == 4:
            world.store.calls.clear()
    assert world.store.written == [], "nothing more is done for it"
    world.verify(DEAD_LETTERED)


@pytest.mark.parametrize("kill", crash_runner.kills(CHANGES), ids=str)
def test_sigkill_of_a_replay(world, city, tmp_path, report, kill):
    report(f"reprocess_dlq: {crash_runner.place_of(kill, CHANGES)}", DEAD_LETTERED)
    corrected_day(world, city)
    assert crash_runner.run(world, "replay", tmp_path / "log", kill) == CHANGES[: kill.changes]
    world.now += MINUTE
    assert world.run(REPLAY), world.failures
    status = statuses(world)
    assert status["bad_count"] == ("reprocessed", 0)
    assert status["bad_flag"][0] == "pending_reprocessing"
    assert status["bad_flag"][1] <= 2, "at most one attempt more than was finished"
    world.settle()
    # The next snapshot, whose write clears what the dead run left in the store.
    world.put_raw(NOON + 5 * MINUTE, city.snapshot(NOON + 5 * MINUTE))
    assert world.process(DAY)
    world.verify(DEAD_LETTERED)


def test_each_change_of_a_replay_is_known(world, city, tmp_path, report):
    report("reprocess_dlq: no kill, its changes are those that are killed between", "as listed")
    corrected_day(world, city)
    assert crash_runner.run(world, "replay", tmp_path / "log") == CHANGES


@pytest.mark.parametrize(
    ("operation", "folder"),
    [
        *(("get", folder) for folder in ("raw", "processed", "dlq")),
        *(("put", folder) for folder in ("processed", "enhanced", "dlq")),
        *(("list", folder) for folder in ("raw", "dlq")),
    ],
)
def test_a_replay_while_the_store_fails(world, city, report, operation, folder):
    report(f"{operation} of {folder}/: 503 during a replay", REPAIRED)
    corrected_day(world, city)
    published = world.contents(f"{folder}/")
    with failing(world, lambda asked, key: asked == operation and f"/{folder}/" in key):
        assert not world.run(REPLAY)
    if operation == "put":
        assert world.contents(f"{folder}/") == published
    world.now += MINUTE
    assert world.run(REPLAY), world.failures
    world.settle()
    assert statuses(world)["bad_count"] == ("reprocessed", 0)
    world.verify(REPAIRED)


def test_a_replay_whose_clock_is_behind(world, city, report):
    report("clock set back by 2 h before the replay", DEAD_LETTERED)
    corrected_day(world, city)
    world.now -= timedelta(hours=2)
    assert world.run(REPLAY), world.failures
    world.now += MINUTE
    assert world.run(REPLAY), world.failures
    assert statuses(world)["bad_count"][0] == "reprocessed"
    world.verify(DEAD_LETTERED)


def test_a_correction_survives_a_rebuild_from_nothing(world, city, report):
    report("processed/ and enhanced/ deleted after a correction", DEAD_LETTERED)
    corrected_day(world, city)
    assert world.run(REPLAY), world.failures
    for key in world.keys("processed/") + world.keys("enhanced/"):
        world.truth.delete(key)
    assert world.settle() == [DAY]
    world.verify(DEAD_LETTERED)


def test_a_discarded_entry_stays_out(world, city, report):
    report("an entry discarded by a person, then replayed", DEAD_LETTERED)
    good = city.snapshot(NOON)
    world.put_raw(NOON, good + dead_row("empty_id", good))
    assert world.process(DAY)
    (letter,) = queue_of(world).all()
    queue_of(world).put(replace(letter, status="discarded", note="not worth it"))
    before = world.contents("")
    world.now += MINUTE
    assert world.run(REPLAY)
    assert world.contents("") == before
    world.verify(DEAD_LETTERED)


def test_a_quarantined_body_is_tried_again_and_stays(feed_world, report):
    report("a quarantined HTML page, replayed twice", QUARANTINED)
    world, feed = feed_world
    feed.plan(Misbehaviour.HTML)
    world.fetch()
    world.fetch()
    assert world.process(DAY)
    quarantined = world.contents("quarantine/")
    for n in range(2):
        world.now += MINUTE
        assert world.run(REPLAY), world.failures
        (letter,) = (json.loads(body) for body in world.contents("dlq/").values())
        assert (letter["status"], letter["retry_count"]) == ("pending_reprocessing", n + 1)
    assert world.contents("quarantine/") == quarantined
    world.verify(QUARANTINED)
