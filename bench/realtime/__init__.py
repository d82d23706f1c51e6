"""Events measured against polling: the same tables, the same writes, the same server."""
