"""Assets of the partitioned layers: raw -> processed -> enhanced. Tables made from them are in `assets/duckdb/`."""
