"""What `make bench` runs: this engine, the limit it is held to, and other ways, in one run."""
