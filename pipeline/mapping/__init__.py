"""How an SQLite table becomes a PostgreSQL one: types, columns, what a row must fulfil."""
