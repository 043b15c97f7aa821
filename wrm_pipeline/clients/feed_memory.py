"""What runs remember of a feed: when it may be asked again, and what is needed to ask whether it has changed.

Runs are short-lived processes, so this is in files: a small one for each feed, and its last snapshot where that is
needed. Losing them costs a full request, and nothing else.
"""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wrm_pipeline.clients.whole_files import write_whole
from wrm_pipeline.domain.feeds.fetching import MAX_FRESH, NOTHING_EARLIER, STORED_AGAIN_AFTER, Earlier

logger = logging.getLogger(__name__)

# A run begins each minute, some seconds earlier or later: what may be fetched within half a minute is fetched now.
EARLY = timedelta(seconds=30)

# The longest `Retry-After` that is obeyed: a feed that says a day would be believed to be back a day too late.
MAX_RETRY_AFTER = timedelta(hours=1)

_LOCK = threading.Lock()


class NotDueError(Exception):
    """The feed was not asked, as its last answer is still up to date by its own account.

    Attributes:
        until: When it is due (aware, UTC).
    """

    def __init__(self, target: str, until: datetime) -> None:
        super().__init__(
            f"{target} is not asked before {until:%H:%M:%S} UTC: its last answer is up to date until then (`ttl` or "
            f"`Cache-Control: max-age`, at most {MAX_FRESH.total_seconds():.0f} s)"
        )
        self.until = until


@dataclass(frozen=True, slots=True)
class Remembered:
    """The remembered state of one feed.

    Attributes:
        url: Its address, without credentials; for another one nothing else here counts.
        etag: Of the last stored snapshot, for feeds of one file; empty if there is none.
        last_modified: Likewise.
        kept_at: When that was fetched; None if there is none.
        fresh_until: Until when the feed does not change, by its own account; None if it does not say.
        retry_at: When it may be asked again; None if it did not ask for a pause.
        content: Digest of the last stored snapshot, for feeds of several files.
        homes: For those, SHA-256 of each file and the key of the raw object that holds it.
    """

    url: str = ""
    etag: str = ""
    last_modified: str = ""
    kept_at: datetime | None = None
    fresh_until: datetime | None = None
    retry_at: datetime | None = None
    content: str = ""
    homes: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def due_at(self, now: datetime) -> datetime | None:
        """When the feed changes again; None if it may have by now. A time far ahead is that of a wrong clock."""
        until = self.fresh_until
        return until if until is not None and now + EARLY < until <= now + MAX_FRESH else None

    def pause_until(self, now: datetime) -> datetime | None:
        """The end of the pause that the feed asked for; None if there is none."""
        until = self.retry_at
        return until if until is not None and now < until <= now + MAX_RETRY_AFTER else None

    def is_recent(self, now: datetime) -> bool:
        """Whether the last stored snapshot is recent enough for an unchanged one not to be stored again."""
        return self.kept_at is not None and timedelta(0) <= now - self.kept_at < STORED_AGAIN_AFTER

    def to_json(self) -> bytes:
        """The serialized state."""
        return json.dumps(asdict(self), default=datetime.isoformat).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Remembered":
        """Parse a stored state; an empty one if it is damaged."""
        try:
            content = json.loads(text)
            url, etag, last_modified, digest = (str(content[n]) for n in ("url", "etag", "last_modified", "content"))
            kept_at, fresh_until, retry_at = (_moment(content[n]) for n in ("kept_at", "fresh_until", "retry_at"))
            homes = {str(name): (str(sha256), str(key)) for name, (sha256, key) in content["homes"].items()}
            return cls(url, etag, last_modified, kept_at, fresh_until, retry_at, digest, homes)
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()


def _moment(text: Any) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class FeedMemory:
    """The memory of one feed, in the files `{name}.json` and `{name}.body` of `folder`."""

    folder: Path
    name: str

    @property
    def _state(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def _body(self) -> Path:
        return self.folder / f"{self.name}.body"

    def read(self) -> Remembered:
        """The state; an empty one if there is none, or it cannot be read."""
        try:
            return Remembered.from_json(self._state.read_bytes())
        except OSError:
            return Remembered()

    def update(self, **changes: Any) -> None:
        """Change some of the state. Failing to costs a request, never a snapshot."""
        with _LOCK:
            before = self.read()
            after = replace(before, **changes)
            if after != before:
                self._write(self._state, after.to_json())

    def earlier(self, url: str, now: datetime) -> Earlier:
        """What helps to fetch `url` (without credentials) again."""
        state = self.read()
        if state.url != url:
            return NOTHING_EARLIER
        try:
            body = self._body.read_bytes()
        except OSError:
            body = b""
        return Earlier(state.etag, state.last_modified, body) if state.is_recent(now) else Earlier(body=body)

    def keep_body(self, body: bytes) -> None:
        """Keep the last snapshot."""
        self._write(self._body, body)

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_whole(path, content)
        except OSError as error:
            logger.warning("what is known of the feed %s cannot be kept: %s", self.name, error)
