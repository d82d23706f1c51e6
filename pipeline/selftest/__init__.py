"""The proof attacks itself."""
