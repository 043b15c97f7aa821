"""Which backups are kept: the newest of each of the last days, weeks and months that have one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days, weeks and months keep a backup. A backup may count for all three."""

    daily: int = 7
    weekly: int = 4
    monthly: int = 6

    @classmethod
    def parse(cls, text: str) -> "Retention":
        """Parse `daily,weekly,monthly`.

        Raises:
            ValueError: not three whole numbers, or nothing would be kept.
        """
        parts = text.replace(" ", "").split(",")
        numbers = [int(part) for part in parts if part.isdecimal()]
        if len(parts) != 3 or len(numbers) != 3 or max(numbers) == 0:
            raise ValueError("is not three numbers: days,weeks,months that keep a backup, at least one above 0")
        return cls(*numbers)

    def kept(self, times: Iterable[datetime]) -> set[datetime]:
        """Of the backups taken at `times` (aware, UTC), those to keep. The newest is always kept.

        Days without a backup do not count: a machine that was off for a month has as many backups afterwards.
        """
        newest_first = sorted(times, reverse=True)
        kept = set(newest_first[:1])
        kept |= _newest_of_each(newest_first, lambda at: at.date(), self.daily)
        kept |= _newest_of_each(newest_first, lambda at: at.isocalendar()[:2], self.weekly)
        kept |= _newest_of_each(newest_first, lambda at: (at.year, at.month), self.monthly)
        return kept


def _newest_of_each(newest_first: Iterable[datetime], span: Callable[[datetime], object], count: int) -> set[datetime]:
    found: dict[object, datetime] = {}
    for at in newest_first:
        found.setdefault(span(at), at)
    return set(list(found.values())[:count])
