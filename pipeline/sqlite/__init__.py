"""The source as a file: safe opening, snapshots, copies of dumps and Turso databases."""
