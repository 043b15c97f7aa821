"""This machine's clock, compared with that of a server."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from wrm_pipeline.clients import outgoing


def seconds_apart(
    policy: outgoing.Policy, url: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> float | None:
    """By how many seconds this clock is ahead of the server's (negative: behind); None if it sends no Date.

    HTTP gives whole seconds.

    Raises:
        ExternalError: the server does not answer.
    """
    answer = outgoing.request(replace(policy, total_s=8, read_s=5), "HEAD", url, name=url)
    arrived = now()
    if "date" not in answer.headers:
        return None
    return (arrived - parsedate_to_datetime(answer.headers["date"])).total_seconds()
