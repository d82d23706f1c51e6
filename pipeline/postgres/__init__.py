"""The target: sessions, DDL, catalog, rights."""
