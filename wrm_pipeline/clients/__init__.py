"""Clients of outside systems, one each, usable without Dagster. What the lake keeps and how is in `lake/`."""
