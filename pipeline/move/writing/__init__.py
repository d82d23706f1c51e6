"""Rows of the target, filled, changed and deleted."""
