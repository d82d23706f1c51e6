"""The checks of a move, and of what is committed."""
