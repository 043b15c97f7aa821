"""The interface to HTTP that kinds of feeds use to fetch a snapshot."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Got:
    """An answer with status 200.

    Attributes:
        body: The body to keep: as served, except for our own credentials if the server quotes them.
        served: The body as served.
        shown_url: Its address, without credentials.
        status: The HTTP status.
        etag: Empty if there is none.
        fetched_at: When it was complete (aware, UTC).
    """

    body: bytes
    served: bytes
    shown_url: str
    status: int
    etag: str
    fetched_at: datetime


class Browser(Protocol):
    """Gets addresses of the feed."""

    def get(self, url: str) -> Got:
        """The answer.

        Raises:
            ExternalError: there is none with status 200, or the address is not permitted.
        """
        ...

    def try_get(self, url: str) -> Got | None:
        """The answer; None if there is none with status 200, or the address is not permitted."""
        ...
