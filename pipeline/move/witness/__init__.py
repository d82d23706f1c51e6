"""A second proof, by other means than those that write.

The engine reads the source with one driver, converts it in Arrow, writes it and reads it back: a
fault that is the same in both directions would go unseen. Here the source is read by Python's
``sqlite3``, each value is turned into bytes by plain Python, and the server hashes what it stores.
Only digests meet. The engine's reader and casts are not used. Queries go through the engine's
session, because only it sees what is not committed yet; they return ASCII, which its driver cannot
change.
"""
