"""Finds out what a fetched body is, so that neither an error nor a crash loses this body or any other.

A body is inspected in this process, which takes milliseconds. If an earlier process was killed during an inspection, or
the body is far larger than any snapshot, a separate process does it, with limits on time and memory: whatever happens
to that process, there is a report.
"""

import io
import json
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import datetime

from wrm_pipeline.domain.feeds import UCL, FeedKind
from wrm_pipeline.domain.snapshot import DeadRow, FileFault, FileReport, LineCounts, inspect_fetched

# 40 kB take 5 ms, and 32 MB (WRM_FEED_MAX_BYTES) a few seconds.
APART_SECONDS = 30.0
# Python with Arrow takes 100 MB; beyond that, a multiple of the body.
APART_BYTES, APART_BYTES_PER_BYTE = 768 * 2**20, 3

# Nor is a body a hundred times the usual size inspected in the run's own process.
APART_FROM_BYTES = 4 * 2**20

UNINSPECTED = "inspection_failed"


def inspect_here(body: bytes, fetched_at: datetime, feed: FeedKind = UCL) -> FileReport:
    """The report on a body; if the inspection raises anything, a report with the fault `inspection_failed`."""
    try:
        return inspect_fetched(body, fetched_at, feed.name)
    except Exception as error:  # noqa: BLE001 - it must cost neither this body nor the others
        return _uninspected(body, f"{type(error).__name__}: {error}"[:300])


def inspect_apart(body: bytes, fetched_at: datetime, feed: FeedKind = UCL) -> FileReport:
    """Like `inspect_here` in another process, limited to `APART_SECONDS` and a multiple of the body's size in memory.

    It is given the body, not a file of the spool, which another run may deliver meanwhile.

    Raises:
        OSError: no process can be started; the body is tried again later.
    """
    limit = APART_BYTES + APART_BYTES_PER_BYTE * len(body)
    command = [sys.executable, "-m", __name__, fetched_at.isoformat(), str(limit), feed.name]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and words of our own
            command, input=body, capture_output=True, timeout=APART_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return _uninspected(body, f"it took more than {APART_SECONDS:.0f} s")
    if done.returncode < 0:
        return _uninspected(body, f"its process was killed by signal {-done.returncode}")
    if done.returncode > 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return _uninspected(body, last[0][:300])
    answer = json.loads(done.stdout)
    fault = FileFault(**answer["fault"]) if answer["fault"] else None
    rows = tuple(DeadRow(**row) for row in answer["dead_rows"])
    return FileReport("fetched body", LineCounts(**answer["counts"]), rows, answer["dead_counts"], fault)


def inspect_stored(body: bytes, fetched_at: datetime, feed: FeedKind = UCL, *, apart: bool) -> FileReport:
    """The report on a body that is not in the spool; from another process if it is huge or `apart` is set.

    Raises:
        OSError: no process can be started.
    """
    if not apart and len(body) <= APART_FROM_BYTES:
        return inspect_here(body, fetched_at, feed)
    return inspect_apart(body, fetched_at, feed)


def line_count(body: bytes) -> int:
    """Number of lines that are not blank, counted without building a list."""
    return sum(1 for line in io.BytesIO(body) if line.strip())


def _uninspected(body: bytes, problem: str) -> FileReport:
    lines = line_count(body)
    fault = FileFault(
        UNINSPECTED,
        f"The body could not be inspected: {problem}. It is kept unchanged; once a later release can read it, "
        "`wrm dlq replay` publishes it.",
    )
    counts = LineCounts(lines_in=lines, dead_lettered=lines)
    return FileReport("fetched body", counts, dead_counts={UNINSPECTED: lines}, fault=fault)


def _main(fetched_at: str, limit: str, feed: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    report = inspect_fetched(sys.stdin.buffer.read(), datetime.fromisoformat(fetched_at), feed)
    # Of a Counter, `asdict` would count the pairs.
    answer = asdict(replace(report, dead_counts=dict(report.dead_counts)))
    del answer["source_key"]
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
