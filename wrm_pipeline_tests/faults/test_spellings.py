"""The feed changes its spelling from one minute to the next: the same rows, and nothing waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wrm_pipeline_tests.faults.harness import MINUTE, NOON, PUBLISHED, Says, local_day
from wrm_pipeline_tests.faults.oracle import Expected, expected_of
from wrm_pipeline_tests.fixtures.spellings import CHANGED, UNCHANGED

SPELLINGS = {**UNCHANGED, **{name: edit for name, (edit, _) in CHANGED.items()}}


def same_rows(plain: bytes, spelled: bytes, name: str) -> Expected:
    """What the oracle reads in the usual spelling; what stands before the header is remarks more."""
    expected = expected_of(plain, NOON)
    more = 0
    if "warning" in name or "before the header" in name:
        more = sum(map(bool, map(bytes.strip, spelled.splitlines()))) - expected.lines_in - 1
    return replace(expected, lines_in=expected.lines_in + more, remarks=expected.remarks + more)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_body_in_another_spelling_among_usual_ones(world, city, report, name):
    report(name, PUBLISHED)
    bodies = [city.snapshot(NOON + n * MINUTE) for n in range(3)]
    spelled = SPELLINGS[name](bodies[1])
    world.meant[spelled] = same_rows(bodies[1], spelled, name)
    feed = Says(lambda: world.now, [bodies[0], spelled, bodies[2]])
    for _ in range(3):
        world.fetch(feed)
    assert world.process(local_day(NOON)), world.failures
    world.verify(PUBLISHED)


def test_a_feed_that_is_spelled_otherwise_from_noon_to_the_end(world, city, report):
    report(f"{len(SPELLINGS)} minutes, each in another spelling", PUBLISHED)
    bodies = []
    for n, (name, edit) in enumerate(SPELLINGS.items()):
        plain = city.snapshot(NOON + n * MINUTE)
        bodies.append(edit(plain))
        world.meant[bodies[-1]] = same_rows(plain, bodies[-1], name)
    feed = Says(lambda: world.now, list(bodies))
    for _ in bodies:
        world.fetch(feed)
    assert world.process(local_day(NOON)), world.failures
    world.verify(PUBLISHED)
    assert world.process(local_day(NOON), full_rebuild=True), world.failures
    world.verify(PUBLISHED)
