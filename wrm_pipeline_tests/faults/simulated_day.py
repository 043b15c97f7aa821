"""A day at speed: each minute a fetch, every few minutes what the reconciliation asks for, and random trouble.

    python -m wrm_pipeline_tests.faults.simulated_day --minutes 1440 --seed 7

Every request to the feed and every call of the store meets a fault with a probability of 5 %; the store goes away in
mid-run now and then, and for an hour and ten minutes besides. What is done at a minute is done by a process of its
own, forked as a run is (`warm_runs`). These processes and their parent are killed by SIGKILL at random moments, and
for a while the parent's clock is a day ahead. Afterwards every snapshot that the feed served within a successful
fetch must be published once, byte for byte and row for row, and so must every body that was in the spool when its
process was killed. The days are the two around the hour that comes twice.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from tabulate import tabulate

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.breaker import Breaker, Breakers
from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.clients.feed import FetchedBody
from wrm_pipeline.clients.feed_memory import FeedMemory
from wrm_pipeline.clients.retry import RetryPolicy
from wrm_pipeline.domain.feeds import FeedKind
from wrm_pipeline.domain.parquet_parts import ParquetParts
from wrm_pipeline.flows.ingest import IngestResult
from wrm_pipeline.flows.watch import plan_reconciliation_runs
from wrm_pipeline.lake.spool import Kind, Spool, SpooledBody
from wrm_pipeline.settings import load_settings
from wrm_pipeline.simulator.city import City
from wrm_pipeline.simulator.misbehaviour import Misbehaviour, Tuning
from wrm_pipeline.simulator.server import SimulatedFeed, serve
from wrm_pipeline_tests.faults.harness import Harness, is_snapshot, local_day
from wrm_pipeline_tests.fixtures.forked import ForkedTask, parents_of
from wrm_pipeline_tests.fixtures.lake import WatchedStore
from wrm_pipeline_tests.fixtures.shifted_clock import DAY_S, NoCompilerError, ShiftedClock

START = datetime(2026, 10, 24, 12, 0, 2, tzinfo=UTC)
FAULT_SHARE = 0.05
KILLED_FETCHES, KILLED_OTHERS = 0.05, 0.15
# One kill of the parent for so many minutes.
PARENT_LIVES = 120
EVERY = 15  # minutes between two looks of the reconciliation
# Two attempts, so that some calls fail in spite of them.
TWICE = RetryPolicy(attempts=2, deadline_s=5, base_wait_s=0.001, max_wait_s=0.002)
TUNING = Tuning(retry_after="0", hang_s=0.6, drip_bytes=4096, drip_pause_s=0.01, oversize_bytes=3 * 2**20)


# --- the worker process ---


@dataclass
class Trouble:
    """Decides which calls of the store fail, and how."""

    dice: random.Random
    share: float = FAULT_SHARE
    calls_left: int | None = None
    count: int = 0

    @property
    def away(self) -> bool:
        return self.calls_left == 0

    def meets(self) -> bool:
        hit = self.away or self.dice.random() < self.share
        if self.calls_left:
            self.calls_left -= 1
        self.count += hit
        return hit


class TroubledStore(WatchedStore):
    """A store whose calls fail now and then, before or (writes) after they were carried out; one retry layer."""

    trouble: Trouble
    breaker: Breaker

    def _call(self, operation: str, key: str, action: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            lost = self.trouble.meets()
            if lost and (self.trouble.away or operation not in {"put", "delete"} or self.trouble.dice.random() < 0.5):
                raise TransientError("injected", "store", operation, key)
            result = action()
            if lost:
                raise TransientError("injected, after it was carried out", "store", operation, key)
            return result

        return retry.call(attempt, target="store", operation=operation, policy=TWICE, name=key, breaker=self.breaker)

    def list(self, prefix: str, *, start_after: str = "") -> Any:
        return iter(self._call("list", prefix, lambda: [*self.inner.list(prefix, start_after=start_after)]))

    def list_folders(self, prefix: str) -> Any:
        return self._call("list_folders", prefix, lambda: self.inner.list_folders(prefix))

    def get(self, key: str) -> bytes:
        return self._call("get", key, lambda: self.inner.get(key))

    def stat(self, key: str) -> Any:
        return self._call("stat", key, lambda: self.inner.stat(key))

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: self.inner.delete(key))

    def put(self, key: str, body: Any, **kwargs: Any) -> Any:
        return self._call("put", key, lambda: self.inner.put(key, body, **kwargs))

    def put_if_absent(self, key: str, body: bytes, **kwargs: Any) -> bool:
        return self._call("put_if_absent", key, lambda: self.inner.put_if_absent(key, body, **kwargs))


@dataclass
class Journal:
    """What fetches gave, on the disk as soon as they have it."""

    folder: Path

    def keep(self, fetched: FetchedBody) -> None:
        path = self.folder / f"{fetched.fetched_at.timestamp():.0f}"
        path.with_suffix(".part").write_bytes(fetched.body)
        path.with_suffix(".part").rename(path)

    def mark_spooled(self, at: datetime) -> None:
        """From now on the body must not be lost, whichever process is killed."""
        (self.folder / f"{at.timestamp():.0f}.spooled").touch()

    def was_spooled(self, at: datetime) -> bool:
        return (self.folder / f"{at.timestamp():.0f}.spooled").exists()

    def read(self) -> list[tuple[datetime, bytes]]:
        paths = sorted(path for path in self.folder.iterdir() if not path.suffix)
        return [(datetime.fromtimestamp(int(path.name), UTC), path.read_bytes()) for path in paths]


@dataclass
class JournaledFeed:
    feed: Any
    journal: Journal

    @property
    def kind(self) -> FeedKind:
        return self.feed.kind

    @property
    def memory(self) -> FeedMemory | None:
        return self.feed.memory

    def fetch(self, *, correlation_id: str = "") -> FetchedBody:
        fetched = self.feed.fetch(correlation_id=correlation_id)
        self.journal.keep(fetched)
        return fetched


def work(orders: Connection, environ: dict[str, str], feed_url: str, journal: Path, seed: int) -> None:
    """Obey an order, or more until the pipe closes or the process is killed."""
    os.environ.update(environ)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for this process's life
    from wrm_pipeline.clients import feed as feed_module

    feed_module.READ_TIMEOUT_S = 0.4
    _mark_spooled_bodies(Journal(journal))
    world = Harness(load_settings())
    breakers = Breakers(world.settings.breaker_dir, now=lambda: world.now)
    store = TroubledStore(world.truth)
    store.trouble, store.breaker = Trouble(random.Random(seed)), breakers.of("s3")
    world.store = store
    with suppress(EOFError):
        while True:
            order = orders.recv()
            world.now = datetime.fromisoformat(order["at"])
            store.trouble.calls_left, store.trouble.share = order["calls_left"], order["share"]
            store.trouble.count = 0
            world.failures.clear()
            answer: dict[str, Any] = {}
            if order["do"] == "fetch":
                world.feed_url = f"{feed_url}&at={order['at'].replace('+00:00', 'Z')}"
                feed = world.feed(breaker=breakers.of("feed"), max_bytes=2**20)
                result = world.fetch(JournaledFeed(feed, Journal(journal)))
                if isinstance(result, IngestResult):
                    answer = {
                        "kept": True,
                        "spooled": result.spooled,
                        "duplicate": result.duplicate,
                        "fault": bool(result.fault),
                        "delivered": len(result.delivered.keys),
                    }
            elif order["do"] == "look":
                try:
                    plan = plan_reconciliation_runs(
                        store,
                        world.layout,
                        order["cursor"],
                        area=world.settings.area,
                        now=world.now,
                        today=local_day(world.now),
                        started=frozenset(),
                    )
                    answer = {"days": [run.dt.isoformat() for run in plan.runs], "cursor": plan.cursor}
                except TransientError as error:
                    world.failures.append(str(error))
            else:
                world.process(date.fromisoformat(order["day"]))
            orders.send(answer | {"failures": list(world.failures), "faults": store.trouble.count})


def _mark_spooled_bodies(journal: Journal) -> None:
    add = Spool.add

    def add_and_mark(spool: Spool, kind: Kind, fetched_at: datetime, body: bytes, **others: Any) -> SpooledBody:
        added = add(spool, kind, fetched_at, body, **others)
        journal.mark_spooled(fetched_at)
        return added

    Spool.add = add_and_mark  # type: ignore[method-assign]


# --- the day ---


@dataclass
class Figures:
    """What happened."""

    fetches: int = 0
    fetches_without_an_answer: int = 0
    fetches_killed: int = 0
    snapshots_kept: int = 0
    quarantined: int = 0
    duplicates: int = 0
    spooled: int = 0
    delivered_late: int = 0
    most_waiting: int = 0
    feed_requests: int = 0
    feed_faults: int = 0
    store_faults: int = 0
    builds: int = 0
    builds_failed: int = 0
    builds_killed: int = 0
    parents_killed: int = 0
    minutes_with_the_clock_ahead: int = 0
    looks_failed_or_killed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


class DayProcess(ForkedTask):
    """A process of the day, forked from the day's own parent."""


class Worker:
    """Has each order carried out by a new process.

    Args:
        clock: What its processes take the time from; None: the machine's.
    """

    def __init__(self, feed_url: str, journal: Path, dice: random.Random, clock: ShiftedClock | None) -> None:
        self._arguments = (feed_url, journal)
        self._dice = dice
        self._process: Any = None
        self.clock = clock
        self.parents_killed = 0
        DayProcess.parents = self._parents = parents_of(__name__)

    def order(self, killed_after_s: float | None, *, kills_parent: bool = False, **order: Any) -> dict[str, Any] | None:
        """Have something done; None if the process was killed before it had answered."""
        orders, theirs = Pipe()
        environ = {name: value for name, value in os.environ.items() if name.startswith(("WRM_", "DAGSTER"))}
        with _environment(self.clock.environment if self.clock else {}):  # of a parent, if one is started
            self._process = DayProcess(
                target=work, args=(theirs, environ, *self._arguments, self._dice.getrandbits(32)), daemon=True
            )
            self._process.start()
        theirs.close()
        orders.send(order)
        if kills_parent:
            self._kill_parent()
        answer = None
        try:
            if killed_after_s is None or orders.poll(killed_after_s):
                answer = orders.recv()
        except EOFError:
            raise SystemExit(f"The process ended by itself at {order}.") from None
        if answer is None:
            os.kill(self._process.pid, signal.SIGKILL)
        orders.close()
        self._process.join(60)
        assert self._process.exitcode is not None, "the process of an order does not end"
        return answer

    def _kill_parent(self) -> None:
        """The order that is being carried out must come to its end, and the next one get a new parent."""
        parent = self._parents._parent
        assert parent is not None
        os.kill(parent.pid, signal.SIGKILL)
        self.parents_killed += 1

    def stop(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._parents._retire()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


class Day:
    """Orders of a day, its trouble and its figures."""

    def __init__(self, minutes: int, seed: int, worker: Worker, feed: SimulatedFeed) -> None:
        self.feed = feed
        feed.misbehave_at_random(FAULT_SHARE, seed)
        self.dice = random.Random(seed)
        self.minutes = minutes
        self.worker = worker
        self.figures = Figures()
        self.kept: set[int] = set()
        self.killed: set[int] = set()
        self.cursor: str | None = None
        self.faults = True
        # Fetches take tenths of a second, builds up to a second: kills fall anywhere in them.
        self._took = {"fetch": 0.1, "look": 0.1, "build": 0.5}
        first, second = self.dice.randrange(minutes // 4, minutes // 2), self.dice.randrange(minutes // 2, minutes)
        self.kills_parent = {self.dice.randrange(minutes) for _ in range(-(-minutes // PARENT_LIVES))}
        ahead = self.dice.randrange(minutes // 4)
        self.ahead = range(ahead, ahead + minutes // 4) if worker.clock else range(0)
        self.away = {*range(first, first + min(60, minutes // 8)), *range(second, second + 10)}

    def order(self, minute: int, do: str, chance: float, **more: Any) -> dict[str, Any] | None:
        killed = self.faults and self.dice.random() < chance
        started = time.monotonic()
        answer = self.worker.order(
            self.dice.uniform(0, self._took[do]) if killed else None,
            do=do,
            at=(START + timedelta(minutes=minute)).isoformat(),
            kills_parent=do == "fetch" and minute in self.kills_parent,
            calls_left=self._calls_left(minute),
            share=FAULT_SHARE if self.faults else 0.0,
            **more,
        )
        if answer is not None:
            self._took[do] = time.monotonic() - started
            self.figures.store_faults += answer["faults"]
        return answer

    def _calls_left(self, minute: int) -> int | None:
        """After how many calls the store goes away; None if it stays."""
        if self.faults and minute in self.away:
            return 0
        return self.dice.randrange(12) if self.faults and self.dice.random() < FAULT_SHARE else None

    def fetch(self, minute: int) -> None:
        f, at = self.figures, int((START + timedelta(minutes=minute)).timestamp())
        f.fetches += 1
        answer = self.order(minute, "fetch", KILLED_FETCHES)
        if answer is None:
            f.fetches_killed += 1
            self.killed.add(at)
        elif not answer.get("kept"):
            f.fetches_without_an_answer += 1
        else:
            f.snapshots_kept += 1
            f.quarantined += answer["fault"]
            f.duplicates += answer["duplicate"]
            f.spooled += answer["spooled"]
            f.delivered_late += answer["delivered"]
            self.kept.add(at)
        f.most_waiting = max(f.most_waiting, len(list(Path(os.environ["WRM_DATA_DIR"], "spool").glob("*.body"))))

    def look(self, minute: int) -> int:
        """Build what the reconciliation asks for; gives how many days that was."""
        f = self.figures
        answer = self.order(minute, "look", KILLED_OTHERS, cursor=self.cursor if self.faults else None)
        if answer is None or answer["failures"]:
            f.looks_failed_or_killed += 1
            return 0
        self.cursor = answer["cursor"]
        for day in answer["days"]:
            f.builds += 1
            built = self.order(minute, "build", KILLED_OTHERS, day=day)
            f.builds_killed += built is None
            f.builds_failed += built is not None and bool(built["failures"])
        return len(answer["days"])

    def run(self) -> None:
        for minute in range(self.minutes):
            self._set_clock(minute)
            self.fetch(minute)
            if minute % EVERY == EVERY - 1:
                self.look(minute)
        self._set_clock(self.minutes)
        # The trouble is over: what the next minutes and looks do in peace.
        self.faults = False
        self.feed.misbehave_at_random(0, 0)
        minute = self.minutes
        while any(Path(os.environ["WRM_DATA_DIR"], "spool").glob("*.body")) or minute == self.minutes:
            minute += 2
            self.fetch(minute)
        while self.look(minute := minute + 420):
            pass

    def _set_clock(self, minute: int) -> None:
        if self.worker.clock:
            self.worker.clock.shift(DAY_S if minute in self.ahead else 0)


def count_faults(feed: SimulatedFeed, figures: Figures) -> None:
    draw = feed._next_fault

    def counted(*arguments: Any) -> Misbehaviour | None:
        kind = draw(*arguments)
        figures.feed_faults += kind is not None
        figures.kinds[str(kind)] += kind is not None
        return kind

    feed._next_fault = counted  # type: ignore[method-assign]


def check(day: Day, journal: Journal) -> tuple[Harness, int]:
    """All that was kept is published once; gives the world and how many fetches died before the disk had them."""
    world = Harness(load_settings())
    stored = world.contents("raw/") | world.contents("quarantine/")
    died, before = 0, b""
    for at, body in journal.read():
        unix = int(at.timestamp())
        kind = "raw" if is_snapshot(body, at) else "quarantine"
        if unix in day.kept or stored.get(world.key(kind, at)) == body:
            world.served.append((at, body))
            before = body
        else:
            assert unix in day.killed, f"the fetch of {at} neither failed nor was killed, and was not kept"
            assert not journal.was_spooled(at) or body == before, f"the body of {at} was on the disk, and is lost"
            died += 1
    served = {int(at.timestamp()) for at, _ in world.served}
    assert len(day.kept) > day.minutes / 2, f"of {day.minutes} fetches only {len(day.kept)} kept a snapshot"
    assert day.kept <= served, "a fetch that succeeded is not in the journal"
    assert not list(world.spool.waiting())
    world.check()
    return world, died


def clock_in(folder: Path) -> ShiftedClock | None:
    """A clock that can be set, or None if there is no compiler to make it."""
    try:
        return ShiftedClock(folder)
    except NoCompilerError as error:
        say(f"The clock stays right: {error}")
        return None


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=1440)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--stations", type=int, default=260)
    parser.add_argument("--bikes", type=int, default=150)
    arguments = parser.parse_args(argv)
    say(f"seed {arguments.seed}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wrm-day-") as folder:
        os.environ["WRM_DATA_DIR"] = f"{folder}/data"
        journal = Journal(Path(folder, "served"))
        journal.folder.mkdir()
        city = City(arguments.seed, arguments.stations, arguments.bikes)
        with serve(city, tuning=TUNING) as feed:
            worker = Worker(feed.url, journal.folder, random.Random(arguments.seed), clock_in(Path(folder)))
            day = Day(arguments.minutes, arguments.seed, worker, feed)
            count_faults(feed, day.figures)
            try:
                day.run()
            finally:
                worker.stop()
            day.figures.feed_requests = feed.requests
            day.figures.parents_killed, day.figures.minutes_with_the_clock_ahead = worker.parents_killed, len(day.ahead)
        worked_s = time.monotonic() - started
        try:
            world, died = check(day, journal)
        except AssertionError:
            say(f"NOT ALL IS WELL (seed {arguments.seed}): {traceback.format_exc()[-4000:]}")
            return 1
        show(day, world, died, worked_s, time.monotonic() - started)
    return 0


def show(day: Day, world: Harness, died: int, worked_s: float, seconds: float) -> None:
    """The closing figures."""
    figures = {name.replace("_", " "): value for name, value in asdict(day.figures).items() if name != "kinds"}
    raw = world.contents("raw/")
    letters = [json.loads(body) for body in world.contents("dlq/").values()]
    rows = sum(ParquetParts.open(body).row_count for body in world.contents("enhanced/").values())
    figures |= {
        "kinds of feed faults met": len(day.figures.kinds),
        "minutes without the store": len(day.away),
        "killed before the disk had the body": died,
        "snapshots under raw/": len(raw),
        "partitions": len(world.keys("processed/")),
        "rows published, each once": rows,
        "dead letters": len(letters),
        "records in them": sum(letter["records_total"] for letter in letters),
        "lost": 0,
        "doubled": 0,
        "seconds": f"{worked_s:.0f}, and {seconds - worked_s:.0f} to check",
    }
    say(tabulate(figures.items(), tablefmt="plain", intfmt=","))


if __name__ == "__main__":
    # Its processes load the module under its name.
    from wrm_pipeline_tests.faults.simulated_day import main as main_of_the_module

    sys.exit(main_of_the_module())
