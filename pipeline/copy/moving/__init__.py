"""Fill tables of the target, and prove them by position."""
