"""Insert, update and delete rows of the target."""
