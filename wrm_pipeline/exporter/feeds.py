"""The state of the feeds, as their check found it."""

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import Metric

from wrm_pipeline.domain.feeds import KINDS
from wrm_pipeline.domain.feeds.soundness import SOUND
from wrm_pipeline.exporter.families import gauge
from wrm_pipeline.exporter.slow_sources import StoreSource
from wrm_pipeline.lake.findings import FeedStates
from wrm_pipeline.lake.object_store import ObjectStore

# The check runs every five minutes.
LOOK_EVERY_S = 60.0


class FeedSource(StoreSource):
    """One series for each feed that is fetched; none before the first check."""

    name = "feeds"
    every_s = LOOK_EVERY_S
    _states: Sequence[Mapping[str, Any]] = ()

    def look(self, store: ObjectStore) -> None:
        """One request."""
        found = FeedStates(store, self.layout).read()
        self._states = [state for state in found if state.get("feed") in KINDS]

    def families(self, now: float) -> Sequence[Metric]:  # noqa: ARG002
        """Soundness, agreement, and whose snapshots are published."""
        if not self._states:
            return []
        by_feed = {str(state["feed"]): state for state in self._states}
        sound = {feed: int(state.get("verdict") == SOUND) for feed, state in by_feed.items()}
        published = {feed: int(state.get("published") is True) for feed, state in by_feed.items()}
        agreements = {
            feed: float(share)
            for feed, state in by_feed.items()
            if isinstance(share := state.get("agreement"), int | float)
        }
        found = [
            gauge("wrm_feed_sound", "1: the feed's newest snapshot is believed", "feed", sound),
            gauge("wrm_feed_published", "1: the newest published minute is this feed's", "feed", published),
        ]
        if agreements:
            text = "Share of the published feed's stations whose counts this feed confirms, at most 3 bikes apart"
            found.append(gauge("wrm_feed_agreement", text, "feed", agreements))
        return found
