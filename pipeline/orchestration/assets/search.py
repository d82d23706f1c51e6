"""The asset of the search indexes on contents and fragments.

The indexes are not part of a move, because building them takes longer than moving the tables.
"""

from collections.abc import Iterator, Sequence

import dagster as dg
import sqlalchemy as sa

from pipeline.application.services import search
from pipeline.core.errors import PipelineError
from pipeline.orchestration.common import checks, retries
from pipeline.orchestration.common.resources import Application, TargetDatabase

NAME = "content_search"
CHECK = "search_indexes"


def search_asset(
    tables: Sequence[sa.Table], *, group: str, owners: Sequence[str]
) -> dg.AssetsDefinition:
    """The asset that makes these tables searchable."""

    @dg.asset(
        name=NAME,
        deps=[table.name for table in tables],
        group_name=group,
        kinds={"postgres"},
        owners=list(owners),
        check_specs=[dg.AssetCheckSpec(CHECK, asset=NAME, description=checks.DESCRIPTIONS[CHECK])],
        description=(
            "Indexes that find contents and fragments by any part of their text, including Thai and"
            " IPA without accents."
        ),
    )
    def searchable(
        context: dg.AssetExecutionContext, target: TargetDatabase, application: Application
    ) -> Iterator[dg.MaterializeResult]:  # type: ignore[type-arg]
        sizes: dict[str, int] = {}
        wrong: PipelineError | None = None
        try:
            # While the lock is held no move comes between.
            sizes = target.open().answer(search.installed_question())
            if len(sizes) < len(tables):
                context.log.info("Building the search indexes; writes wait meanwhile.")
                with application.open().get_postgres_session() as session:
                    search.install(session)
                    sizes = search.installed(session)
        except PipelineError as error:
            retries.raise_retry_if_transient(context, error, target)
            wrong = error
        # Without its indexes search is slow, but nothing is wrong with what was moved.
        yield dg.MaterializeResult(
            metadata={name: dg.MetadataValue.int(size) for name, size in sizes.items()},
            check_results=[
                dg.AssetCheckResult(
                    check_name=CHECK,
                    passed=wrong is None,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=str(wrong) if wrong else ", ".join(sizes),
                )
            ],
        )

    return searchable
