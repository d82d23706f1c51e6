"""Services of the learning application on both databases."""
