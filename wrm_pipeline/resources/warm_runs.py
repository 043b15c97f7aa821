"""Runs that start in tenths of a second: forked from a process that has loaded the definitions.

In dagster.yaml, as it is shipped::

    run_launcher:
      module: wrm_pipeline.resources.warm_runs
      class: WarmRunLauncher

Without these lines each run is a new Python that imports Dagster and the definitions, which takes 2.7 s of processor
time.

**Who forks.** A run belongs to the code server, which has the credentials, the memory limit, the release and the
definitions, waits for its runs when it is stopped, cancels them, and reports how they ended. All of this stays: the
launcher asks the code server for a run as `DefaultRunLauncher` does, and `use_warm_runs`, called by the definitions,
has the code server take a process from its `Parent` in place of a new Python. So each code server has a parent of its
own: a reload of the location and a release begin with a new one, and the old one ends with its last run. Code locations
of others, jobs with an executor that is not the in-process one, and runs for which no parent could be started or has
loaded within 20 s, start the ordinary way.

**What a run finds.** What a new Python would find. Where sources, packages, variables or files of settings have changed
(`fingerprint`), the next run gets a new parent.

**Why forking is safe.** A process with one thread holds no lock while it forks. The parent loads and does nothing else,
and refuses to fork if it has a second thread. By library:

- *pyarrow*: its pools of threads are started when they are first used, which is in the run. The background thread of
  its jemalloc, which is not the default pool, is turned off.
- *OpenBLAS*: set to one thread while it is loaded, so matrix products of a run use one core.
- *DuckDB*: `import duckdb` starts a thread, so only its native library is loaded in the parent.
- *gRPC*: the parent makes no channel and no server.
- *SQLAlchemy, boto3, requests, redis*: engines, clients and sockets belong to a Dagster instance or a resource, which
  each run makes for itself. The parent has no instance, and no descriptors but its socket and its children's pipes.
- *Random numbers*: a child's `random` is seeded again by Python, OpenSSL's generator by itself, and NumPy's global one
  by `load_repository`. Dagster's identifiers come from the kernel.
- *Logs*: the handlers of import time hold no file; a run opens its own.
"""

import hashlib
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.code_pointer import FileCodePointer, ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableJob, ReconstructableRepository
from dagster._core.execution import compute_logs
from dagster._core.launcher import DefaultRunLauncher
from dagster._grpc.types import ExecuteExternalJobArgs
from dagster._serdes import deserialize_value, serialize_value

from wrm_pipeline.clients.warm_parent import ForkedProcess, Load, NotForkedError, Parent
from wrm_pipeline.logs import get_logger
from wrm_pipeline.resources.run_output import mirrored

_log = get_logger(__name__)

# A code server has it loaded before our code; other processes do without it.
_SERVER = "dagster._grpc.server"

# What runs import later than the definitions do: shared, and not imported again by each of them. None starts a thread.
PRELOADED = (
    "_duckdb",
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.secrets.env_file",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.system_config.composite_descent",
    "dagster_postgres",
    "holidays.countries",  # 10 MB and 0.1 s of each run of the analytics
    "pandas",
    "pandera.pandas",
    "psycopg2",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "upath.implementations.local",
    "wrm_pipeline.resources.dagster_storage",
    "wrm_pipeline.resources.opened_storage",
    "wrm_pipeline.resources.scheduler",
    "wrm_pipeline.resources.shared_events",
)


# The other one starts runs on other machines, too; it is named, since not every installation has Celery.
_LAUNCHERS = {f"{__name__}.WarmRunLauncher", "wrm_pipeline.resources.celery_runs.HomeOrCeleryRunLauncher"}

# Dagster waits 60 s for a run to start and then tries again; an ordinary start must fit in what is left.
LOAD_WAIT_S = 20.0


class WarmRunLauncher(DefaultRunLauncher):
    """Dagster's `DefaultRunLauncher`, whose runs are forked where the code server can do it (see the module)."""


def use_warm_runs() -> None:
    """Have this process, if it is a code server, fork the runs of instances that are set to `WarmRunLauncher`."""
    if _SERVER in sys.modules:
        context = _Context()
        # Where it takes the processes of runs from. It has no hook; a test fails if a version of Dagster moves it.
        sys.modules[_SERVER].DagsterApiServer._mp_ctx = property(lambda _: context, lambda *_: None)


class RunProcess(SpawnProcess):
    """A run's process."""

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - multiprocessing's name
        repository = _to_be_warm(*process._args[:2])
        forked = _parents.fork(process, repository) if repository else None
        return forked or SpawnProcess._Popen(process)


class _Context(SpawnContext):
    Process = RunProcess


def _to_be_warm(serialized: str, job: ReconstructableJob) -> ReconstructableRepository | None:
    """The repository, if the run's instance wants it to be forked and its job can be."""
    reference = deserialize_value(serialized, ExecuteExternalJobArgs).instance_ref
    launcher = reference.run_launcher_data if reference else None
    if launcher is None or f"{launcher.module_name}.{launcher.class_name}" not in _LAUNCHERS:
        return None
    if not isinstance(job.repository.pointer, FileCodePointer | ModuleCodePointer):
        return None
    in_process = job.get_definition().executor_def.name == dg.in_process_executor.name
    return job.repository if in_process else None


class Parents:
    """The parent of this process's runs, and those before it that still have runs.

    Args:
        version: What a parent must be replaced for if it has changed.
        modules: What a parent loads besides the definitions.
        load_wait_s: How long a run waits for that.
    """

    def __init__(
        self,
        version: Callable[[ReconstructableRepository], str],
        modules: tuple[str, ...] = PRELOADED,
        load_wait_s: float = LOAD_WAIT_S,
    ) -> None:
        self._version = version
        self._modules = modules
        self._load_wait_s = load_wait_s
        self._lock = threading.Lock()
        self._parent: Parent | None = None
        self._wanted: str | None = None
        self._unusable: str | None = None
        self._retired: list[Parent] = []

    def fork(self, process: Any, repository: ReconstructableRepository) -> ForkedProcess | None:
        """Start a `multiprocessing.Process`; None if it must start the ordinary way."""
        for _ in range(2):  # the second time if the parent was killed since the last run
            parent = self._parent_of(repository)
            if parent is None or (not parent.has_loaded(self._load_wait_s) and parent.status() is None):
                break
            try:
                return ForkedProcess(process, parent)
            except NotForkedError as error:
                self._drop(parent, str(error))
        return None

    def _parent_of(self, repository: ReconstructableRepository) -> Parent | None:
        """The parent for a run that starts now; None if there is no use in one."""
        with self._lock:
            self._retired = [parent for parent in self._retired if parent.status() is None]
            wanted = self._version(repository)
            if wanted == self._unusable:
                return None
            if self._parent is not None and (wanted != self._wanted or self._parent.status() is not None):
                self._retire()
            if self._parent is None:
                load = Load(f"{__name__}:{load_repository.__name__}", serialize_value(repository), self._modules)
                try:
                    self._parent, self._wanted = Parent(load), wanted
                except OSError as error:
                    _log.warning("no parent for runs could be started; runs start the ordinary way", reason=str(error))
            return self._parent

    def _drop(self, parent: Parent, reason: str) -> None:
        """Take no more runs from a parent that did not fork."""
        _log.warning("the parent of runs did not fork", reason=reason)
        with self._lock:
            if parent is not self._parent:
                return
            # It ended by itself: what is installed cannot be loaded in it. After a kill the next one may succeed.
            if (parent.status() or -1) > 0:
                self._unusable = self._wanted
            self._retire()

    def _retire(self) -> None:
        if self._parent is not None:
            self._parent.retire()
            self._retired.append(self._parent)
            self._parent = None


def load_repository(serialized: str) -> None:
    """In the parent: what a run would load."""
    # A code server may have a higher priority than ordinary ones; its runs should not take part in it.
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    deserialize_value(serialized, ReconstructableRepository).get_definition().load_all_definitions()
    import numpy as np

    compute_logs.tail_to_stream = mirrored
    os.register_at_fork(after_in_child=np.random.seed)


def fingerprint(repository: ReconstructableRepository) -> str:
    """What the code of a run that starts now would be made of, as a digest.

    Sources, installed packages, variables, and files that settings are read from. It takes 3 ms.
    """
    digest = hashlib.sha256(serialize_value(repository).encode())
    for name, value in sorted(os.environ.items()):
        digest.update(f"{name}={value}\0".encode(errors="surrogateescape"))
    for path in (*_files_of_settings(), *_sources(repository), Path(sysconfig.get_path("purelib"))):
        digest.update(f"{path} {_version(path)}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


_parents = Parents(fingerprint)


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _files_of_settings() -> Iterator[Path]:
    """See `settings`: `NAME_FILE`, and systemd's credentials."""
    for name, value in sorted(os.environ.items()):
        if name.endswith("_FILE") and value:
            yield Path(value)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder:
        yield from _below(Path(folder), "")


def _sources(repository: ReconstructableRepository) -> Iterator[Path]:
    packages = {__name__.partition(".")[0]}
    if isinstance(repository.pointer, FileCodePointer):
        yield Path(repository.pointer.python_file)
    elif isinstance(repository.pointer, ModuleCodePointer):
        packages.add(repository.pointer.module.partition(".")[0])
    for package in sorted(packages):
        module = sys.modules.get(package)
        folders: Iterable[str] = getattr(module, "__path__", ())
        for folder in folders:
            yield from _below(Path(folder), ".py")
        if not folders and module is not None and module.__file__:
            yield Path(module.__file__)


def _below(folder: Path, ending: str) -> Iterator[Path]:
    for name, _, files in os.walk(folder):
        yield from (Path(name, file) for file in sorted(files) if file.endswith(ending))
