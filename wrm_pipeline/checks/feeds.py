"""The check whether the feeds tell the truth (data contract, section 4a); it runs every five minutes."""

import json
from collections.abc import Sequence
from typing import Any

import dagster as dg

from wrm_pipeline.checks.results import WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.feeds.health import FeedHealth
from wrm_pipeline.flows.feed_health import look_at_feeds
from wrm_pipeline.lake.findings import FeedStates
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource

FEEDS_CHECK = "feeds_tell_the_truth"

# In its metadata: the verdict and the reason by feed, as JSON, so that each is an incident of its own.
VERDICTS = "verdicts"


@dg.asset_check(
    asset=asset_names.QUALITY,
    name=FEEDS_CHECK,
    description=(
        "The newest snapshot of each feed is believed: its counts move, its stations and bikes are those of the day "
        "before, and with several feeds each gives snapshots. An unsound feed is passed over while another is sound; "
        "its bodies are kept."
    ),
)
def feeds_tell_the_truth(lake: LakeResource, clock: ClockResource) -> dg.AssetCheckResult:
    """From the newest published day, and with several feeds from the newest bodies."""
    found = look_at_feeds(lake.partitions, now=clock.now())
    if found:
        FeedStates(lake.store, lake.layout).update([health.to_json() for health in found])
    return check_feeds(found)


def check_feeds(found: Sequence[FeedHealth]) -> dg.AssetCheckResult:
    """The state of the feeds in words."""
    unsound = [health for health in found if not health.sound]
    agreeing = [f"{health.feed}: {health.agreement}" for health in found if health.agreement is not None]
    verdicts: dict[str, Any] = {VERDICTS: json.dumps({each.feed: [each.kind, each.reason] for each in found})}
    return result(
        FEEDS_CHECK,
        not unsound,
        "; ".join(f"{health.feed} is {_words(health.kind)}: {health.reason}" for health in unsound)
        or (f"{', '.join(health.feed for health in found)}: as usual." if found else "Nothing is published today."),
        severity=WARN,
        feeds=len(found),
        unsound=len(unsound),
        published=next((health.feed for health in found if health.published), ""),
        agreement="; ".join(agreeing),
        **verdicts,
    )


def _words(kind: str) -> str:
    return kind.replace("_", " ")


# The checks of this module, for `definitions`.
CHECKS = (feeds_tell_the_truth,)
