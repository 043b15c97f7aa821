"""I/O managers: asset values <-> objects in the store and tables in DuckDB, whatever they mean."""
