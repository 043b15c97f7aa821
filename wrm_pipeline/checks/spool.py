"""The check of the spool: files in its folder that can never be delivered."""

import dagster as dg

from wrm_pipeline.checks.results import WARN, result
from wrm_pipeline.domain import asset_names
from wrm_pipeline.domain.quality import MAX_SAMPLES
from wrm_pipeline.lake.spool import Spool
from wrm_pipeline.resources.lake import LakeResource


@dg.asset_check(
    asset=asset_names.DEAD_LETTERS,
    name="spool_is_readable",
    description=(
        "Everything in the spool is a fetched body that can be delivered. Anything else (no permission to read it, a "
        "folder, a link, another name) is moved to `unreadable/` there by the next fetch, and blocks nothing; it may "
        "still be a snapshot. Also runs on a schedule (`wrm_freshness_schedule`)."
    ),
)
def spool_is_readable(lake: LakeResource) -> dg.AssetCheckResult:
    """Reads the folder on this machine."""
    return check_spool(lake.spool)


def check_spool(spool: Spool) -> dg.AssetCheckResult:
    """Files that can never be delivered, as samples."""
    strangers = spool.strangers()
    first = f": {strangers[0]}" if strangers else ""
    return result(
        "spool_is_readable",
        not strangers,
        f"{len(strangers)} files in {spool.folder} cannot be delivered{first}"[:300],
        severity=WARN,
        samples=[{"file": str(s.path)[:300], "why": s.reason} for s in strangers[:MAX_SAMPLES]],
        files=len(strangers),
    )


CHECKS = (spool_is_readable,)
