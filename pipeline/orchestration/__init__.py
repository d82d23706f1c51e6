"""Everything that uses Dagster: assets, jobs, schedules, runs."""
