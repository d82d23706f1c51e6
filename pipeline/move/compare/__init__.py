"""Rows of both sides, compared by digest and by value."""
