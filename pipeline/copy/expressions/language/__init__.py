"""The language of SQLite's expressions, node by node, in PostgreSQL's words."""
