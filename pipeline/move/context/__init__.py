"""What the steps of one table's move share."""
