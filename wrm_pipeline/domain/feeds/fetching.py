"""The interface to HTTP that kinds of feeds use to fetch a snapshot, and what is known from earlier fetches."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

# A feed whose state does not change is stored once an hour, which shows that somebody looked; for no longer than that
# is a server's word taken that nothing has changed.
STORED_AGAIN_AFTER = timedelta(hours=1)

# The longest time for which a feed's `ttl` or `max-age` is believed: one of a day comes from the default of a web
# server, not from a system whose bikes move.
MAX_FRESH = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Got:
    """An answer with status 200, or 304 to a conditional request.

    Attributes:
        body: The body to keep: as served, except for our own credentials if the server quotes them. Empty for 304.
        served: The body as served.
        shown_url: Its address, without credentials.
        status: The HTTP status.
        etag: Empty if there is none.
        fetched_at: When it was complete (aware, UTC).
        last_modified: As served; empty if there is none.
        fresh_s: Seconds for which a cache may keep it (`Cache-Control: max-age`); None if it does not say.
    """

    body: bytes
    served: bytes
    shown_url: str
    status: int
    etag: str
    fetched_at: datetime
    last_modified: str = ""
    fresh_s: float | None = None


class Browser(Protocol):
    """Gets addresses of the feed."""

    def now(self) -> datetime:
        """The time (aware, UTC)."""
        ...

    def get(self, url: str, *, etag: str = "", last_modified: str = "") -> Got:
        """The answer; with an `etag` or `last_modified`, 304 if it is still the one that had these.

        Raises:
            ExternalError: there is none with status 200, or the address is not permitted.
        """
        ...

    def try_get(self, url: str, *, etag: str = "", last_modified: str = "") -> Got | None:
        """The answer; None if there is none with status 200, or the address is not permitted."""
        ...


@dataclass(frozen=True, slots=True)
class Earlier:
    """What is known from earlier fetches; empty if nothing is.

    Attributes:
        etag: Of the last stored snapshot, for feeds of one file.
        last_modified: Likewise.
        body: The last snapshot, for feeds of several files.
    """

    etag: str = ""
    last_modified: str = ""
    body: bytes = b""


NOTHING_EARLIER = Earlier()


@dataclass(frozen=True, slots=True)
class Fetched:
    """One fetch of a feed.

    Attributes:
        body: The snapshot in the form to keep; empty if `unchanged`.
        unchanged: The server says that it is the last stored snapshot.
        etag: For the next fetch; empty if there is none.
        last_modified: Likewise.
        fresh_s: Seconds until the feed changes again, as far as it says so; None if it does not.
    """

    body: bytes
    unchanged: bool = False
    etag: str = ""
    last_modified: str = ""
    fresh_s: float | None = None
