"""Commands that begin with an SQLite database of any kind."""
