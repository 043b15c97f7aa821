"""The code location: `dagster dev -m wrm_pipeline.definitions -m examples.weather_asset.definitions`."""

import dagster as dg

import wrm_pipeline.definitions
from examples.weather_asset.assets import rain_per_day, rain_per_hour

# Dagster wants one Definitions object in a module, so the pipeline's is not imported by name.
defs = dg.Definitions(
    assets=[rain_per_hour, rain_per_day],
    resources=wrm_pipeline.definitions.defs.resources,
    executor=dg.in_process_executor,
)
