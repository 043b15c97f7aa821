"""A process that is forked from: its children, their ends, and its own."""

from __future__ import annotations

import atexit
import importlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver, get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from wrm_pipeline.clients import warm_parent
from wrm_pipeline.clients.warm_parent import ForkedProcess, Load, NotForkedError, Parent
from wrm_pipeline_tests.integration.conftest import wait_until

loaded: list[str] = []


def load(argument: str) -> None:
    loaded.append(argument)


def load_arrow(_: str) -> None:
    importlib.import_module("pyarrow")


def use_arrow_a_little() -> float:
    """MB that the process has of its own more than before."""
    import pyarrow as pa

    before = psutil.Process().memory_full_info().uss
    stream = pa.BufferOutputStream()
    stream.write(b"x" * 100_000)
    return (psutil.Process().memory_full_info().uss - before) / 1e6


def load_with_a_thread(_: str) -> None:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def load_then_start_a_thread_later(argument: str) -> None:
    load(argument)
    os.register_at_fork(after_in_parent=lambda: load_with_a_thread(""))


def load_when_it_is_there(path: str) -> None:
    wait_until(Path(path).exists, timeout_s=30, what="the test must make the file")


def end(status: int) -> None:
    # Not passed by itself: coverage replaces it by a closure, which cannot be pickled.
    os._exit(status)


def fail_to_load(_: str) -> None:
    raise ValueError("nothing to load")


def register_for_the_end(path: Path) -> None:
    atexit.register(path.touch)


def say(queue: Any, say_what: Callable[[], Any]) -> None:
    queue.put(say_what())


def what_it_is() -> dict[str, Any]:
    loaded.append("of this child")
    descriptors = psutil.Process().num_fds()
    return {
        "loaded": list(loaded),
        "parent": os.getppid(),
        "threads": warm_parent.threads(),
        "random": random.random(),
        "descriptors": descriptors,
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    }


class Children:
    """Starts processes as multiprocessing does, all from one parent."""

    def __init__(self, function: Callable[[str], None]) -> None:
        self.parent = Parent(Load(f"{__name__}:{function.__name__}", "once"))
        self.context = get_context("spawn")

    def start(self, target: Callable[..., Any], *args: Any) -> SpawnProcess:
        process = _process_of(self.parent)(target=target, args=args)
        process.start()
        return process

    def ask(self, say_what: Callable[[], Any] = what_it_is) -> Any:
        queue = self.context.Queue()
        process = self.start(say, queue, say_what)
        try:
            return queue.get(timeout=30)
        finally:
            process.join(30)
            assert process.exitcode == 0
            queue.close()
            queue.join_thread()

    def end(self) -> None:
        self.parent.retire()
        wait_until(lambda: self.parent.status() is not None, timeout_s=10, what="the parent must end")


class _Forked(SpawnProcess):
    parent: Any

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - multiprocessing's name
        parent = process.__dict__.pop("parent")  # it stays here
        return ForkedProcess(process, parent)


def _process_of(parent: Parent) -> Callable[..., SpawnProcess]:
    def make(**arguments: Any) -> SpawnProcess:
        process = _Forked(**arguments)
        process.parent = parent
        return process

    return make


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    children = Children(load)
    yield children
    children.end()


def test_a_child_finds_what_was_loaded_and_leaves_nothing_to_the_next(children: Children) -> None:
    first, second = children.ask(), children.ask()
    assert first["loaded"] == second["loaded"] == ["once", "of this child"]
    assert first["parent"] == children.parent.pid
    assert first["threads"] == 1
    assert first["interrupt"]
    assert first["random"] != second["random"]


def test_the_parent_has_one_thread_and_keeps_no_descriptors(children: Children) -> None:
    children.ask()
    parent = psutil.Process(children.parent.pid)
    here, before, in_child = psutil.Process().num_fds(), parent.num_fds(), children.ask()["descriptors"]
    for _ in range(20):
        children.ask()
    assert psutil.Process().num_fds() == here
    assert children.ask()["descriptors"] <= in_child
    wait_until(lambda: parent.num_fds() <= before, timeout_s=5, what="the parent must close what its children had")
    assert parent.num_threads() == 1


@pytest.mark.parametrize(
    ("target", "argument", "code"), [(end, 3, 3), (os.kill, signal.SIGKILL, -9), (fail_to_load, "", 1)]
)
def test_how_a_child_ended_is_known(children: Children, target: Any, argument: Any, code: int) -> None:
    if target is os.kill:
        process = children.start(time.sleep, 60)
        assert process.exitcode is None
        assert process.pid is not None
        os.kill(process.pid, argument)
    else:
        process = children.start(target, argument)
    process.join(30)
    assert process.exitcode == code
    assert children.ask()["parent"] == children.parent.pid


def test_threads_that_ask_at_once_get_the_same_status(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    read = forkserver.read_signed
    process = children.start(end, 3)

    def read_slowly(fd: int) -> int:
        time.sleep(0.05)  # the others come to this point meanwhile
        return read(fd)

    monkeypatch.setattr(forkserver, "read_signed", read_slowly)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: process._popen.wait(30), range(4))) == {3}  # type: ignore[attr-defined]


def test_children_of_a_killed_parent_go_on_and_their_end_is_seen() -> None:
    children = Children(load)
    process = children.start(time.sleep, 60)
    os.kill(children.parent.pid, signal.SIGKILL)
    assert children.parent.status(wait=True) == -signal.SIGKILL
    assert process.is_alive()
    assert process.pid is not None
    with pytest.raises(NotForkedError, match=r"does not take requests|ended with status -9"):
        children.start(time.sleep, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert process.exitcode == warm_parent._STATUS_LOST


def test_it_says_when_it_has_loaded(tmp_path: Path) -> None:
    there = tmp_path / "there"
    parent = Parent(Load(f"{__name__}:{load_when_it_is_there.__name__}", str(there)))
    assert not parent.has_loaded(0)
    there.touch()
    assert parent.has_loaded(30)
    assert parent.has_loaded(0)
    parent.retire()
    assert not parent.has_loaded(0)
    broken = Parent(Load(f"{__name__}:{fail_to_load.__name__}", ""))
    assert not broken.has_loaded(30)
    assert broken.status(wait=True) == 1


def test_a_retired_parent_stays_until_its_children_have_ended() -> None:
    children = Children(load)
    process = children.start(time.sleep, 60)
    children.parent.retire()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == -signal.SIGTERM
    wait_until(lambda: children.parent.status() == 0, timeout_s=10, what="the parent must end")


def test_a_child_can_be_terminated_although_the_server_ignores_that() -> None:
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a server of Dagster's in the background of a shell
    try:
        children = Children(load)
    finally:
        signal.signal(signal.SIGTERM, handler)
    process = children.start(time.sleep, 60)
    process.terminate()
    process.join(30)
    assert process.exitcode == -signal.SIGTERM
    children.parent.retire()


@pytest.mark.parametrize("function", [load_with_a_thread, fail_to_load])
def test_a_parent_that_has_a_thread_or_cannot_load_forks_nothing(function: Callable[[str], None]) -> None:
    children = Children(function)
    with pytest.raises(NotForkedError, match="ended with status 1"):
        children.start(time.sleep, 60)


def test_a_parent_that_gets_a_thread_later_refuses() -> None:
    children = Children(load_then_start_a_thread_later)
    children.ask()
    with pytest.raises(NotForkedError, match="did not fork"):
        children.start(time.sleep, 60)
    children.end()


def test_a_child_that_uses_arrow_a_little_takes_little_memory() -> None:
    children = Children(load_arrow)
    try:
        assert children.ask(use_arrow_a_little) < 3
    finally:
        children.parent.retire()


def test_what_a_child_registers_for_its_end_is_done(children: Children, tmp_path: Path) -> None:
    children.start(register_for_the_end, tmp_path / "ended").join(30)
    assert (tmp_path / "ended").exists()
