"""Benchmark events against polling, with the same tables, writes and server."""
