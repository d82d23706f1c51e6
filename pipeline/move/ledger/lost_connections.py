"""What the ledger says to a run that continues after a lost connection."""

from pipeline.postgres.target import Target


def is_committed(target: Target, table: str, *, run_id: str) -> bool:
    """Whether the last committed move of a table was made by this run. The ledger must exist."""
    return bool(
        target.value(
            "SELECT EXISTS (SELECT FROM migration.watermarks WHERE table_name = $1"
            " AND run_id = $2)",
            (table, run_id),
        )
    )


def moved_by_others(target: Target, *, run_id: str, seconds: float) -> list[str]:
    """The tables that other runs have moved within the last seconds."""
    if not target.value("SELECT to_regclass('migration.watermarks') IS NOT NULL"):
        return []
    rows = target.rows(
        "SELECT table_name FROM migration.watermarks WHERE run_id <> $1"
        " AND at > now() - make_interval(secs => $2) ORDER BY at",
        (run_id, seconds),
    )
    return [name for (name,) in rows]
