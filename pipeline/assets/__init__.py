"""Dagster's assets and standing checks, made by factories: a declaration becomes its asset."""
