"""One outside system each, usable without Dagster."""
