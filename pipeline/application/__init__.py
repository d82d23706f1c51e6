"""The application's API: services on both databases, and the realtime client."""
