"""Tests that need no database server, no process and no browser."""
