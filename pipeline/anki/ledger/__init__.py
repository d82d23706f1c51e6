"""What the ledger records about Anki."""
