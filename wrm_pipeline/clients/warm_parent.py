"""A process that has loaded the code once, and is forked for each task that needs its own process.

It is multiprocessing's fork server, adapted to a long-running service:

- It is reached by a socket pair that only the process that started it has: no path, so other accounts cannot connect to
  it, and a kill leaves nothing behind. When that process is gone, it ends after its children.
- It does not fork unless it has one thread, so no child inherits a lock that is held. Libraries that start threads
  when they are loaded are configured not to (`_LIBRARIES`).
- When it is killed its children continue, and their end is still noticed (`ForkedProcess.poll`); multiprocessing would
  consider them dead.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import select
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import forkserver, popen_forkserver, reduction, resource_tracker, spawn, util
from multiprocessing.connection import wait
from multiprocessing.context import set_spawning_popen
from pathlib import Path
from typing import Any, cast

# Read by libraries when they are loaded. OpenBLAS (numpy's and scipy's) starts a thread for each core, Arrow's jemalloc
# one that returns memory. Arrow's mimalloc takes its first GB as huge pages: 25 MB in each child for a minute's few kB.
_LIBRARIES = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MIMALLOC_ARENA_EAGER_COMMIT": "0",
}

_MAX_MESSAGE = 65_536
_MAX_FDS = 64
_THREADS = Path("/proc/self/task")

# multiprocessing's status of a process whose real status is unknown: it ended after its parent was killed.
_STATUS_LOST = 255


# In place of a process id: this request failed, the next one may succeed.
_REFUSED = -1

# What the parent sends once it can fork.
_LOADED = b"L"


class NotForkedError(RuntimeError):
    """The parent did not fork: it could not load the code, has more than one thread, or was killed."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the parent does before it forks for the first time.

    Attributes:
        function: `module:name` of a function of one string.
        argument: That string.
        modules: Loaded as well, if they are installed. They must start no thread.
    """

    function: str
    argument: str
    modules: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Do it."""
        module, _, name = self.function.partition(":")
        getattr(importlib.import_module(module), name)(self.argument)
        for preloaded in self.modules:
            with suppress(ImportError):
                importlib.import_module(preloaded)


class Parent:
    """The parent, seen from the process that started it. It loads while that process goes on.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, load: Load) -> None:
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = f"from {__name__} import serve; serve({its.fileno()})"
            executable = os.fsdecode(spawn.get_executable())
            arguments = [executable, *util._args_from_interpreter_flags(), "-c", command]  # type: ignore[attr-defined]
            self.pid: int = util.spawnv_passfds(os.fsencode(executable), arguments, [its.fileno()])
        place = {name: _preparation("")[name] for name in ("sys_path", "dir")}
        self._socket.send(json.dumps({**asdict(load), **place}).encode())
        self._status: int | None = None

    def status(self, *, wait: bool = False) -> int | None:
        """How it ended (negative: by that signal), or None as long as it runs; asking also removes a zombie."""
        if self._status is None:
            ended, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if ended else None
        return self._status

    def has_loaded(self, wait_s: float) -> bool:
        """Whether it can fork now, or will within `wait_s`; False as well if it has ended before that."""
        try:
            return bool(wait([self._socket], wait_s)) and self._socket.recv(1, socket.MSG_PEEK) == _LOADED
        except (OSError, ValueError):  # retired meanwhile
            return False

    def fork(self, fds: Sequence[int]) -> None:
        """Request a child that receives `fds`: data, status, resource tracker, and what its work needs.

        Raises:
            NotForkedError: the parent is gone.
        """
        try:
            socket.send_fds(self._socket, [b"F"], fds)
        except OSError as error:
            raise NotForkedError(f"process {self.pid} does not take requests ({error})") from error

    def retire(self) -> None:
        """Take no more requests; the process ends when its children have ended."""
        self._socket.close()


class ForkedProcess(popen_forkserver.Popen):
    """A started `multiprocessing.Process`, forked from a parent.

    Raises:
        NotForkedError: the parent did not fork.
    """

    def __init__(self, process: Any, parent: Parent) -> None:
        self._parent = parent
        self._fds: list[int]  # what the process is given by `duplicate_for_child`
        self._pidfd: int | None = None
        self._reading = threading.Lock()
        self._status_is_lost = False
        super().__init__(process)

    def _launch(self, process: Any) -> None:
        buffer = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(_preparation(process.name), buffer)
            reduction.dump(process, buffer)
        finally:
            set_spawning_popen(None)
        status_r, status_w = os.pipe()
        data_r, data_w = os.pipe()
        try:
            try:
                self._parent.fork([data_r, status_w, cast("int", resource_tracker.getfd()), *self._fds])
            finally:
                os.close(data_r)
                os.close(status_w)
            # The child sees by the other end of this pipe that we are gone.
            alive = os.dup(data_w)
        except BaseException:
            os.close(status_r)
            os.close(data_w)
            raise
        self.sentinel = status_r
        try:
            # A parent that refuses does not read it.
            with suppress(BrokenPipeError), open(data_w, "wb", closefd=True) as file:  # noqa: PTH123 - a descriptor
                file.write(buffer.getbuffer())
            self.pid = forkserver.read_signed(status_r)
        except (OSError, EOFError) as error:
            os.close(status_r)
            os.close(alive)
            how = self._parent.status(wait=True)  # all ends of the pipe are closed, so it is gone
            raise NotForkedError(f"process {self._parent.pid} ended with status {how}") from error
        if self.pid == _REFUSED:
            os.close(status_r)
            os.close(alive)
            raise NotForkedError(f"process {self._parent.pid} did not fork; stderr has the reason")
        with suppress(OSError, AttributeError):  # it has ended already; there are none on this system
            self._pidfd = os.pidfd_open(self.pid)
        fds = [alive, status_r, *([] if self._pidfd is None else [self._pidfd])]
        self.finalizer = util.Finalize(self, _close, fds)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit status, or None as long as the process runs (`flag` 0: wait for its end)."""
        timeout = 0 if flag == os.WNOHANG else None
        if self.returncode is None and not wait([self.sentinel], timeout):
            return None
        with self._reading:  # it can be read once, and several threads of a code server ask
            if self.returncode is None and not self._status_is_lost:
                try:
                    self.returncode = forkserver.read_signed(self.sentinel)
                except (OSError, EOFError):  # nobody is left who knows it
                    self._status_is_lost = True
        if self.returncode is None:
            if self._outlives_its_parent(timeout):
                return None
            self.returncode = _STATUS_LOST
        return self.returncode

    def _outlives_its_parent(self, timeout: int | None) -> bool:
        if self._pidfd is None:
            return False
        ready, _, _ = select.select([self._pidfd], [], [], timeout)
        return not ready


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def threads() -> int:
    """Number of threads of this process in the kernel, Python's or not; 1 if unknown."""
    return len(list(_THREADS.iterdir())) if _THREADS.exists() else 1


def serve(fd: int) -> None:
    """The parent's whole life: load, then fork for each request until the other end of the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the processes that have work to end
    # What a shell starts in the background ignores SIGINT, and Dagster's servers then SIGTERM as well.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    requests = socket.socket(fileno=fd)
    message = json.loads(requests.recv(_MAX_MESSAGE))
    sys.path[:] = message["sys_path"]
    os.chdir(message["dir"])
    util._close_stdin()  # type: ignore[attr-defined]
    with _set(_LIBRARIES):
        Load(message["function"], message["argument"], tuple(message["modules"]))()
    # Memory is shared with each child until one of them writes on it, and a collection would write on all of it.
    gc.collect()
    gc.freeze()
    if threads() > 1:
        raise SystemExit(f"{threads()} threads run once the code is loaded, so that a fork is not safe.")
    with suppress(OSError):  # nobody wants it any more, which `run` sees
        requests.send(_LOADED)
    _Server(requests).run()


class _Server:
    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._statuses: dict[int, int] = {}
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)  # with a handler, its number is written to the descriptor
        signal.set_wakeup_fd(self._wake_w)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._selector.register(self._requests, selectors.EVENT_READ)
        is_wanted = True
        while is_wanted or self._statuses:
            ready = [key.fd for key, _ in self._selector.select()]
            if self._wake_r in ready:
                os.read(self._wake_r, _MAX_MESSAGE)
                self._reap()
            if is_wanted and self._requests.fileno() in ready:
                try:
                    message, fds, _, _ = socket.recv_fds(self._requests, _MAX_MESSAGE, _MAX_FDS)
                except ConnectionResetError:  # closed before it had read that we have loaded
                    message, fds = b"", []
                if message:
                    self._fork(fds)
                else:
                    is_wanted = False
                    self._selector.unregister(self._requests)

    def _fork(self, fds: list[int]) -> None:
        data_r, status_w, *others = fds
        try:
            if threads() > 1:
                raise OSError(f"{threads()} threads run")  # noqa: TRY301 - to be reported as a fork that failed
            pid = os.fork()
        except OSError as error:
            print(f"No process could be forked: {error}", file=sys.stderr)  # noqa: T201 - as multiprocessing does
            pid = _REFUSED
        if pid == 0:
            self._be_child(data_r, status_w, others)
        with suppress(BrokenPipeError):
            forkserver.write_signed(status_w, pid)
        if pid == _REFUSED:
            os.close(status_w)
        else:
            self._statuses[pid] = status_w
        for fd in (data_r, *others):
            os.close(fd)

    def _be_child(self, data_r: int, status_w: int, others: list[int]) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._requests.close()
            self._selector.close()
            for fd in (self._wake_r, self._wake_w, status_w, *self._statuses.values()):
                os.close(fd)
            tracker, *inherited = others
            resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]
            forkserver._forkserver._inherited_fds = inherited  # type: ignore[attr-defined]
            code = spawn._main(data_r, os.dup(data_r))
            atexit._run_exitfuncs()  # as at the end of a new Python
        except BaseException:  # noqa: BLE001 - the end of a process, as of any other
            sys.excepthook(*sys.exc_info())
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._statuses:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            status_w = self._statuses.pop(pid, None)
            if status_w is None:
                continue
            with suppress(BrokenPipeError):
                forkserver.write_signed(status_w, os.waitstatus_to_exitcode(status))
            os.close(status_w)


def _preparation(name: str) -> dict[str, Any]:
    """Multiprocessing's data about the requesting process, for a child; without its program, which defines no tasks."""
    data: dict[str, Any] = spawn.get_preparation_data(name)
    return {key: value for key, value in data.items() if not key.startswith("init_main")}


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
