"""The target of a copy: names, tables, constraints and records."""
