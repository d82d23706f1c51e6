"""The second witness: a proof that is independent of the engine.

The engine reads the source with one driver, converts it in Arrow, writes it and reads it back, so
it cannot detect a fault that has the same effect in both directions. The second witness reads the
source with Python's ``sqlite3``, encodes each value in plain Python, and compares digests with
those that the server computes. It does not use the engine's reader and casts. Its queries use the
engine's session, which alone sees uncommitted rows, but return only ASCII, which the driver cannot
change.
"""
