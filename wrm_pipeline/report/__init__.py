"""The report: a static site, maps and charts. Rows in, files out; tables and their refresh are in `analytics/`."""
