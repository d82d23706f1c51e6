"""Declarations of a migration, written from a census of its source."""
