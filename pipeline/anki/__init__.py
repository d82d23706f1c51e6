"""Keep notes in Anki in sync with the contents in PostgreSQL. No Dagster."""
