"""Sensors: runs and notifications triggered by events (new data, ended runs, failed checks).

Not here: what a run does (`flows/`), and schedules (`schedules/`).
"""
