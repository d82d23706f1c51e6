"""What a copy is asked to do, and what it answers."""
