"""The vocabulary of table declarations (privileges, events, functions), and our own tables."""
