"""The source of a copy: a private file, its structure, and its rows by row id."""
