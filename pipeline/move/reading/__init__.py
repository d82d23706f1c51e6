"""Rows of the source, read and converted in batches."""
