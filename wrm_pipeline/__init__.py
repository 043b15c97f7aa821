"""Archive and analysis of Wrocław's bike-share system (WRM) as a Dagster code location."""
