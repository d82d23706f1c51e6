"""Dagster's processes where they run for good."""
