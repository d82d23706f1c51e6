"""What the application imports: its services and the client of realtime."""
