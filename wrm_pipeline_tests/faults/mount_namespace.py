"""Scenarios on small, read-only or foreign disks, each in a process with its own mount namespace.

No other process sees its mounts, and they vanish with it. Root may do this everywhere, other users where the kernel
allows user namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path

import pytest

from wrm_pipeline.settings import load_settings
from wrm_pipeline_tests.faults.conftest import CITY
from wrm_pipeline_tests.faults.crash_runner import PROCESSES
from wrm_pipeline_tests.faults.harness import Harness, Says

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)

NO_NAMESPACE = 77


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def enter_namespace() -> None:
    """Give this process its own mount namespace. Raises OSError where that is not allowed."""
    uid, gid = os.getuid(), os.getgid()
    _checked(_libc.unshare(_NEWNS | (_NEWUSER if uid else 0)), "unshare")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _checked(_libc.mount(b"none", b"/", None, _REC | _PRIVATE, None), "mount --make-rprivate /")


def mount_tmpfs(folder: Path, size_kb: int) -> None:
    """Mount a separate file system at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _checked(_libc.mount(b"none", bytes(folder), b"tmpfs", 0, f"size={size_kb}k".encode()), "mount tmpfs")


def set_read_only(folder: Path, read_only: bool) -> None:
    """Remount a file system that `mount_tmpfs` mounted."""
    flags = _REMOUNT | (_RDONLY if read_only else 0)
    _checked(_libc.mount(b"none", bytes(folder), b"tmpfs", flags, None), "remount")


def fill(folder: Path) -> Path:
    """Use up all space; returns the file to remove afterwards."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


def _main(environ: dict[str, str], module: str, scenario: str, problems: str) -> None:
    os.environ.update(environ)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    try:
        enter_namespace()
    except OSError as error:
        Path(problems).write_text(str(error))
        sys.exit(NO_NAMESPACE)
    file = os.open(problems, os.O_WRONLY | os.O_CREAT)  # opened now: a scenario may lose its rights
    try:
        world = Harness(load_settings())
        world.feed = lambda: Says(lambda: world.now, [CITY.snapshot(world.now)])
        getattr(importlib.import_module(module), scenario)(world)
    except BaseException:  # noqa: BLE001 - it goes to the parent
        os.write(file, traceback.format_exc().encode())
        sys.exit(1)


def run_in_namespace(scenario: object, tmp_path: Path) -> None:
    """Run a scenario, a function of a harness, in its own process; fails or skips as it does."""
    problems = tmp_path / "problems"
    environ = {name: value for name, value in os.environ.items() if name.startswith(("WRM_", "DAGSTER"))}
    module, name = scenario.__module__, scenario.__name__  # type: ignore[attr-defined]
    process = PROCESSES.Process(target=_main, args=(environ, module, name, str(problems)))
    process.start()
    process.join(120)
    said = problems.read_text() if problems.exists() else ""
    if process.exitcode == NO_NAMESPACE:
        pytest.skip(f"no mount namespace here: {said}")
    assert process.exitcode == 0, said
