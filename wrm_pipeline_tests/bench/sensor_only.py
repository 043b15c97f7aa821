"""The code location with the raw data sensor alone: no feed is asked, and no other run takes its turn meanwhile."""

import dagster as dg

from wrm_pipeline import definitions

defs = dg.Definitions(
    assets=definitions.defs.assets,
    asset_checks=definitions.defs.asset_checks,
    jobs=definitions.defs.jobs,
    sensors=[sensor for sensor in definitions.defs.sensors or () if sensor.name == "wrm_stations_raw_data_sensor"],
    resources=definitions.defs.resources,
    executor=dg.in_process_executor,
)
