"""Plan, run and commit moves: all rows, changes or a subset."""
