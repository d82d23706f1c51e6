"""Move tables from SQLite to PostgreSQL and prove that every value arrived."""
