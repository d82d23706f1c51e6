"""A second proof, by other means than those that write.

The engine reads the source with one driver, converts it in Arrow, writes it and reads it back: a
fault that is the same in both directions would go unseen. Here the source is read by Python's
``sqlite3``, each value is turned into bytes by plain Python, and the server hashes what it stores.
Only digests meet. Nothing here uses the engine's driver, reader or casts.
"""
