"""The verifier itself: whatever one does to a good lake behind its back, it notices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wrm_pipeline_tests.faults.harness import MINUTE, NOON, PUBLISHED, Harness, local_day

DAY = local_day(NOON)


def key_of(world: Harness, layer: str, number: int = 0) -> str:
    return world.keys(f"{layer}/")[number]


def change(world: Harness, key: str, edit: Callable[[bytes], bytes]) -> None:
    world.truth.put(key, edit(world.truth.get(key)))


def double(world: Harness, layer: str) -> None:
    key = key_of(world, layer)
    world.truth.put(key.replace("_000000", "_120000"), world.truth.get(key))


SABOTAGE: dict[str, Callable[[Harness], None]] = {
    "raw object gone": lambda w: w.truth.delete(key_of(w, "raw")),
    "raw object twice": lambda w: w.truth.put(key_of(w, "raw").replace("-02.txt", "-03.txt"), w.served[0][1]),
    "raw byte changed": lambda w: change(w, key_of(w, "raw"), lambda body: body.replace(b"1", b"2", 1)),
    "raw object cut": lambda w: change(w, key_of(w, "raw"), lambda body: body[:-40]),
    "a snapshot never stored": lambda w: w.served.append((w.now, w.served[0][1] + b"\n")),
    "processed gone": lambda w: w.truth.delete(key_of(w, "processed")),
    "enhanced gone": lambda w: w.truth.delete(key_of(w, "enhanced")),
    "stray processed": lambda w: double(w, "processed"),
    "stray enhanced": lambda w: double(w, "enhanced"),
    "processed is an older build": lambda w: w.truth.put(key_of(w, "processed"), w.older["processed"]),
    "enhanced is an older build": lambda w: w.truth.put(key_of(w, "enhanced"), w.older["enhanced"]),
    "half of processed": lambda w: change(w, key_of(w, "processed"), lambda body: body[: len(body) // 2]),
    "dead letter from nowhere": lambda w: w.truth.put(
        f"{w.settings.prefix}dlq/dt={DAY}/x.json",
        f'{{"source_key": "{key_of(w, "raw")}", "records_total": 1, "status": "parked"}}'.encode(),
    ),
    "delivered and still in the spool": lambda w: w.spool.add("raw", *w.served[0]),
    "temporary file in the lake": lambda w: (w.settings.lake_dir / ".tmp" / "1.x.y").write_bytes(b""),
    "temporary file in the spool": lambda w: (w.settings.spool_dir / "1.raw.tmp-1").write_bytes(b""),
    "half a database": lambda w: w.settings.database_path.with_name("analytics.duckdb.new-1").write_bytes(b""),
}


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_the_verifier_notices(world, city, sabotage):
    for n in range(2):
        world.put_raw(NOON + n * MINUTE, city.snapshot(NOON + n * MINUTE))
        assert world.process(DAY), world.failures
        if n == 0:
            world.older = {layer: world.truth.get(key_of(world, layer)) for layer in ("processed", "enhanced")}
    world.settings.spool_dir.mkdir()
    world.verify(PUBLISHED)
    SABOTAGE[sabotage](world)
    with pytest.raises((AssertionError, ValueError, OSError)):
        world.check()
