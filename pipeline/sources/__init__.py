"""Where a source comes from, and how it becomes an SQLite file that is read as any other."""
