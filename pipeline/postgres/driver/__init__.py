"""What a session sends and receives: connections, statements, errors, locks."""
