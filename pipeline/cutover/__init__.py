"""From a target that follows to one that the application writes, and back."""
