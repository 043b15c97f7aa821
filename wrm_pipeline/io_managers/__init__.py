"""How asset values become objects in the store and tables in DuckDB, and come back."""
