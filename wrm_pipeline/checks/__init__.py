"""Asset checks: facts about the data that are verified with each build, thresholds and severities included.

Not here: how the facts are computed (`domain/quality.py`, `analytics/`), and who is alerted (`sensors/alerts.py`).
"""
