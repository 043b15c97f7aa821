"""Values in, values out: no Dagster, no network, no files, no clock."""
