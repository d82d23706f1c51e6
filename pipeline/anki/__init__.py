"""Cards that follow the content: notes in Anki for what PostgreSQL holds. No Dagster."""
