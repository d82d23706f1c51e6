"""The words in which a table is declared (rights, events, functions), and our own tables."""
