"""The benchmarks of `make bench`: this engine, a lower limit and other tools, in one run."""
