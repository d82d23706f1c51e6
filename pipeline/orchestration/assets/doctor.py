"""The check whether both databases are ready for a move; ``pipeline doctor`` in the UI."""

import dagster as dg

from pipeline.config import settings
from pipeline.core.errors import PipelineError
from pipeline.doctor.examination import examine
from pipeline.migrations.declaration import Migration
from pipeline.orchestration.assets.plan import PLAN
from pipeline.orchestration.common import checks
from pipeline.reporting import frames

NAME = "doctor"


def doctor_check(migration: Migration) -> dg.AssetChecksDefinition:
    """The check on the plan of a migration."""

    @dg.asset_check(asset=migration.named(PLAN), name=NAME, description=checks.DESCRIPTIONS[NAME])
    def examined() -> dg.AssetCheckResult:
        try:
            found = examine(settings.load(), migration)
        except PipelineError as error:
            raise checks.failure(error, migration) from error
        shown = frames.diagnostic_frame(found, migration.address)
        wrong = [diagnostic for diagnostic in found if diagnostic.state != "ok"]
        errors = [diagnostic for diagnostic in wrong if diagnostic.state == "error"]
        return dg.AssetCheckResult(
            passed=not wrong,
            severity=dg.AssetCheckSeverity.ERROR if errors else dg.AssetCheckSeverity.WARN,
            description="; ".join(f"{s.place}, {s.name}: {s.detail}" for s in wrong)
            or "no problem was found",
            metadata={"symptoms": dg.MetadataValue.md(frames.markdown(shown))},
        )

    return examined
