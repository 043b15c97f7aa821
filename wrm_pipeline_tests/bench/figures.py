"""Figures and what is wanted of them; as a table, in the document, in the history."""

import csv
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

_LIBRARIES = ("pyarrow", "duckdb", "pandas", "pandera", "numpy", "dagster")
_BEGIN, _END = "<!-- bench:begin -->", "<!-- bench:end -->"
_HISTORY_COLUMNS = ("measured_at", "machine", "figure", "value", "unit", "wanted", "passed")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A limit on a figure: at least `low`, at most `high`."""

    low: float | None = None
    high: float | None = None

    def passes(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        return f"≥ {self.low:g}" if self.high is None else f"≤ {self.high:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `name` is the same from run to run: the history is kept by it."""

    name: str
    what: str
    value: float
    unit: str
    wanted: Wanted | None = None

    @property
    def passed(self) -> bool | None:
        """None where nothing is wanted."""
        return None if self.wanted is None else self.wanted.passes(self.value)

    @property
    def shown(self) -> str:
        """The value to three digits."""
        return f"{self.value:.0f}" if self.value >= 100 or self.unit == "requests" else f"{self.value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """As Markdown, with columns that line up."""
    marks = {True: "✓", False: "✗ missed", None: ""}
    rows = [
        ("figure", "measured", "unit", "wanted", ""),
        *((f.what, f.shown, f.unit, str(f.wanted or ""), marks[f.passed]) for f in figures),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures were measured on."""

    processor: str
    cores: int
    memory_gb: float
    system: str
    load: float
    measured_at: datetime

    @classmethod
    def this_one(cls) -> "Machine":
        """The load is that of the minute before: what else was running."""
        info = Path("/proc/cpuinfo")
        model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(
            model[1] if model else platform.processor() or platform.machine(),
            os.cpu_count() or 1,
            memory / 1e9,
            platform.system(),
            os.getloadavg()[0],
            datetime.now().astimezone(),
        )

    @property
    def short(self) -> str:
        return f"{self.cores} x {self.processor}"

    def __str__(self) -> str:
        libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        return (
            f"Measured {self.measured_at:%Y-%m-%d %H:%M %z} on {self.cores} cores of {self.processor}, "
            f"{self.memory_gb:.0f} GB of memory, {self.system}; load before the run {self.load:.1f}. "
            f"Python {platform.python_version()}, {libraries}."
        )


def write_document(path: Path, machine: Machine, figures: Sequence[Figure]) -> None:
    """Replace what stands between the markers.

    Raises:
        ValueError: the document lacks them.
    """
    before, begin, rest = path.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the markers {_BEGIN} and {_END}")
    path.write_text(f"{before}{begin}\n{machine}\n\n{table(figures)}\n{end}{after}")


def append_history(path: Path, machine: Machine, figures: Sequence[Figure]) -> None:
    """One line per figure."""
    new = not path.exists()
    measured_at = machine.measured_at.isoformat(timespec="minutes")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(_HISTORY_COLUMNS)
        for f in figures:
            passed = "" if f.passed is None else str(f.passed).lower()
            writer.writerow([measured_at, machine.short, f.name, f"{f.value:.4g}", f.unit, f.wanted or "", passed])
