"""Whether both databases are fit for a move, told before one is tried. Nothing is changed."""
