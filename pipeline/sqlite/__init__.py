"""A source as a file: opened safely, copied, fetched from a dump or from Turso."""
