"""A move from its plan to its commit: all rows, changes or a subset."""
