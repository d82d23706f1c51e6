"""The assets of realtime: the feed of changes, its subscribers, and its retention.

Materializing ``realtime`` creates the feed, the publication and the policies of channels as
declared, in one transaction under the target's lock; what already exists as declared is left alone.
Then a test event of each type is sent and has to arrive.
"""

from collections.abc import Iterable, Sequence

import dagster as dg

from pipeline.config import settings
from pipeline.config.environment import server
from pipeline.core.errors import PipelineError
from pipeline.core.findings import CheckResult
from pipeline.declared import events
from pipeline.migrations.declaration import Migration
from pipeline.move.ledger import check_results
from pipeline.orchestration.common import checks, retries
from pipeline.orchestration.common.resources import TargetDatabase
from pipeline.postgres.target import Target
from pipeline.realtime import canary, channels, feed_objects, publication
from pipeline.realtime import checks as realtime_checks

NAME = "realtime"
STEP = "make_realtime"
RETENTION = "feed_retention"
PRUNED_AT_ONCE = 100_000
"""Rows that one call of ``feed.prune`` reads; a run makes at most ``_CALLS`` calls."""
_CALLS = 20


def realtime_asset(migration: Migration, *, group: str) -> dg.AssetsDefinition:
    """The asset of realtime on the target."""
    tables = migration.tables

    @dg.multi_asset(
        name=STEP,
        specs=[
            dg.AssetSpec(
                NAME,
                deps=[table.name for table in tables if events.published_changes(table)],
                group_name=group,
                kinds={"postgres"},
                owners=list(migration.owners),
                description=(
                    "The feed of changes and its triggers, the publication that Supabase Realtime"
                    " reads, and the policies of private channels. A test event of each type"
                    " arrived."
                ),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(name, asset=NAME, description=checks.DESCRIPTIONS[name])
            for name in realtime_checks.NAMES
        ],
        description="Create realtime as declared, and send a test event of each type.",
    )
    def publish(context: dg.AssetExecutionContext, target: TargetDatabase) -> dg.MaterializeResult:  # type: ignore[type-arg]
        try:
            session, loaded = target.open(), settings.load()
            # Tables of all migrations, so that undeclared ones are removed from the publication.
            known = loaded.registry.tables
            with session.transaction():
                made = feed_objects.apply(session, tables)
                done = publication.apply(session, tables, known={table.name for table in known})
                joined = channels.apply(session)
            for line in done:
                context.log.info(line)
            if not publication.streamed(session):
                context.log.warning(
                    "wal_level of the target is not logical, so postgres_changes sends nothing."
                    " The feed and broadcasts do not need it."
                )
            with session.read_only():
                found = realtime_checks.verify(session, tables, known=known)
            where = server(loaded)
            emitted = canary.emit(session, url=where.target_url, shown=where.target_shown)
            check_results.write(session, NAME, (*found, emitted), run_id=context.run.run_id)
        except PipelineError as error:
            retries.raise_retry_if_transient(context, error, target)
            raise checks.failure(error, migration) from error
        return dg.MaterializeResult(
            metadata=_figures((*found, emitted))
            | {
                "triggers_made": dg.MetadataValue.int(made),
                "published_anew": dg.MetadataValue.text("; ".join(done) or "nothing"),
                "private_channels": dg.MetadataValue.text(
                    "by policies on realtime.messages" if joined else "no Realtime in this target"
                ),
            },
            check_results=checks.results(NAME, (*found, emitted)),
        )

    return publish


def retention_asset(*, group: str, owners: Sequence[str]) -> dg.AssetsDefinition:
    """The asset that limits the feed."""

    @dg.asset(
        name=RETENTION,
        group_name=group,
        kinds={"postgres"},
        owners=list(owners),
        description="Delete changes of the feed that are older than FEED_HOURS.",
    )
    def kept(context: dg.AssetExecutionContext, target: TargetDatabase) -> dg.MaterializeResult:  # type: ignore[type-arg]
        try:
            session = target.open()
            pruned = prune(session, hours=settings.load().feed_hours)
            figures = sizes(session)
        except PipelineError as error:
            retries.raise_retry_if_transient(context, error, target)
            raise checks.failure(error) from error
        return dg.MaterializeResult(
            metadata={
                name: dg.MetadataValue.int(value)
                for name, value in {"pruned": pruned, **figures}.items()
            }
        )

    return kept


def prune(target: Target, *, hours: float) -> int:
    """Delete old changes, a bounded number; 0 if there is no feed."""
    if not feed_objects.exists(target):
        return 0
    pruned = 0
    for _ in range(_CALLS):
        with target.transaction():
            deleted = target.value(
                "SELECT feed.prune(make_interval(secs => $1), $2::int)",
                (hours * 3600.0, PRUNED_AT_ONCE),
            )
        pruned += deleted
        if deleted < PRUNED_AT_ONCE:
            break
    return pruned


def sizes(target: Target) -> dict[str, int]:
    """Rows and bytes of the feed; zeros if there is none."""
    if not feed_objects.exists(target):
        return {"feed_rows": 0, "feed_bytes": 0}
    ((rows, size),) = target.rows(
        "SELECT count(*), pg_total_relation_size('feed.changes') FROM feed.changes"
    )
    return {"feed_rows": rows, "feed_bytes": size}


def _figures(found: Iterable[CheckResult]) -> dict[str, dg.MetadataValue]:
    shown: dict[str, dg.MetadataValue] = {}
    for check in found:
        for name, value in check.figures.items():
            match value:
                case int():
                    shown[name] = dg.MetadataValue.int(value)
                case float():
                    shown[name] = dg.MetadataValue.float(value)
                case _:
                    shown[name] = dg.MetadataValue.text(str(value))
    return shown
