"""What reading one body takes, in a process of its own: `python -m wrm_pipeline_tests.faults.one_body FILE`.

Loads little, as fifty of these run.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from wrm_pipeline.domain.snapshot import inspect_fetched
from wrm_pipeline.simulator.city import City

_AT = datetime(2025, 8, 21, 13, 5, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a body took and what it gave; memory is beyond what the process had with the body in it."""

    memory_mb: float
    cpu_s: float
    outcome: str
    message: str
    lines: int
    rows: int


def _read(path: Path) -> Cost:
    body = path.read_bytes()
    # What the libraries take once is not the body's.
    inspect_fetched(City(1, 20, 10).snapshot(_AT) + b"x\n", _AT)
    before, start = _memory_mb("VmRSS"), time.process_time()
    report = inspect_fetched(body, _AT)
    seconds = time.process_time() - start
    if not report.counts.balanced or sum(report.dead_counts.values()) != report.counts.dead_lettered:
        raise AssertionError(f"not every line is accounted for: {report.counts}, {report.dead_counts}")
    outcome = report.fault.error_type if report.fault else ", ".join(sorted(report.dead_counts)) or "rows"
    message = report.fault.error_message if report.fault else ""
    counts = report.counts
    return Cost(_memory_mb("VmHWM") - before, seconds, outcome, message, counts.lines_in, counts.rows_out)


def _memory_mb(name: str) -> float:
    """VmHWM, the most so far, starts again with each program; ru_maxrss has what its parent used, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_read(Path(sys.argv[1])))))
