"""Check both databases before a move, without changing anything."""
