"""What went wrong and is not over yet, and how a person is told.

An incident is one cause in one job or check, however many runs and partitions it hits: one message when it begins,
one when it is over.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from wrm_pipeline.domain.layout import LOCAL_ZONE

# Over after so long without a failure since the last success: what fails every other minute is one incident.
QUIET = timedelta(minutes=5)
# Over without a success: a run by hand that nobody repeats, or a day that is not built again.
FORGOTTEN = timedelta(hours=24)
# The last second that a date can be of.
MAX_TIME = 253_402_300_799

# What is remembered is bounded, whatever happens.
MAX_INCIDENTS = 30
MAX_PARTITIONS = 20
MAX_ERROR_LENGTH = 400


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, for a person.

    Attributes:
        cause: Tells one cause from another; equal in all runs and partitions that it hits.
        error: The first line of the error.
        place: Where: a step, an asset.
        remedy: What to try.
        severe: Data is wrong or missing, rather than odd.
        words: What it does, and what it does when that is over.
    """

    cause: str
    error: str
    place: str
    remedy: str
    severe: bool = True
    words: tuple[str, str] = ("failed", "is good again")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run of a job, or one evaluation of a check, ended.

    Attributes:
        scope: Whose: a success ends incidents of the same scope only.
        at: When, in seconds since the epoch.
        partition: Empty where there is none.
        failure: None: it went well.
    """

    scope: str
    at: float
    run_id: str
    partition: str = ""
    failure: Failure | None = None


@dataclass(slots=True)
class Incident:
    """A cause that fails runs.

    Attributes:
        run_id: The run that failed last.
        failed: How many runs failed.
        partitions: Those that failed and have not succeeded since; an empty name for a run without one.
        more_partitions: More failed than are remembered.
        good_since: Since when all of `partitions` are good again.
        told: The message that it began was delivered.
    """

    scope: str
    cause: str
    error: str
    place: str
    remedy: str
    severe: bool
    words: Sequence[str]
    began_at: float
    last_failed_at: float
    run_id: str
    failed: int = 0
    partition: str = ""
    partitions: list[str] = field(default_factory=list)
    more_partitions: bool = False
    good_since: float | None = None
    told: bool = False

    def is_sound(self) -> bool:
        """Whether each field is of its kind."""
        texts = (self.scope, self.cause, self.error, self.place, self.remedy, self.run_id, self.partition)
        times = (self.began_at, self.last_failed_at, self.failed, self.good_since or 0)
        return (
            all(isinstance(text, str) for text in (*texts, *self.partitions, *self.words))
            and all(isinstance(at, int | float) and abs(at) < MAX_TIME for at in times)
            and isinstance(self.partitions, list)
            and len(self.words) == 2
        )

    def fails_again(self, outcome: Outcome) -> None:
        """One run more."""
        self.failed += 1
        self.last_failed_at = max(self.last_failed_at, outcome.at)
        self.run_id, self.partition = outcome.run_id, outcome.partition
        self.good_since = None
        if outcome.partition not in self.partitions:
            if len(self.partitions) < MAX_PARTITIONS:
                self.partitions.append(outcome.partition)
            else:
                self.more_partitions = True

    def succeeds(self, outcome: Outcome) -> None:
        """A partition (or the job, where there are none) is good again."""
        if outcome.partition in self.partitions:
            self.partitions.remove(outcome.partition)
        if not self.partitions and self.good_since is None:
            self.good_since = outcome.at

    def is_over(self, now: float) -> bool:
        """Good for long enough, or not seen for very long."""
        if self.good_since is not None:
            return now - self.good_since >= QUIET.total_seconds()
        return now - self.last_failed_at >= FORGOTTEN.total_seconds()


@dataclass(frozen=True, slots=True)
class Message:
    """Something to tell about an incident."""

    key: str
    text: str


class Incidents:
    """All that are open, by a key of their own."""

    def __init__(self, state: Iterable[dict[str, Any]] = ()) -> None:
        self._open = {_key(content["scope"], content["cause"]): Incident(**content) for content in state}

    def are_sound(self) -> bool:
        """Whether they are as they were kept, and not edited into something else."""
        return all(incident.is_sound() for incident in self._open.values())

    def not_later_than(self, now: float) -> None:
        """Bring times from the future back to now: they are of a clock that was ahead, and would delay the end."""
        for incident in self._open.values():
            incident.began_at = min(incident.began_at, now)
            incident.last_failed_at = min(incident.last_failed_at, now)
            if incident.good_since is not None:
                incident.good_since = min(incident.good_since, now)

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON, for the next tick."""
        return [asdict(incident) for incident in self._open.values()]

    def observe(self, outcome: Outcome) -> None:
        """Take an outcome into account; give them in order of time."""
        if outcome.failure is None:
            for incident in self._open.values():
                if incident.scope == outcome.scope:
                    incident.succeeds(outcome)
            return
        failure, key = outcome.failure, _key(outcome.scope, outcome.failure.cause)
        if key not in self._open:
            self._make_room()
            self._open[key] = Incident(
                outcome.scope,
                failure.cause,
                failure.error,
                failure.place,
                failure.remedy,
                failure.severe,
                failure.words,
                began_at=outcome.at,
                last_failed_at=outcome.at,
                run_id=outcome.run_id,
            )
        self._open[key].fails_again(outcome)

    def _make_room(self) -> None:
        """Drop one that was told, else the oldest, if there are very many."""
        if len(self._open) >= MAX_INCIDENTS:
            key = min(self._open, key=lambda key: (not self._open[key].told, self._open[key].last_failed_at))
            del self._open[key]

    def to_tell(self, now: float, ui_url: str) -> list[Message]:
        """What is to be said now, oldest incident first. What began and ended unheard is one message."""
        messages = []
        for key, incident in sorted(self._open.items(), key=lambda item: item[1].began_at):
            if incident.is_over(now):
                messages.append(Message(key, over_text(incident, ui_url)))
            elif not incident.told:
                messages.append(Message(key, failing_text(incident, ui_url)))
        return messages

    def told(self, message: Message, now: float) -> None:
        """The message was delivered."""
        incident = self._open[message.key]
        if incident.is_over(now):
            del self._open[message.key]
        else:
            incident.told = True


def _key(scope: str, cause: str) -> str:
    return hashlib.sha256(f"{scope}\n{cause}".encode()).hexdigest()[:16]


# --- text ------------------------------------------------------------------------------------------------------


def failing_text(incident: Incident, ui_url: str) -> str:
    """The message that something fails."""
    sign = "🔴" if incident.severe else "🟡"
    runs = "1 run" if incident.failed == 1 else f"{incident.failed} runs"
    return "\n".join(
        [
            f"{sign} *{escaped(incident.scope)}* {incident.words[0]}{'' if incident.severe else ' (a warning)'}",
            f"```{escaped(incident.error)}```",
            f"*Where:* {escaped(_where(incident))}",
            f"*Since:* {_clock(incident.began_at)} (Wrocław), {runs} so far",
            f"*What to try:* {incident.remedy}",
            _link(incident, ui_url, "Open the run"),
        ]
    )


def over_text(incident: Incident, ui_url: str) -> str:
    """The message that it is over."""
    end = incident.good_since or incident.last_failed_at
    how = incident.words[1] if incident.good_since else f"has not failed again for {duration(FORGOTTEN)}"
    runs = "1 run" if incident.failed == 1 else f"{incident.failed} runs"
    lasted = duration(timedelta(seconds=end - incident.began_at))
    return "\n".join(
        [
            f"🟢 *{escaped(incident.scope)}* {how}",
            f"*Lasted:* {lasted}, from {_clock(incident.began_at)} to {_clock(end)} (Wrocław)",
            f"*Failed:* {runs}; {escaped(_where(incident))}",
            f"```{escaped(incident.error)}```",
            _link(incident, ui_url, "Open the last run that failed"),
        ]
    )


def _where(incident: Incident) -> str:
    others = len([name for name in incident.partitions if name != incident.partition])
    more = f" and {'at least ' if incident.more_partitions else ''}{others} more" if others else ""
    return incident.place + (f", partition {incident.partition}{more}" if incident.partition else "")


def _link(incident: Incident, ui_url: str, words: str) -> str:
    return f"<{ui_url.rstrip('/')}/runs/{incident.run_id}|{words}>"


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC).astimezone(LOCAL_ZONE):%Y-%m-%d %H:%M}"


def duration(length: timedelta) -> str:
    """A length of time in words: `40 s`, `12 min`, `3 h 5 min`."""
    seconds = round(length.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{minutes} min" if not hours else f"{hours} h {minutes} min" if minutes else f"{hours} h"


def escaped(text: str) -> str:
    """Text that is not ours, so that it shows as it is: no links, no mentions, no markup that ends ours."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    for character, replacement in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("`", "'")):
        printable = printable.replace(character, replacement)
    return printable


_CLASS_PATH = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")
_VARIABLE = (
    re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE),  # URLs
    re.compile(r"'[^']*'|\"[^\"]*\""),  # quoted values
    re.compile(r"\S*/\S+"),  # paths and keys
    re.compile(r"\b[0-9a-f]{8,}(?:-[0-9a-f]+)*\b", re.IGNORECASE),  # ids
    re.compile(r"\d+(?:[.,:-]\d+)*"),  # numbers, dates, times
)


def first_line(message: str) -> str:
    """What a person reads of an error: its first line with words, without the path of its class."""
    lines = [_CLASS_PATH.sub("", line.strip()) for line in message.splitlines() if line.strip()]
    if not lines:
        return "(no message)"
    line = lines[0]
    if len(re.findall(r"\w{2,}", line)) < 3:  # "SchemaErrors: {"
        line = " ".join(lines)
    return line if len(line) <= MAX_ERROR_LENGTH else f"{line[: MAX_ERROR_LENGTH - 1]}…"


def without_variable_parts(line: str) -> str:
    """A line without what differs from run to run: numbers, dates, ids, URLs, paths, quoted values."""
    for pattern in _VARIABLE:
        line = pattern.sub("#", line)
    return line
