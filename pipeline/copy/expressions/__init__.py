"""Expressions of SQLite's schema, translated to PostgreSQL and tried before they are trusted."""
