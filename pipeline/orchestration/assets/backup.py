"""The assets of a backup of both databases, verified by restoring it elsewhere.

One step makes both under the target's lock: one folder, one manifest, and no move in between.
"""

from collections.abc import Iterator

import dagster as dg
import pandas as pd

from pipeline.backup import store
from pipeline.backup.create import BackupResult, RestoreCheck, make
from pipeline.config import environment, settings
from pipeline.core.errors import PipelineError
from pipeline.migrations.declaration import Migration
from pipeline.orchestration.common import checks, retries
from pipeline.orchestration.common.resources import TargetDatabase
from pipeline.reporting import frames

SOURCE, TARGET, STEP, CHECK = "source_backup", "target_backup", "make_backup", "restorable"


def backup_assets(migration: Migration, *, group: str) -> dg.AssetsDefinition:
    """The assets that back up a migration's source, its tables, and its rows of the ledger."""
    owners = migration.owners
    of_source, of_target = migration.named(SOURCE), migration.named(TARGET)

    @dg.multi_asset(
        name=migration.named(STEP),
        specs=[
            dg.AssetSpec(
                of_source,
                group_name=group,
                kinds={"sqlite"},
                owners=list(owners),
                description=(
                    "A consistent copy of the SQLite file in PIPELINE_HOME/backups; the application"
                    " can keep writing meanwhile."
                ),
            ),
            dg.AssetSpec(
                of_target,
                deps=[of_source],
                group_name=group,
                kinds={"postgres"},
                owners=list(owners),
                description=(
                    "The target's tables and their part of the ledger at one moment, in the same"
                    " folder: rows, definitions, sequences and rights."
                ),
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK, asset=asset, blocking=True, description=checks.DESCRIPTIONS[CHECK]
            )
            for asset in (of_source, of_target)
        ],
    )
    def kept(
        context: dg.AssetExecutionContext, target: TargetDatabase
    ) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        try:
            # No move runs while the lock is held.
            target.open()
            loaded = settings.load()
            found = environment.databases(loaded, migration, fresh=True)
            made = make(loaded.pipeline_home, found, migration, keep=loaded.keep_backups)
        except PipelineError as error:
            retries.raise_retry_if_transient(
                context, error.for_migration(migration.address), target
            )
            raise checks.failure(error, migration) from error
        folder = dg.MetadataValue.path(str(store.place(loaded.pipeline_home, made.manifest.name)))
        common: dict[str, dg.MetadataValue] = {
            "backup": dg.MetadataValue.text(made.manifest.name),
            "folder": folder,
        }
        yield dg.MaterializeResult(
            asset_key=of_source,
            metadata=common | _of_source(made),
            check_results=[_result(of_source, made.source)],
        )
        yield dg.MaterializeResult(
            asset_key=of_target,
            metadata=common | _of_target(made),
            check_results=[_result(of_target, made.target)],
        )

    return kept


def _result(asset: str, restore_check: RestoreCheck) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=CHECK,
        asset_key=asset,
        passed=restore_check.fault is None,
        severity=dg.AssetCheckSeverity.ERROR,
        description=restore_check.fault or "restored elsewhere; every table equals the original",
        metadata={"seconds": dg.MetadataValue.float(round(restore_check.seconds, 3))},
    )


def _of_source(made: BackupResult) -> dict[str, dg.MetadataValue]:
    manifest = made.manifest
    rows = [{"table": t.name, "rows": f"{t.rows:,}"} for t in manifest.source_tables]
    return {
        "source": dg.MetadataValue.text(manifest.source),
        "bytes": dg.MetadataValue.int(manifest.source_bytes),
        "seconds": dg.MetadataValue.float(round(made.source_seconds, 3)),
        "sha256": dg.MetadataValue.text(manifest.source_sha256),
        "rows": dg.MetadataValue.int(sum(table.rows for table in manifest.source_tables)),
        "tables": dg.MetadataValue.md(frames.markdown(pd.DataFrame(rows, dtype=object))),
    }


def _of_target(made: BackupResult) -> dict[str, dg.MetadataValue]:
    manifest = made.manifest
    rows = [
        {
            "table": table.shown,
            "rows": f"{table.rows:,}" if table.existed else "no table",
            "bytes": f"{table.bytes:,}",
            "sha256": table.sha256,
        }
        for table in manifest.target_tables
    ]
    return {
        "target": dg.MetadataValue.text(manifest.target),
        "bytes": dg.MetadataValue.int(sum(table.bytes for table in manifest.target_tables)),
        "seconds": dg.MetadataValue.float(round(made.target_seconds, 3)),
        "rows": dg.MetadataValue.int(sum(table.rows for table in manifest.target_tables)),
        "tables": dg.MetadataValue.md(frames.markdown(pd.DataFrame(rows, dtype=object))),
        "removed": dg.MetadataValue.text(", ".join(made.removed) or "none"),
    }
