"""Messages about failed runs and checks."""
