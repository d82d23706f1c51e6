"""What moves: one module a migration, found by ``registry``; its sample lies beside it."""
