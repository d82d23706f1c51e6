"""Dumps: reading of their text, splitting into statements, and execution within limits."""
