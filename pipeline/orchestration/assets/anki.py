"""Assets and checks of Anki: notes in Anki, cards and vectors in SQLite.

One step updates notes and cards together: it writes a batch of notes to Anki, reads the notes back,
and then records them in the cards. It holds the target's lock, so no move runs meanwhile, and it
refuses to start if a blocking check of the target has failed. A dry run materializes nothing; it
records an observation.
"""

import time
import zlib
from collections.abc import Callable, Iterator, Sequence

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from pipeline.anki import checks as anki_checks
from pipeline.anki import embeddings
from pipeline.anki.outcomes import Options, Removed
from pipeline.anki.rendering import Renderer
from pipeline.anki.sync import sync
from pipeline.application.anki_tables import anki_cards, vector_embeddings
from pipeline.config import settings
from pipeline.config.settings import Settings
from pipeline.core import progress
from pipeline.core.errors import PipelineError
from pipeline.core.findings import CheckResult
from pipeline.core.progress import Progress
from pipeline.declared.rules import TableRules
from pipeline.move.ledger import check_results
from pipeline.orchestration.assets import gate
from pipeline.orchestration.common import checks, metadata, retries
from pipeline.orchestration.common.metadata import NOTES
from pipeline.orchestration.common.resources import AnkiCollection, Application, TargetDatabase

CARDS, EMBEDDINGS = anki_cards.name, vector_embeddings.name
STEP = "follow_contents"
CHECK_NOTES = "check_notes"
RECORDINGS = 200
"""Recordings that every sync compares."""

Results = Iterator[dg.AssetCheckResult]


class AnkiConfig(dg.Config):
    """Configuration of ``anki_sync``."""

    deck: str | None = Field(
        default=None,
        description="Deck for notes of contents that have no card yet; the default is ANKI_DECK.",
    )
    ids: list[int] = Field(
        default=[], description="Only the contents with these ids; empty means all."
    )
    dry_run: bool = Field(default=False, description="Show what would change, and change nothing.")
    force: bool = Field(
        default=False,
        description=("Overwrite a learner's edits, and recreate notes that were deleted in Anki."),
    )
    removed: Removed = Field(
        default="report",
        description=(
            "What to do with notes whose content was deleted: report them, tag them"
            " sync::removed, or tag and suspend them."
        ),
    )
    recordings: bool = Field(
        default=False,
        description="Compare the bytes of all recordings, and replace those that differ.",
    )
    create_deck: bool = Field(default=False, description="Create decks that Anki does not have.")
    accept_profile: bool = Field(
        default=False,
        description=(
            "The open profile is the right one, although it has another name than in the last sync,"
            " lacks most notes, or has notes that would be adopted."
        ),
    )

    def options(self, loaded: Settings) -> Options:
        """These options, completed from the settings."""
        return Options(
            self.deck or loaded.anki.deck,
            loaded.anki.note_type,
            loaded.anki.fields,
            ids=frozenset(self.ids) or None,
            dry_run=self.dry_run,
            force=self.force,
            removed=self.removed,
            recordings=self.recordings,
            create_decks=self.create_deck,
            removed_share=loaded.max_delete_share,
            accept_profile=self.accept_profile,
        )


class CheckConfig(dg.Config):
    """How much the checks compare."""

    recordings: int = Field(
        default=RECORDINGS,
        ge=0,
        description=(
            "Number of recordings, chosen at random, to compare byte by byte; 0 means all. Every"
            " recording has to exist."
        ),
    )


def following_assets(
    tables: Sequence[sa.Table], *, group: str, owners: Sequence[str]
) -> dg.AssetsDefinition:
    """The assets that follow the tables of contents: notes in Anki, cards in SQLite."""

    @dg.multi_asset(
        name=STEP,
        specs=[
            dg.AssetSpec(
                NOTES,
                deps=[table.name for table in tables],
                skippable=True,
                group_name=group,
                kinds={"anki"},
                owners=list(owners),
                description=(
                    "A note in Anki for every content. What the learner edited, tagged or scheduled"
                    " is kept; notes are never deleted."
                ),
            ),
            dg.AssetSpec(
                CARDS,
                deps=[NOTES],
                skippable=True,
                group_name=group,
                kinds={"sqlite", "table"},
                owners=list(owners),
                description=TableRules.of(anki_cards).description,
                metadata=metadata.columns(anki_cards),
            ),
        ],
        check_specs=_specs(NOTES, [anki_checks.CONFIRMED]),
        description="Update notes and cards from the contents.",
    )
    def followed(
        context: dg.AssetExecutionContext,
        config: AnkiConfig,
        target: TargetDatabase,
        application: Application,
        anki: AnkiCollection,
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:  # type: ignore[type-arg]
        try:
            loaded = settings.load()
            # The lock first: what is proven now stays proven until the end.
            session = target.open()
            gate.require_proven(session, [table.name for table in tables])
            report = sync(
                application.open(),
                anki.open(),
                Renderer(loaded.anki.templates),
                config.options(loaded),
                on_progress=_reporter(context),
            )
            confirmed = anki_checks.confirmed(report, dry_run=config.dry_run)
            if not config.dry_run:
                check_results.write(session, NOTES, [confirmed], run_id=context.run.run_id)
        except PipelineError as error:
            retries.raise_retry_if_transient(context, error, target)
            raise checks.failure(error) from error
        yield from checks.results(NOTES, [confirmed])
        made = {NOTES: metadata.of_following(report), CARDS: metadata.of_cards(report)}
        for name, shown in made.items():
            if config.dry_run:
                context.log_event(dg.AssetObservation(name, metadata=shown))
            else:
                yield dg.MaterializeResult(asset_key=name, metadata=shown)

    return followed


def embeddings_spec(*, group: str) -> dg.AssetSpec:
    """The vectors, which the application creates and the checks observe."""
    return dg.AssetSpec(
        EMBEDDINGS,
        deps=[CARDS],
        group_name=group,
        kinds={"sqlite", "table"},
        description=TableRules.of(vector_embeddings).description,
        metadata=metadata.columns(vector_embeddings),
    )


def following_checks() -> list[dg.AssetChecksDefinition]:
    """The checks across PostgreSQL, SQLite and Anki."""

    @dg.multi_asset_check(
        name="check_cards",
        specs=_specs(CARDS, anki_checks.CARD_CHECKS),
        description="Check the cards.",
    )
    def of_cards(context: dg.AssetCheckExecutionContext, application: Application) -> Results:
        named = settings.load().anki
        try:
            renderer = Renderer(named.templates)
            found = anki_checks.of_cards(application.open(), renderer, named.fields)
            _record(context, application, CARDS, found)
        except PipelineError as error:
            raise checks.failure(error) from error
        yield from checks.results(CARDS, found)

    @dg.multi_asset_check(
        name=CHECK_NOTES,
        specs=_specs(NOTES, anki_checks.NOTE_CHECKS),
        description="Check the notes.",
    )
    def of_notes(
        context: dg.AssetCheckExecutionContext,
        config: CheckConfig,
        application: Application,
        anki: AnkiCollection,
    ) -> Results:
        try:
            found = anki_checks.of_notes(
                application.open(),
                anki.open(),
                settings.load().anki.fields,
                sample=config.recordings or None,
                seed=zlib.crc32(context.run.run_id.encode()),
            )
            _record(context, application, NOTES, found)
        except PipelineError as error:
            raise checks.failure(error) from error
        yield from checks.results(NOTES, found)

    @dg.multi_asset_check(
        name="check_embeddings",
        specs=_specs(EMBEDDINGS, embeddings.EMBEDDING_CHECKS),
        description="Observe the vectors and check them.",
    )
    def of_embeddings(context: dg.AssetCheckExecutionContext, application: Application) -> Results:
        try:
            manager = application.open()
            observed, found = embeddings.observe(manager), embeddings.check(manager)
            _record(context, application, EMBEDDINGS, found)
        except PipelineError as error:
            raise checks.failure(error) from error
        step = context.op_execution_context
        step.log_event(dg.AssetObservation(EMBEDDINGS, metadata=metadata.of_embeddings(observed)))
        yield from checks.results(EMBEDDINGS, found)

    return [of_cards, of_notes, of_embeddings]


def _record(
    context: dg.AssetCheckExecutionContext,
    application: Application,
    asset: str,
    found: Sequence[CheckResult],
) -> None:
    """Store results without the target's lock, so that a check does not wait for a move."""
    with application.open().get_postgres_session() as session:
        stored = check_results.statement(asset, found, run_id=context.run.run_id)
        session.connection().exec_driver_sql(stored)


def _specs(asset: str, names: Sequence[str]) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(name, asset=asset, description=checks.DESCRIPTIONS[name])
        for name in names
    ]


def _reporter(context: dg.AssetExecutionContext) -> Callable[[int, int], None]:
    report, started = progress.reporter(context.log), time.monotonic()

    def reported(done: int, of: int) -> None:
        report(Progress(NOTES, "export", done, of, 0, time.monotonic() - started))

    return reported
