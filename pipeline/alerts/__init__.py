"""Who is told when something has failed, and how."""
