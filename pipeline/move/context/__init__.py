"""State and options that the phases of a move share."""
