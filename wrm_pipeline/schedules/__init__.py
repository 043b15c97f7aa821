"""Schedules: jobs that run at fixed times.

Not here: jobs triggered by events (`sensors/`), and the jobs themselves (`jobs/`).
"""
