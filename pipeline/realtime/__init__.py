"""Realtime on the target: the feed of changes, what is published, and who may listen."""
