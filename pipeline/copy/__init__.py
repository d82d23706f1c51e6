"""Copy any SQLite database to PostgreSQL, proven, without declarations."""
