"""The command `pipeline`."""
