"""The Arrow driver for PostgreSQL: connections, statements, errors."""
