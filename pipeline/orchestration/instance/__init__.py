"""Where Dagster keeps its records, and how it starts runs."""
