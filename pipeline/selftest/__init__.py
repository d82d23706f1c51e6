"""Prove that the checks detect faults, by planting faults."""
