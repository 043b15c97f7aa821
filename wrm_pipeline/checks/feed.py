"""The check of the feed itself: can its newest bodies still be read?

It runs in `wrm_freshness_job`, since nothing is processed when no body can be read, and with the tables. Not in the run
of each minute: a check every five minutes makes a change of format one incident, however many runs it fails.
"""

import dagster as dg

from wrm_pipeline.checks.results import ERROR, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.drift import DRIFT_SHARE
from wrm_pipeline.flows.drift import LOOK_BACK, look_for_drift
from wrm_pipeline.resources.cache import RedisCacheResource
from wrm_pipeline.resources.feed import ClockResource
from wrm_pipeline.resources.lake import LakeResource

FEED_CHECK = "feed_format_is_read"

# In the metadata of a failed check: the name of the check that reports its cause, so that people are alerted once.
EXPLAINED_BY = "explained_by"


@dg.asset_check(
    asset=asset_names.DEAD_LETTERS,
    name=FEED_CHECK,
    description=(
        f"In no body of the newest {LOOK_BACK.seconds // 60} minutes, in raw/ or quarantine/, do {DRIFT_SHARE:.0%} of "
        "the rows or more fail with the same field and error. Otherwise the feed has changed its format: the bodies "
        "are kept unchanged, and published once a release can read them."
    ),
)
def feed_format_is_read(
    lake: LakeResource, clock: ClockResource, redis_cache: RedisCacheResource
) -> dg.AssetCheckResult:
    """The newest bodies, parsed again."""
    found, looked_at = look_for_drift(lake.store, lake.layout, now=clock.now(), cache=redis_cache.client)
    if found is None:
        return result(
            FEED_CHECK, True, f"The newest {looked_at} bodies can be read.", bodies=looked_at, bodies_drifted=0
        )
    drift = found.drift
    return result(
        FEED_CHECK,
        False,
        str(found),
        severity=ERROR,
        field=drift.field,
        error_type=drift.error_type,
        old_example=found.old,
        new_example=found.new,
        rows=drift.rows,
        rows_dead=drift.dead,
        share=round(drift.share, 4),
        bodies=looked_at,
        bodies_drifted=found.drifted,
        newest_body=found.key,
    )


# The checks of this module, for `definitions`.
CHECKS = (feed_format_is_read,)
