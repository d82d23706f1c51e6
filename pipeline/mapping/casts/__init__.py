"""Casts: how values of SQLite become values of PostgreSQL, type by type."""
