"""The services of the learning application, on both databases."""
