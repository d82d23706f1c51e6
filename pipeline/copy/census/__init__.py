"""The census: what the columns of a source hold, and the types that follow."""
