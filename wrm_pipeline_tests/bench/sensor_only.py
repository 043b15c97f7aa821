"""The code location with the raw data sensor alone: no feed is asked, and no other run takes its turn meanwhile."""

import dagster as dg

from wrm_pipeline.definitions import defs as everything

defs = dg.Definitions(
    assets=everything.assets,
    asset_checks=everything.asset_checks,
    jobs=everything.jobs,
    sensors=[sensor for sensor in everything.sensors or () if sensor.name == "wrm_stations_raw_data_sensor"],
    resources=everything.resources,
    executor=dg.in_process_executor,
)
