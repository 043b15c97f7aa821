"""How one of the simulated feeds behaves: its faults, planned or lasting, its lie, and what clients may keep."""

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.message import Message

from wrm_pipeline.simulator.lies import Lie
from wrm_pipeline.simulator.misbehaviour import OF_ANY_BODY, Answer, Misbehaviour, answer

FEEDS = ("ucl", "operator", "gbfs")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a feed does until told otherwise; by default, what it should.

    Attributes:
        fault: Of each request for which none is planned.
        lie: What it says.
        since: When the lie began.
        ttl_s: How long an answer may be kept, in seconds: `Cache-Control`, and `ttl` of GBFS. None: it is not said,
            and 60 in GBFS.
        strict: Whether a request before that gets 429 with `Retry-After`.
        etags: Whether answers have an ETag, and a request with it gets 304.
    """

    fault: Misbehaviour | None = None
    lie: Lie | None = None
    since: datetime | None = None
    ttl_s: int | None = None
    strict: bool = False
    etags: bool = False


@dataclass(slots=True)
class FeedState:
    """One feed: its behaviour, and what it remembers of requests."""

    behaviour: Behaviour = Behaviour()
    planned: deque[Misbehaviour | None] = field(default_factory=deque)
    requests: int = 0
    answered: dict[str, datetime] = field(default_factory=dict)
    last_headers: Message = field(default_factory=Message)
    last_bodies: dict[str, bytes] = field(default_factory=dict)

    def wait_s(self, path: str, now: datetime) -> int:
        """Seconds until a strict feed answers this path again; 0 or less: it does now."""
        ttl_s, before = self.behaviour.ttl_s, self.answered.get(path)
        if not self.behaviour.strict or ttl_s is None or before is None:
            return 0
        return ttl_s - int((now - before).total_seconds())

    def good(self, body: bytes, headers: Message) -> Answer:
        """The good answer to a request with these headers."""
        found = answer(body)
        more = []
        if self.behaviour.ttl_s is not None:
            more.append(("Cache-Control", f"max-age={self.behaviour.ttl_s}"))
        if self.behaviour.etags:
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            more.append(("ETag", etag))
            if etag in headers.get("If-None-Match", ""):
                found = Answer(b"", status=304)
        return replace(found, headers=tuple(more))


def check_fault(feed: str, fault: Misbehaviour | None) -> None:
    """Refuse a fault that a feed cannot have.

    Raises:
        ValueError: it is one of the CSV format, and the feed is another one.
    """
    if fault is not None and feed != "ucl" and fault not in OF_ANY_BODY:
        raise ValueError(f"misbehave: {fault} is a fault of CSV; {feed} can have " + ", ".join(sorted(OF_ANY_BODY)))


def feed_name(text: str) -> str:
    """The name of a feed.

    Raises:
        ValueError: it is none.
    """
    if text not in FEEDS:
        raise ValueError(f"feed: {text!r} is not one of " + ", ".join(FEEDS))
    return text


def behaviour_of(query: Mapping[str, list[str]], now: datetime) -> Behaviour:
    """What the parameters of a URL ask for: `misbehave`, `lie`, `ttl`, `strict`, `etags`.

    Raises:
        ValueError: one of them makes no sense.
    """
    return Behaviour(
        fault=asked_fault(query),
        lie=asked_lie(query),
        since=now,
        ttl_s=int(query["ttl"][0]) if "ttl" in query else None,
        strict="strict" in query,
        etags="etags" in query,
    )


def asked_fault(query: Mapping[str, list[str]]) -> Misbehaviour | None:
    """The fault that a URL asks for.

    Raises:
        ValueError: there is none of this name.
    """
    if "misbehave" not in query:
        return None
    try:
        return Misbehaviour(query["misbehave"][0])
    except ValueError:
        raise ValueError("misbehave: one of " + ", ".join(Misbehaviour)) from None


def asked_lie(query: Mapping[str, list[str]]) -> Lie | None:
    """The lie that a URL asks for.

    Raises:
        ValueError: there is none of this name.
    """
    if "lie" not in query:
        return None
    try:
        return Lie(query["lie"][0])
    except ValueError:
        raise ValueError("lie: one of " + ", ".join(Lie)) from None
