"""Rows that go back to the source, and what the source does with them."""
