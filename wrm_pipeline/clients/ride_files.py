"""The city's own lists of rides: a file for each day, at an address or in a folder; days late."""

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from wrm_pipeline.clients import retry
from wrm_pipeline.clients.errors import PermanentError
from wrm_pipeline.clients.outgoing import MAX_REDIRECTS, Policy, request
from wrm_pipeline.domain.masking import remember_credentials, without_echo
from wrm_pipeline.domain.ride_ledger import MAX_BYTES

TARGET = "rides"
DATE = "{date}"
_NOT_THERE = (404, 410)
_SUFFIXES = (".csv", ".csv.gz")
_UNUSUAL = re.compile(r"[^\w.\-]+", re.ASCII)
_REMEDY = "Open the address by hand; if the lists have moved, set WRM_RIDES_URL"


@dataclass(frozen=True, slots=True)
class RideFile:
    """A file as it came, and its name."""

    name: str
    body: bytes


@dataclass(frozen=True, slots=True)
class RideFiles:
    """Where the lists are.

    Attributes:
        folder: A folder of files that have the day in their names, as 2024-06-03 or 20240603; None: there is none.
        url: An address with `{date}` in the place of the day; empty: there is none.
        redirect_hosts: See `outgoing.Policy`.
        private_hosts: See `outgoing.Policy`.
    """

    folder: Path | None = None
    url: str = ""
    redirect_hosts: frozenset[str] = frozenset()
    private_hosts: frozenset[str] = frozenset()

    def may_have(self, dt: date) -> bool:
        """Whether it makes sense to ask for a day: a folder shows what is there."""
        return bool(self.url) or self._path(dt) is not None

    def find(self, dt: date) -> RideFile | None:
        """The file of a day; None while there is none. A folder comes before the address.

        Raises:
            ExternalError: the server failed, or refuses.
            OSError: the file cannot be read.
        """
        path = self._path(dt)
        if path is not None:
            return RideFile(path.name, path.read_bytes())
        return self._fetched(dt) if self.url else None

    def _path(self, dt: date) -> Path | None:
        """The last file by name if there are several."""
        if self.folder is None or not self.folder.is_dir():
            return None
        days = (f"{dt:%Y-%m-%d}", f"{dt:%Y%m%d}")
        found = [
            path
            for path in self.folder.iterdir()
            if path.name.endswith(_SUFFIXES) and any(day in path.name for day in days) and path.is_file()
        ]
        return max(found, default=None, key=lambda path: path.name)

    def _fetched(self, dt: date) -> RideFile | None:
        url = self.url.replace(DATE, dt.isoformat())
        remember_credentials(url)
        policy = Policy(
            TARGET,
            max_bytes=MAX_BYTES,
            connect_s=3,
            read_s=15,
            total_s=retry.FEED_POLICY.attempt_s,
            max_redirects=MAX_REDIRECTS,
            redirect_hosts=self.redirect_hosts,
            private_hosts=self.private_hosts,
            remedy=_REMEDY,
            redirect_remedy=f"{_REMEDY}, or name the host in WRM_FEED_REDIRECT_HOSTS",
        )

        def attempt() -> bytes | None:
            answer = request(policy, "GET", url, name=url, headers={"User-Agent": "wrm-pipeline", "Accept": "*/*"})
            if answer.status_code in _NOT_THERE:
                return None
            retry.check_response(answer, target=TARGET, operation="get", name=url)
            if answer.status_code != 200:
                problem = f"answered {answer.status_code} instead of 200"
                raise PermanentError(problem, TARGET, "get", url, _REMEDY, answer.status_code)
            return answer.body

        body = retry.call(attempt, target=TARGET, operation="get", name=url, policy=retry.FEED_POLICY)
        if body is None:
            return None
        packed = body[:2] == b"\x1f\x8b"
        return RideFile(f"rides_{dt}.csv{'.gz' if packed else ''}", body if packed else without_echo(body, url))


def safe_name(name: str) -> str:
    """A file's name as the last part of a key."""
    return _UNUSUAL.sub("_", name).lstrip(".") or "rides.csv"
