"""How a table moves: SQL and Arrow, no Dagster."""
