"""The code location without schedules and sensors: what its processes cost while nothing happens."""

import dagster as dg

from wrm_pipeline import definitions

defs = dg.Definitions(
    assets=definitions.defs.assets,
    asset_checks=definitions.defs.asset_checks,
    jobs=definitions.defs.jobs,
    resources=definitions.defs.resources,
    executor=dg.in_process_executor,
)
