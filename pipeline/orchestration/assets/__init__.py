"""Dagster's assets."""
