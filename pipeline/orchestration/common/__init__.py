"""What assets share: resources, checks, metadata, reports of runs."""
