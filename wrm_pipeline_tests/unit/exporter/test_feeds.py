"""Metrics of the feeds."""

from __future__ import annotations

from wrm_pipeline.exporter.feeds import LOOK_EVERY_S, FeedSource
from wrm_pipeline.lake.findings import FeedStates


def values(source: FeedSource) -> dict:
    return {(s.name, s.labels["feed"]): s.value for family in source.families(0.0) for s in family.samples}


def test_the_state_of_each_feed_is_exported_and_a_damaged_one_is_none(lake):
    now = [0.0]
    source = FeedSource(lambda: lake.store, lake.layout, clock=lambda: now[0])
    source.collect()
    assert values(source) == {}
    FeedStates(lake.store, lake.layout).update(
        [
            {"feed": "ucl", "verdict": "frozen", "published": False, "agreement": 0.75},
            {"feed": "operator", "verdict": "sound", "published": True, "agreement": None},
            {"feed": "someone's", "verdict": "sound"},
        ]
    )
    source.collect()
    assert values(source) == {}
    now[0] = LOOK_EVERY_S
    source.collect()
    assert values(source) == {
        ("wrm_feed_sound", "ucl"): 0,
        ("wrm_feed_sound", "operator"): 1,
        ("wrm_feed_published", "ucl"): 0,
        ("wrm_feed_published", "operator"): 1,
        ("wrm_feed_agreement", "ucl"): 0.75,
    }
    lake.store.put(lake.layout.feeds_key, b"{no json")
    now[0] *= 2
    source.collect()
    assert values(source) == {}
