"""Measure, print the table, and with --write keep it."""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from wrm_pipeline_tests.bench import figures
from wrm_pipeline_tests.bench.figures import Figure, Machine
from wrm_pipeline_tests.bench.groups import GROUPS, SLOW_GROUPS
from wrm_pipeline_tests.bench.measures import Bench
from wrm_pipeline_tests.bench.processes import REPOSITORY

_DOCUMENT = REPOSITORY / "docs" / "performance.md"
_HISTORY = REPOSITORY / "docs" / "performance-history.csv"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 if a group failed or, with --strict, a figure is not as wanted."""
    parser = argparse.ArgumentParser(prog="python -m wrm_pipeline_tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, once: does it run? Judges nothing")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a figure is not as wanted")
    parser.add_argument("--write", action="store_true", help=f"keep the table in docs/{_DOCUMENT.name} and the history")
    parser.add_argument("--only", choices=list(GROUPS), action="append", help="measure this group (repeatable)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of steady state for `service` (%(default)s)")
    options = parser.parse_args(arguments)
    if options.write and (options.quick or options.only or options.minutes < parser.get_default("minutes")):
        parser.error("--write keeps whole runs of the full size only")

    # An end from outside, too, removes the folder and stops what is being measured.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # In a shell's background SIGINT is ignored, its children inherit that, and a code server then ignores SIGTERM, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    machine = Machine.this_one()
    start = time.monotonic()
    found: list[Figure] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="wrm-bench-") as folder:
        bench = Bench(
            Path(folder),
            options.quick,
            lambda text: _say(f"{time.monotonic() - start:5.0f} s  {text}"),
            options.minutes,
        )
        for name in options.only or [name for name in GROUPS if not (options.quick and name in SLOW_GROUPS)]:
            try:
                found += GROUPS[name](bench)
            except Exception:  # noqa: BLE001 - the others are measured all the same: a whole run takes most of an hour
                failed.append(name)
                _say(f"{name} failed:\n{traceback.format_exc()}")
    if options.quick:
        found = [Figure(f.name, f.what, f.value, f.unit) for f in found]
    sys.stdout.write(f"{machine}\n\n{figures.table(found)}\n")
    missed = [f for f in found if f.passed is False]
    _say(f"{len(missed)} of {len(found)} figures are not as wanted; {time.monotonic() - start:.0f} s")
    if failed:
        _say(f"failed, so without all of their figures (the reasons are above): {', '.join(failed)}")
    if options.write:
        figures.write_document(_DOCUMENT, machine, found)
        figures.append_history(_HISTORY, machine, found)
    return 1 if failed or (options.strict and missed) else 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
