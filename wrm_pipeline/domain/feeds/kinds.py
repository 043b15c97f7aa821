"""The one table of feed kinds: how each is fetched, how its raw objects are named, and how it is read.

A kind that is not CSV is translated into the lines of the CSV grammar, one line for each of its objects, so that types,
ranges, dead letters, duplicates and accounting are the same for all kinds (data contract, sections 1b, 3 and 4).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wrm_pipeline.domain.feeds import gbfs, operator
from wrm_pipeline.domain.feeds.fetching import Browser
from wrm_pipeline.domain.feeds.translation import SourceObject, Translation

# (body, the snapshot's time in microseconds since 1970, an operator's corrections by object number).
Translate = Callable[[bytes, int, Mapping[int, str]], Translation]
# (what gets addresses, the feed's address): the body that is kept.
Fetch = Callable[[Browser, str], bytes]
# (body, number of an object): where it is and its text.
Locate = Callable[[bytes, int], SourceObject]

_TIME = r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}"


@dataclass(frozen=True, slots=True)
class FeedKind:
    """One kind of feed.

    Attributes:
        name: In `WRM_FEEDS`, in the column `feed`, and in names of spooled bodies.
        stem: How names of its raw objects begin.
        suffix: How they end.
        url_variable: The setting that says where it is.
        default_url: Wrocław's.
        fetch: Gets a snapshot as it is kept.
        translate: Its body as lines; None: the body is such lines.
        locate: Where one of its objects is; None as for `translate`.
        reports_times: Whether its bodies say when they are of; else they are of the fetch.
        any_ids: Whether ids of its stations may be anything, and not only digits.
    """

    name: str
    stem: str
    suffix: str
    url_variable: str
    default_url: str
    fetch: Fetch
    translate: Translate | None = None
    locate: Locate | None = None
    reports_times: bool = True
    any_ids: bool = False

    @property
    def target(self) -> str:
        """How requests, the circuit breaker and metrics call it."""
        return "feed" if self is UCL else f"feed_{self.name}"

    def is_name(self, name: str) -> bool:
        """Whether the last part of a raw key is of this kind.

        Any `.txt` is, since raw objects from before this project have names of their own; of other kinds only this
        project writes raw objects, and their names always have the time.
        """
        if self is UCL:
            return name.endswith(self.suffix)
        return re.fullmatch(f"{self.stem}_{_TIME}{re.escape(self.suffix)}", name, re.ASCII) is not None


def _fetch_body(browser: Browser, url: str) -> bytes:
    return browser.get(url).body


UCL = FeedKind(
    "ucl",
    "wrm_stations",
    ".txt",
    "WRM_STATIONS_DATA_URL",
    "https://gladys.geog.ucl.ac.uk/bikesapi/load.php?scheme=wroclaw",
    _fetch_body,
)
_OPERATOR = FeedKind(
    "operator",
    "operator",
    ".json",
    "WRM_OPERATOR_URL",
    "https://api-gateway.nextbike.pl/api/maps/service/pl/locations",
    _fetch_body,
    operator.translate,
    operator.locate,
    reports_times=False,
)
_GBFS = FeedKind(
    "gbfs",
    "gbfs",
    ".zip",
    "WRM_GBFS_URL",
    "https://gbfs.nextbike.net/maps/gbfs/v2/nextbike_pl/gbfs.json",
    gbfs.fetch,
    gbfs.translate,
    gbfs.locate,
    any_ids=True,
)

KINDS: Mapping[str, FeedKind] = {kind.name: kind for kind in (UCL, _OPERATOR, _GBFS)}


def kind_of(key: str) -> FeedKind | None:
    """The kind of feed that a raw object is from, by its key; None for a name that is none's."""
    name = key.rpartition("/")[2]
    return next((kind for kind in KINDS.values() if kind.is_name(name)), None)
