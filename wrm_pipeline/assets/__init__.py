"""What the Dagster UI shows: each asset reads, calls one flow or domain function, writes and reports."""
