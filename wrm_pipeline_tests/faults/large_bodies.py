"""Bodies and lines of hundreds of megabytes, of many kinds, and what reading each takes.

`python -m wrm_pipeline_tests.faults.large_bodies` measures all kinds with 200 MB each and prints a table; ten minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, count, cycle, repeat
from pathlib import Path

from wrm_pipeline_tests.faults.one_body import Cost
from wrm_pipeline_tests.fixtures.snapshots import HEADER, line

_MB = 10**6
_BLOCK = 1 << 16

# What a body is made of: what it begins with, and what follows until the size is reached.
Parts = tuple[bytes, Iterator[bytes]]


def _again(unit: str | bytes, *, head: str | None = None) -> Callable[[], Parts]:
    """A header (or `head`), and a unit again and again."""
    data = unit.encode() if isinstance(unit, str) else unit
    start = f"{HEADER}\n{line()}\n" if head is None else head
    return lambda: (start.encode(), repeat(data * max(1, _BLOCK // len(data))))


def _each(
    unit: Callable[[int], str], *, codec: str = "utf-8", end: str = "\n", head: str = HEADER
) -> Callable[[], Parts]:
    """A header, and a line for each number."""
    return lambda: (
        f"{head}{end}".encode(codec),
        ("".join(unit(number) + end for number in range(start, start + 100)).encode(codec) for start in count(0, 100)),
    )


def _lines_of(unit: str, line_bytes: int, *, start: str = "") -> Callable[[], Parts]:
    """A header, and lines of so many bytes of the same unit."""
    text = start + unit * ((line_bytes - len(start)) // len(unit.encode()))
    return _again(text + "\n")


def _row(number: int) -> str:
    return line(id=f"{number:07}", name=f"Stacja {number}")


def _long(text: str) -> str:
    """A row with a surplus field of 1 kB that holds nothing."""
    return f"{text},{' ' * 950}"


def _each_mixed() -> Parts:
    """Lines in UTF-8 and in cp1250 by turns."""
    rows = ((line(id=f"{number:07}", name=f"Łąka {number}") + "\n") for number in count())
    return f"{HEADER}\n".encode(), (text.encode(codec) for text, codec in zip(rows, cycle(["utf-8", "cp1250"])))


_DEAD = (line(id=""), line(combined="x"), line(lat="x"), line(bikes="-5"), line(locked="?"), line(name='"a'), "1,2")
_HUGE = 2**20 - 1_000
KINDS: Mapping[str, Callable[[], Parts]] = {
    # No table.
    "zeros": _again(b"\0", head=""),
    "bytes of all values": _again(bytes(range(256)), head=""),
    "a page of HTML in one line": _again("<p>x</p>", head="<html>"),
    "a page of HTML": _again("<p>x</p>\n", head="<html>\n"),
    "line feeds without a header": _again("\n", head=""),
    "remarks without a header": _again("# x\n", head=""),
    "remarks of 60 kB without a header": _again("#" + '"",' * 20_000 + "\n", head=""),
    "a header of a million columns": _again(",c", head=HEADER),
    "headers of 60 kB that lack a column": _again("#id," + '"",' * 15_000 + "\n", head=""),
    # Lines that are not rows.
    "line feeds": _again("\n"),
    "blank lines": _again(" \t\n"),
    "lines of no-break spaces": _again("\u00a0\n"),
    "one-letter lines": _again("a\n"),
    "remarks": _again("#\n"),
    "dead rows": _again(line(lat="north") + "\n"),
    "dead rows of every kind": _again("".join(f"{text}\n" for text in _DEAD)),
    "dead rows of 1 kB": _each(lambda n: line(id=f"{n:07}", lat="north", name="x" * 950)),
    "dead rows of 1 kB of every kind": _each(lambda n: _long(_DEAD[n % len(_DEAD)])),
    "remarks of 1 kB": _each(lambda n: f"#{n:07}" + "x" * 950),
    "remarks of 1 kB in quotes": _each(lambda n: f'"#{n:07}' + '""' * 475 + '"'),
    # Rows.
    "one row again and again": _again(line() + "\n"),
    "distinct stations": _each(_row),
    "distinct stations in UTF-16": _each(_row, codec="utf-16-le", head=f"\ufeff{HEADER}"),
    "distinct stations in cp1250": _each(lambda n: line(id=f"{n:07}", name=f"Łąka {n}"), codec="cp1250"),
    "distinct stations that end in CR": _each(_row, end="\r"),
    "distinct stations in quotes behind blanks": _each(
        lambda n: ", ".join(f'"{value}"' for value in line(id=f"{n:07}").split(","))
    ),
    "distinct stations and a column of 1 kB": _each(lambda n: f"{_row(n)},{'x' * 950}", head=f"{HEADER},more"),
    "a dead row among each hundred": _each(lambda n: _long(_row(n) if n % 100 else "1,2")),
    "lines in UTF-8 and in cp1250": _each_mixed,
    "rows of 1,000 columns": _each(lambda n: _row(n) + ",x" * 987, head=HEADER + ",x" * 987),
    "rows with numbers of 1 kB": _each(
        lambda n: line(id=f"{n:07}", lat="51." + "1" * 300, bikes="0" * 300 + "1", battery="0." + "5" * 300)
    ),
    "rows between blank lines": _each(lambda n: _row(n) + "\n" * 200),
    "names of 1,000 letters": _each(lambda n: line(id=f"{n:07}", name="Łódź " * 199 + f"{n:05}")),
    "names of 1,000 letters of mojibake": _each(lambda n: line(id=f"{n:07}", name="WrocÅ‚aw " * 110 + f"{n:05}")),
    "names of 1 MB": _each(lambda n: line(id=f"{n:07}", name="Łódź " * 130_000)),
    "ids of 1 MB": _each(lambda n: line(id=f"{n:07}" + "x" * (_HUGE - 200))),
    "names of 1 MB in quotes": _each(lambda n: line(id=f"{n:07}", name='"' + 'a, ""b""' * 120_000 + '"')),
    "names of 1 MB of entities": _each(lambda n: line(id=f"{n:07}", name="&amp;" * 200_000)),
    # Long lines.
    "a line without end": _again("x"),
    "a line of quotes without end": _again('"'),
    "a line of blanks without end": _again(" "),
    "carriage returns without end": _again("\r"),
    "lines of 15 MB of quotes": _lines_of('"', 15 * _MB),
    "lines of 1 MB of quotes": _lines_of('"', _HUGE),
    "lines of 1 MB of quotes behind blanks": _lines_of(', "a"', _HUGE),
    "lines of 1 MB of fields": _lines_of(",", _HUGE),
    "lines of 1 MB of quoted fields": _lines_of('"",', _HUGE),
    "lines of 1 MB of carriage returns": _lines_of("\r", _HUGE, start="x"),
    "lines of 1 MB of blanks and a quote": _lines_of(" ", _HUGE, start='1, "'),
    "latitudes of 1 MB": _each(lambda n: line(id=f"{n:07}", lat="51." + "1" * _HUGE)),
    "batteries of 1 MB": _each(lambda n: line(id=f"{n:07}", battery="0." + "5" * (_HUGE - 200))),
    "lines of 1 MB of digits": _lines_of("9", _HUGE, start="1,"),
}


def write(kind: str, size: int, path: Path) -> None:
    """A body of one of KINDS, of at least `size` bytes."""
    head, parts = KINDS[kind]()
    with path.open("wb") as file:
        for part in chain([head], parts):
            if file.tell() >= size:
                return
            file.write(part)


def cost(path: Path) -> Cost:
    """What a process of its own takes to inspect a body as the fetch does.

    Raises:
        RuntimeError: it failed, or not every line is accounted for.
    """
    command = [sys.executable, "-m", "wrm_pipeline_tests.faults.one_body", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"reading {path} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("kinds", nargs="*", help="all of them if none is named")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wrm-bodies-") as folder:
        for kind in options.kinds or KINDS:
            path = Path(folder) / "body"
            write(kind, options.megabytes * _MB, path)
            found = cost(path)
            what = f"{found.rows:>7,} rows of {found.lines:>11,} lines  {found.outcome}"
            sys.stdout.write(f"{kind:45} {found.memory_mb:5.0f} MB {found.cpu_s:6.1f} s  {what}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _main()
