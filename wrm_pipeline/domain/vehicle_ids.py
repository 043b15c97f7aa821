"""Public ids of free-standing bikes, which change with each trip, as GBFS asks (`vehicle_id`).

The number of a bike that is seen at the same doors each morning says who rides it. So a public id is a keyed hash of
the number and of the instant at which the bike came to where it stands: the same for as long as it stands there,
another one after each trip, and without the key neither of them leads to the number or to the other.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from wrm_pipeline.domain.bike_positions import SAME_PLACE_M
from wrm_pipeline.domain.distance import metres_between

_ID_CHARACTERS = 24

Position = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Stays:
    """The free-standing bikes of one snapshot.

    Attributes:
        at: The snapshot's time (aware).
        bikes: By the feed's id: since when a bike has stood there (microseconds since 1970), and where it stood then
            (degrees north and east).
    """

    at: datetime
    bikes: Mapping[str, tuple[int, Position]]

    def public_ids(self, key: bytes) -> dict[str, str]:
        """Public ids by the feed's ids; the same key gives the same ids."""
        return {
            bike: hmac.digest(key, f"{bike} {since}".encode(), hashlib.sha256).hex()[:_ID_CHARACTERS]
            for bike, (since, _) in self.bikes.items()
        }

    def to_json(self) -> str:
        """As text, which `from_json` reads."""
        return json.dumps({"at": self.at.isoformat(), "bikes": self.bikes}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Stays":
        """What `to_json` wrote.

        Raises:
            ValueError: the text is something else.
        """
        try:
            found = json.loads(text)
            bikes = {
                str(bike): (int(since), (float(lat), float(lon)))
                for bike, (since, (lat, lon)) in found["bikes"].items()
            }
            at = datetime.fromisoformat(found["at"]).astimezone(UTC)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the stays of a snapshot: {error!r}") from error
        return cls(at, bikes)


def next_stays(before: Stays | None, at: datetime, positions: Mapping[str, Position]) -> Stays:
    """The stays after one more snapshot.

    A bike goes on standing if it was in the previous snapshot, at most SAME_PLACE_M from where its stay began. A bike
    that was missing has been on a trip, even if it is back.

    Args:
        before: Of the previous snapshot; None if there is none.
        at: The snapshot's time (aware).
        positions: Of its free-standing bikes, by the feed's id.
    """
    now = round(at.timestamp() * 1_000_000)
    known = {} if before is None else before.bikes
    return Stays(at, {bike: _stay(known.get(bike), now, position) for bike, position in positions.items()})


def _stay(before: tuple[int, Position] | None, now: int, position: Position) -> tuple[int, Position]:
    if before is None:
        return now, position
    return before if metres_between(*before[1], *position) <= SAME_PLACE_M else (now, position)
