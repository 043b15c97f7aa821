"""The metrics process for Prometheus: counters kept across runs and restarts, and readings of the current state.

Not here: alert rules and dashboards (`deploy/monitoring/`), counting inside runs (`resources/requests.py`).
"""
