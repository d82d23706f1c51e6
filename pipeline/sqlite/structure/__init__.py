"""The structure of any SQLite database: tables, keys, indexes, constraints, views, triggers."""
