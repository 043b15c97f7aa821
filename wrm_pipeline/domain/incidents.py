"""Open incidents, and the messages that report them.

An incident is one cause in one job or check, however many runs and partitions it affects: one message when it begins,
one when it is over.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from wrm_pipeline.domain.city import this_city

# Over after this time without a failure since the last success: something that fails every other minute is one
# incident.
QUIET = timedelta(minutes=5)
# Over without a success: a manual run that nobody repeats, or a day that is not built again.
FORGOTTEN = timedelta(hours=24)
# The last second that a datetime can represent.
MAX_TIME = 253_402_300_799

# The channel that has always been there.
WEBHOOK = "webhook"

# The state is bounded, whatever happens.
MAX_INCIDENTS = 30
MAX_PARTITIONS = 20
MAX_ERROR_LENGTH = 400


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, for a person.

    Attributes:
        cause: Identifies the cause; equal in all runs and partitions that it affects.
        error: The first line of the error.
        place: Where it failed: a step, an asset.
        remedy: What to try.
        severe: Data is wrong or missing, rather than unusual.
        words: Verbs for the messages: that it fails, and that it is over.
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
        scope: The job or check: a success only ends incidents of the same scope.
        at: When it ended, in seconds since the epoch.
        partition: Empty if there is none.
        failure: None means success.
    """

    scope: str
    at: float
    run_id: str
    partition: str = ""
    failure: Failure | None = None


@dataclass(slots=True)
class Incident:
    """A cause that makes runs fail.

    Attributes:
        run_id: The latest run that failed.
        failed: Number of failed runs.
        partitions: Partitions that failed and have not succeeded since; an empty name for a run without one.
        more_partitions: Whether more failed than are kept.
        good_since: Since when all of `partitions` have been good again.
        beginning_sent: Channels that accepted the message about its beginning.
        end_sent: Channels that accepted the message about its end.
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
    beginning_sent: list[str] = field(default_factory=list)
    end_sent: list[str] = field(default_factory=list)

    def is_sound(self) -> bool:
        """Whether each field has its type."""
        texts = (self.scope, self.cause, self.error, self.place, self.remedy, self.run_id, self.partition)
        times = (self.began_at, self.last_failed_at, self.failed, self.good_since or 0)
        return (
            all(isinstance(text, str) for text in (*texts, *self.partitions, *self.words, *self._channels))
            and all(isinstance(at, int | float) and abs(at) < MAX_TIME for at in times)
            and all(isinstance(names, list) for names in (self.partitions, self.beginning_sent, self.end_sent))
            and len(self.words) == 2
        )

    @property
    def _channels(self) -> list[str]:
        return [*self.beginning_sent, *self.end_sent]

    def fails_again(self, outcome: Outcome) -> None:
        """Count another failed run. Channels that have reported its end already report it again."""
        self.beginning_sent = [channel for channel in self.beginning_sent if channel not in self.end_sent]
        self.end_sent = []
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
        """Record that a partition (or the job, without partitions) is good again."""
        if outcome.partition in self.partitions:
            self.partitions.remove(outcome.partition)
        if not self.partitions and self.good_since is None:
            self.good_since = outcome.at

    def is_over(self, now: float) -> bool:
        """Whether it has been good for long enough, or has not been seen for very long."""
        if self.good_since is not None:
            return now - self.good_since >= QUIET.total_seconds()
        return now - self.last_failed_at >= FORGOTTEN.total_seconds()


@dataclass(frozen=True, slots=True)
class Message:
    """A message about an incident."""

    key: str
    text: str


class Incidents:
    """All open incidents, by key."""

    def __init__(self, state: Iterable[dict[str, Any]] = ()) -> None:
        self._open = {_key(content["scope"], content["cause"]): _incident(content) for content in state}

    def are_sound(self) -> bool:
        """Whether they are valid, and were not edited into something else."""
        return all(incident.is_sound() for incident in self._open.values())

    def not_later_than(self, now: float) -> None:
        """Bring times in the future back to now: they stem from a clock that was ahead, and would delay the end."""
        for incident in self._open.values():
            incident.began_at = min(incident.began_at, now)
            incident.last_failed_at = min(incident.last_failed_at, now)
            if incident.good_since is not None:
                incident.good_since = min(incident.good_since, now)

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON, for the next tick."""
        return [asdict(incident) for incident in self._open.values()]

    def observe(self, outcome: Outcome) -> None:
        """Take an outcome into account; call in order of time."""
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
        """If there are very many, drop one that was reported, or else the oldest."""
        if len(self._open) >= MAX_INCIDENTS:
            key = min(self._open, key=lambda key: (not self._open[key].beginning_sent, self._open[key].last_failed_at))
            del self._open[key]

    def to_report(self, now: float, ui_url: str, channel: str = WEBHOOK) -> list[Message]:
        """The messages due on a channel, oldest incident first. An incident that ended unreported is one message."""
        messages = []
        for key, incident in sorted(self._open.items(), key=lambda item: item[1].began_at):
            if incident.is_over(now):
                if channel not in incident.end_sent:
                    messages.append(Message(key, over_text(incident, ui_url)))
            elif channel not in incident.beginning_sent:
                messages.append(Message(key, failing_text(incident, ui_url)))
        return messages

    def reported(
        self, message: Message, now: float, channel: str = WEBHOOK, channels: Sequence[str] = (WEBHOOK,)
    ) -> None:
        """Record that a channel accepted a message; an ended incident is dropped once all `channels` have."""
        incident = self._open[message.key]
        if not incident.is_over(now):
            incident.beginning_sent.append(channel)
            return
        incident.end_sent.append(channel)
        if set(channels) <= set(incident.end_sent):
            del self._open[message.key]


def _incident(content: dict[str, Any]) -> Incident:
    """Parse one from a cursor; older cursors have one channel, and a flag in the place of its name."""
    content = dict(content)
    old = [content.pop(name, False) for name in ("told", "reported")]
    if any(old):
        content["beginning_sent"] = [WEBHOOK]
    return Incident(**content)


def _key(scope: str, cause: str) -> str:
    return hashlib.sha256(f"{scope}\n{cause}".encode()).hexdigest()[:16]


# --- text ------------------------------------------------------------------------------------------------------


def failing_text(incident: Incident, ui_url: str) -> str:
    """The message about the beginning."""
    sign = "🔴" if incident.severe else "🟡"
    runs = "1 run" if incident.failed == 1 else f"{incident.failed} runs"
    return "\n".join(
        [
            f"{sign} *{escaped(incident.scope)}* {incident.words[0]}{'' if incident.severe else ' (a warning)'}",
            f"```{escaped(incident.error)}```",
            f"*Where:* {escaped(_where(incident))}",
            f"*Since:* {_clock(incident.began_at)} ({escaped(this_city().name)}), {runs} so far",
            f"*What to try:* {incident.remedy}",
            _link(incident, ui_url, "Open the run"),
        ]
    )


def over_text(incident: Incident, ui_url: str) -> str:
    """The message about the end."""
    end = incident.good_since or incident.last_failed_at
    how = incident.words[1] if incident.good_since else f"has not failed again for {duration(FORGOTTEN)}"
    runs = "1 run" if incident.failed == 1 else f"{incident.failed} runs"
    lasted = duration(timedelta(seconds=end - incident.began_at))
    return "\n".join(
        [
            f"🟢 *{escaped(incident.scope)}* {how}",
            f"*Lasted:* {lasted}, from {_clock(incident.began_at)} to {_clock(end)} ({escaped(this_city().name)})",
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
    return f"{datetime.fromtimestamp(at, UTC).astimezone(this_city().zone):%Y-%m-%d %H:%M}"


def duration(length: timedelta) -> str:
    """A readable duration: `40 s`, `12 min`, `3 h 5 min`."""
    seconds = round(length.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{minutes} min" if not hours else f"{hours} h {minutes} min" if minutes else f"{hours} h"


def escaped(text: str) -> str:
    """Foreign text, escaped so that it is shown literally: no links, no mentions, no markup that ends ours."""
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
    """The part of an error to show: its first line with words, without the path of its class."""
    lines = [_CLASS_PATH.sub("", line.strip()) for line in message.splitlines() if line.strip()]
    if not lines:
        return "(no message)"
    line = lines[0]
    if len(re.findall(r"\w{2,}", line)) < 3:  # "SchemaErrors: {"
        line = " ".join(lines)
    return line if len(line) <= MAX_ERROR_LENGTH else f"{line[: MAX_ERROR_LENGTH - 1]}…"


def without_variable_parts(line: str) -> str:
    """A line without the parts that differ from run to run: numbers, dates, ids, URLs, paths, quoted values."""
    for pattern in _VARIABLE:
        line = pattern.sub("#", line)
    return line
