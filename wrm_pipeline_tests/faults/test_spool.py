"""What stands in the spool's folder, and bodies that cannot be inspected: nothing is lost, nobody waits for it."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from wrm_pipeline.checks.spool import check_spool
from wrm_pipeline.flows import delivery, ingest, inspection
from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline.lake.spool import ASIDE, Spool
from wrm_pipeline_tests.faults.harness import MINUTE, NOON, PUBLISHED, QUARANTINED, Harness, Says, failing

WAITING = f"{NOON - MINUTE:%Y%m%dT%H%M%S.%f}Z.raw.body"


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"kept")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


def named(name: str) -> Callable[[Path], None]:
    return lambda path: (path.parent / name).write_bytes(b"?")


STRANGERS: dict[str, Callable[[Path], object]] = {
    "a folder with a body's name": a_folder,
    "a dangling symlink": lambda path: path.symlink_to("/nowhere"),
    "a symlink to a file elsewhere": lambda path: path.symlink_to("/etc/hostname"),
    "a symlink to itself": lambda path: path.symlink_to(path.name),
    "a FIFO nobody writes to": os.mkfifo,
    "a socket": a_socket,
    "a README": named("README"),
    "a name without a time": named("snapshot.raw.body"),
    "a time that is none": named("20251332T256199.000000Z.raw.body"),
    "the last second of year 9999": named("99991231T235959.999999Z.raw.body"),
    "a kind of another release": named(WAITING.replace("raw", "telemetry")),
    "a file of 0 bytes with a foreign name": named("x.part"),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_not_a_body_is_set_aside_and_named(feed_world, report, monkeypatch, kind):
    report(f"{kind} in the spool", PUBLISHED)
    world, _ = feed_world
    monkeypatch.chdir(world.settings.data_dir.parent)
    world.spool.folder.mkdir(parents=True)
    STRANGERS[kind](world.spool.folder / WAITING)
    assert not check_spool(world.spool).passed

    for _ in range(2):
        result = world.fetch()
        assert isinstance(result, IngestResult), result
        assert (result.spooled, result.key) == (False, world.key("raw", world.served[-1][0]))
    assert result.delivered.problems == (), "it is out of the way by now"
    (aside,) = (world.spool.folder / ASIDE).iterdir()
    found = check_spool(world.spool)
    assert not found.passed
    assert aside.name in found.description
    if aside.is_dir() and not aside.is_symlink():
        assert (aside / "inside").read_bytes() == b"kept"
    else:
        aside.unlink()
        assert check_spool(world.spool).passed
    assert world.process(), world.failures
    _leave_no_stranger(world)
    world.verify(PUBLISHED)


def test_what_cannot_even_be_moved_is_skipped_and_named(feed_world, report, monkeypatch):
    report("a folder in the spool that cannot be moved", PUBLISHED)
    world, _ = feed_world
    world.spool.folder.mkdir(parents=True)
    a_folder(world.spool.folder / WAITING)
    (world.spool.folder / ASIDE).write_text("a file where the folder should be")
    for _ in range(2):
        result = world.fetch()
        assert isinstance(result, IngestResult), result
        assert not result.spooled
        assert "cannot be moved" in result.delivered.problems[0]
    assert not check_spool(world.spool).passed
    (world.spool.folder / ASIDE).unlink()
    assert world.fetch().delivered.problems
    assert world.process(), world.failures
    _leave_no_stranger(world)
    world.verify(PUBLISHED)


@pytest.mark.parametrize("what", ["its folder cannot be listed", "a file stands in its place"])
def test_a_spool_that_is_none_costs_no_snapshot(feed_world, report, monkeypatch, what):
    report(f"the spool: {what}", PUBLISHED)
    world, _ = feed_world
    if what == "a file stands in its place":
        world.spool.folder.parent.mkdir(parents=True, exist_ok=True)
        world.spool.folder.write_text("?")
    else:

        def refuse(_spool: Spool) -> list[Path]:
            raise PermissionError(13, "Permission denied", str(world.spool.folder))

        monkeypatch.setattr(Spool, "_entries", refuse)
    result = world.fetch()
    assert isinstance(result, IngestResult), result
    assert (result.spooled, result.key) == (False, world.key("raw", world.served[0][0]))
    assert not check_spool(world.spool).passed
    monkeypatch.undo()
    world.spool.folder.unlink(missing_ok=True)
    assert world.process(), world.failures
    world.verify(PUBLISHED)


@pytest.mark.parametrize("days", [-400, -1, 1, 400])
def test_a_body_of_another_day_is_delivered_and_the_new_one_has_its_own_key(feed_world, city, report, days):
    report(f"a body in the spool from {days:+} days", PUBLISHED)
    world, _ = feed_world
    at = NOON + days * 1440 * MINUTE
    body = city.snapshot(at)
    world.spool.add("raw", at, body)
    world.served.append((at, body))
    result = world.fetch()
    assert isinstance(result, IngestResult), result
    assert result.key == world.key("raw", world.served[-1][0])
    assert result.delivered.keys == (world.key("raw", at),)
    assert not list(world.spool.waiting())


def test_a_body_that_kills_is_in_quarantine_after_one_death_and_the_others_are_published(
    feed_world, report, monkeypatch
):
    report("a body whose inspection kills the process, served for 3 minutes", QUARANTINED)
    world, _ = feed_world
    killer = b"#id," + b"x," * 1000
    died = []

    class Died(BaseException):
        pass

    def inspect(body: bytes, at: object, kind: object) -> object:
        if body == killer:
            died.append(at)
            raise Died
        return inspection.inspect_here(body, at, kind)

    monkeypatch.setattr(ingest, "inspect_here", inspect)
    # The process of its own dies of its bound on memory, whatever the body.
    real_apart = ingest.inspect_apart

    def apart(body: bytes, at: object, kind: object) -> object:
        monkeypatch.setattr(inspection, "APART_BYTES", 2**20 if body == killer else 768 * 2**20)
        return real_apart(body, at, kind)

    monkeypatch.setattr(ingest, "inspect_apart", apart)
    feed = world.feed()
    with pytest.raises(Died):
        world.fetch(Says(lambda: world.now, [killer]))
    assert [body.kind for body in world.spool.waiting()] == ["fetched"]
    frozen = world.fetch(Says(lambda: world.now, [killer]))
    assert isinstance(frozen, IngestResult), frozen
    assert len(died) == 1
    assert frozen.fault.error_type == "inspection_failed"
    (key,) = world.keys("quarantine/")
    assert world.truth.get(key) == killer
    (letter,) = [body for name, body in world.contents("dlq/").items()]
    assert b'"inspection_failed"' in letter
    world.served.pop()  # equal to the one before, stored once
    assert isinstance(world.fetch(feed), IngestResult)
    assert not list(world.spool.waiting())
    assert world.process(), world.failures
    world.verify(QUARANTINED)


def test_a_body_is_not_in_quarantine_if_its_own_run_delivers_it_while_another_one_inspects_it(
    feed_world, city, report, monkeypatch
):
    report("a run inspects a body that its own run delivers meanwhile", PUBLISHED)
    world, _ = feed_world
    body, at = city.snapshot(world.now), world.now
    waiting = world.spool.add("fetched", at, body)  # by a run that seems to have died, and lives
    world.served.append((at, body))
    world.now += MINUTE
    real_apart, slow = inspection.inspect_apart, []

    def apart(of: bytes, *about: object) -> object:
        if of == body:
            slow.append(of)
            world.truth.put_if_absent(world.key("raw", at), body)
            world.spool.remove(waiting)
        return real_apart(of, *about)

    monkeypatch.setattr(delivery, "inspect_apart", apart)
    result = world.fetch()
    assert isinstance(result, IngestResult), result
    assert (len(slow), result.fault, result.delivered.problems) == (1, None, ())
    assert world.process(), world.failures
    world.verify(PUBLISHED)


def test_killed_over_a_good_body_it_is_published_all_the_same(feed_world, report, monkeypatch):
    report("killed while a good body is inspected, the store away meanwhile", PUBLISHED)
    world, _ = feed_world

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "inspect_here", die)
        with pytest.raises(Died):
            world.fetch()
    with failing(world, lambda _operation, _key: True):
        assert world.fetch().spooled
    result = world.fetch()
    assert len(result.delivered.keys) == 2
    assert world.process(), world.failures
    world.spooled = 0
    world.verify(PUBLISHED)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), ZeroDivisionError("a bug")])
def test_an_inspection_that_raises_costs_no_byte(feed_world, report, monkeypatch, error):
    report(f"the inspection raises {type(error).__name__}", QUARANTINED)
    world, _ = feed_world

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(inspection, "inspect_fetched", fail)
        result = world.fetch()
    assert result.fault.error_type == "inspection_failed"
    assert type(error).__name__ in result.fault.error_message
    assert world.truth.get(result.key) == world.served[-1][1]
    assert world.run("reprocess_dlq"), world.failures
    assert world.keys("raw/"), "a later release reads it"


HUGE = {
    "a header of 8 million columns": b"#id," + b"x," * 8_000_000,
    "16 MB of blank lines": b"\n" * 16_000_000,
    "one line of 16 MB": b"x" * 16_000_000,
    "16 MB of opening quotes": b'#id,"' * 3_200_000,
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_huge_body_is_kept_and_costs_this_process_no_memory(world, report, kind):
    report(kind, QUARANTINED)
    body = HUGE[kind]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = world.fetch(Says(lambda: world.now, [body]))
    assert isinstance(result, IngestResult), result
    assert result.fault is not None
    assert world.truth.get(result.key) == body
    assert not list(world.spool.waiting())
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert more < 100 * 2**10, f"{more // 2**10} MB"
    world.verify(QUARANTINED)


def test_names_of_the_release_before_are_delivered(feed_world, city, report):
    report("bodies spooled by the release before", QUARANTINED)
    world, _ = feed_world
    world.spool.folder.mkdir(parents=True)
    run = "11111111-2222-3333-4444-555555555555"
    for n, (kind, tail, body) in enumerate(
        [("raw", "", city.snapshot(NOON)), ("raw", f".{run}", city.snapshot(NOON + MINUTE)), ("quarantine", "", b"<p>")]
    ):
        at = NOON + n * MINUTE
        (world.spool.folder / f"{at:%Y%m%dT%H%M%S.%f}Z.{kind}{tail}.body").write_bytes(body)
        world.served.append((at, body))
    world.now += 5 * MINUTE
    assert len(world.fetch().delivered.keys) == 3
    assert world.process(), world.failures
    world.verify(QUARANTINED)


def _leave_no_stranger(world: Harness) -> None:
    """The verifier looks for leftovers; what was set aside is a person's to remove."""
    for path in (world.spool.folder / ASIDE).rglob("*"):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
