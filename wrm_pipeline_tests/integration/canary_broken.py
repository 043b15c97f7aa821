"""A code location that does not load, with every secret in the error that says so."""

from wrm_pipeline_tests.integration.canary_location import everything

raise ImportError(everything())
