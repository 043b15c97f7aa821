"""The table of feed kinds: how each is fetched, how its raw objects are named, and how it is read.

A kind that is not CSV is translated into the lines of the CSV grammar, one line for each of its objects, so that types,
ranges, dead letters, duplicates and accounting are the same for all kinds (data contract, sections 1b, 3 and 4).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wrm_pipeline.domain.feeds import gbfs, operator
from wrm_pipeline.domain.feeds.fetching import Browser, Earlier, Fetched
from wrm_pipeline.domain.feeds.translation import SourceObject, Translation

# (body, the snapshot's time in microseconds since 1970, an operator's corrections by object number).
Translate = Callable[[bytes, int, Mapping[int, str]], Translation]
# (the getter, the feed's address, what is known from earlier fetches).
Fetch = Callable[[Browser, str, Earlier], Fetched]
# (body, number of an object): its place and its text.
Locate = Callable[[bytes, int], SourceObject]

_TIME = r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}"


@dataclass(frozen=True, slots=True)
class FeedKind:
    """One kind of feed.

    Attributes:
        name: In `WRM_FEEDS`, in the column `feed`, and in names of spooled bodies.
        stem: The beginning of its raw objects' names.
        suffix: Their end.
        url_variable: The setting with its address.
        default_url: Wrocław's.
        fetch: Gets a snapshot in the form to keep.
        translate: Its body as lines; None: the body consists of such lines.
        locate: The place of one of its objects; None as for `translate`.
        reports_times: Whether its bodies contain their time; else the time of the fetch counts, and the same bytes a
            minute later are another snapshot, not a duplicate.
        any_ids: Whether ids of its stations may be arbitrary, not only digits.
        of_files: Whether its raw object is a zip of files (`gbfs_zip`), in which those of an earlier one of the day are
            not repeated.
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
    of_files: bool = False

    @property
    def target(self) -> str:
        """Its name for requests, the circuit breaker and metrics."""
        return "feed" if self is UCL else f"feed_{self.name}"

    def is_name(self, name: str) -> bool:
        """Whether the last part of a raw key belongs to this kind.

        Any `.txt` does, since raw objects from before this project have other names; raw objects of other kinds are
        written only by this project, and their names always contain the time.
        """
        if self is UCL:
            return name.endswith(self.suffix)
        return re.fullmatch(f"{self.stem}_{_TIME}{re.escape(self.suffix)}", name, re.ASCII) is not None


def _fetch_body(browser: Browser, url: str, earlier: Earlier) -> Fetched:
    got = browser.get(url, etag=earlier.etag, last_modified=earlier.last_modified)
    return Fetched(got.body, got.status == 304, got.etag, got.last_modified, got.fresh_s)


def _fetch_always(browser: Browser, url: str, earlier: Earlier) -> Fetched:  # noqa: ARG001 - see below
    """Without conditions: the body does not contain its time, so each minute's is another snapshot, even if equal."""
    got = browser.get(url)
    return Fetched(got.body, fresh_s=got.fresh_s)


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
    _fetch_always,
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
    of_files=True,
)

KINDS: Mapping[str, FeedKind] = {kind.name: kind for kind in (UCL, _OPERATOR, _GBFS)}


def named_kinds(names: str) -> tuple[FeedKind, ...]:
    """The kinds with these comma-separated names, in that order.

    Raises:
        ValueError: a name is unknown or occurs twice, or there is none.
    """
    given = [name.strip() for name in names.split(",")]
    for name in given:
        if name not in KINDS:
            some = f"give one or more of {', '.join(KINDS)} with commas, the most trusted first"
            raise ValueError(f"names {name!r}, which is not a kind of feed; {some}")
        if given.count(name) > 1:
            raise ValueError(f"names {name!r} twice; each feed has one place in the order of trust")
    return tuple(KINDS[name] for name in given)


def kind_of(key: str) -> FeedKind | None:
    """The kind of feed of a raw object, by its key; None if the name matches none."""
    name = key.rpartition("/")[2]
    return next((kind for kind in KINDS.values() if kind.is_name(name)), None)
