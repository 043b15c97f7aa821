"""What is kept: object stores, raw objects, spool, published partitions, dead letters, findings, bulk reads.

Not here: SQL and the database (`analytics/`), Dagster, what keys and rows mean (`domain/`).
"""
