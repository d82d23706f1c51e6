"""What the schema of an SQLite file says: collations, the change log, tables without either."""
