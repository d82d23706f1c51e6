"""The application's door to both databases: typed services, no Dagster."""
