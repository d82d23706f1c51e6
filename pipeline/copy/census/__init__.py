"""What the columns of a source hold, and the types that follow from it."""
