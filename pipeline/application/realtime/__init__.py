"""The client of realtime: who listens to what."""
