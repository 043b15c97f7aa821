"""A code location with one asset that does nothing: what a run costs before it does any work."""

import dagster as dg

from wrm_pipeline.partitions import daily_partitions


@dg.asset(partitions_def=daily_partitions)
def nothing() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult()


defs = dg.Definitions(assets=[nothing], executor=dg.in_process_executor)
