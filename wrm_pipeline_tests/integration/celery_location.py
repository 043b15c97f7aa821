"""Our definitions, and jobs that say in which process they ran."""

import dagster as dg

from wrm_pipeline.definitions import defs as ours
from wrm_pipeline_tests.integration.warm_jobs import wait_job, write_job

defs = dg.Definitions.merge(ours, dg.Definitions(jobs=[write_job, wait_job]))
