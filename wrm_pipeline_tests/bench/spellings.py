"""What another spelling of the same facts costs, compared with the usual one (data contract, section 1)."""

import time
from collections.abc import Sequence
from datetime import timedelta

from wrm_pipeline.domain.snapshot import RawSnapshot, parse_snapshots
from wrm_pipeline.simulator.city import City
from wrm_pipeline_tests.fixtures.snapshots import AT
from wrm_pipeline_tests.fixtures.spellings import CHANGED, UNCHANGED

# Several deviations at once, which no feed is likely to have.
COMBINED_SPELLINGS = ("semicolons, CR, cp1250, decimals", "tabs, UTF-16, blanks, quotes")
SINGLE_SPELLINGS = tuple(name for name in (*UNCHANGED, *CHANGED) if name not in COMBINED_SPELLINGS)

_EDITS = {**UNCHANGED, **{name: edit for name, (edit, _) in CHANGED.items()}}
_ROUNDS, _MORE_TIMES = 7, 4


def ratios(snapshots: int, names: Sequence[str], *, limit: float) -> dict[str, float]:
    """Processor time of parsing snapshots in each spelling, divided by that of the usual one.

    Both are the least of several rounds, in turn, as the machine may have other work. A ratio above `limit` is measured
    for up to four times as many rounds: the least can only come closer to the truth.
    """
    city = City(1, 260, 152)
    bodies = [city.snapshot(AT + timedelta(minutes=number)) for number in range(snapshots)]
    usual = _files(bodies)
    _seconds(usual)
    found = {}
    for name in names:
        files = _files([_EDITS[name](body) for body in bodies])
        of_spelling, of_usual = float("inf"), float("inf")
        for number in range(_ROUNDS * _MORE_TIMES):
            if number >= _ROUNDS and of_spelling <= limit * of_usual:
                break
            of_spelling, of_usual = min(of_spelling, _seconds(files)), min(of_usual, _seconds(usual))
        found[name] = of_spelling / of_usual
    return found


def _files(bodies: Sequence[bytes]) -> list[RawSnapshot]:
    return [
        RawSnapshot(f"raw/{number}.txt", AT + timedelta(minutes=number), body) for number, body in enumerate(bodies)
    ]


def _seconds(files: Sequence[RawSnapshot]) -> float:
    start = time.process_time()
    parse_snapshots(files)
    return time.process_time() - start
