"""Dagster's assets: each reads, calls one flow or domain function, writes, and adds metadata. No logic of its own."""
