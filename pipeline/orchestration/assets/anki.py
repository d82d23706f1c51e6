"""Assets and checks of what follows the contents: notes in Anki, cards and vectors in SQLite.

One step brings notes and cards up to date together: a batch of notes is written to Anki, read back,
and only then kept in the cards. It holds the target's lock, so no move comes between, and it does
not begin while a proof of the target stands failed. A dry run materializes nothing; what it would
do is observed.
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
from pipeline.core.progress import Progress
from pipeline.declared.rules import TableRules
from pipeline.orchestration.assets import gate
from pipeline.orchestration.common import checks, metadata, retries
from pipeline.orchestration.common.metadata import NOTES
from pipeline.orchestration.common.resources import AnkiCollection, Application, TargetDatabase

CARDS, EMBEDDINGS = anki_cards.name, vector_embeddings.name
STEP = "follow_contents"
CHECK_NOTES = "check_notes"
RECORDINGS = 200
"""So many recordings are compared with every sync."""

Results = Iterator[dg.AssetCheckResult]


class AnkiConfig(dg.Config):
    """What a run of ``anki_sync`` is to do."""

    deck: str | None = Field(
        default=None,
        description="Where notes go whose content has no card yet; otherwise ANKI_DECK.",
    )
    ids: list[int] = Field(default=[], description="Only these contents; none means all.")
    dry_run: bool = Field(default=False, description="Change nothing, tell what would be.")
    force: bool = Field(
        default=False,
        description=(
            "Write what rendering gives now, also over a learner's edits, and make notes again"
            " that were deleted in Anki."
        ),
    )
    removed: Removed = Field(
        default="report",
        description=(
            "Notes of contents that are not there any more are only reported, get the tag"
            " sync::removed, or get it and are suspended."
        ),
    )
    recordings: bool = Field(
        default=False,
        description="Compare the bytes of all recordings, and store anew those that differ.",
    )
    create_deck: bool = Field(default=False, description="Make decks that Anki does not have.")

    def options(self, loaded: Settings) -> Options:
        """The same with what the settings say."""
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
        )


class CheckConfig(dg.Config):
    """How much is compared."""

    recordings: int = Field(
        default=RECORDINGS,
        ge=0,
        description=(
            "So many recordings, chosen at random, are compared byte by byte; 0 compares all. All"
            " have to be there."
        ),
    )


def following_assets(
    tables: Sequence[sa.Table], *, group: str, owners: Sequence[str]
) -> dg.AssetsDefinition:
    """The assets that follow these tables: notes in Anki, cards in SQLite.

    Args:
        tables: those that hold the contents.
        group: the assets' group.
        owners: the assets' owners.
    """

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
                    " stays; notes are never deleted."
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
        description="Let notes and cards follow the contents.",
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
            # The lock first: what is proven now stays so until the end.
            session = target.open()
            gate.require_proven(session, [table.name for table in tables])
            report = sync(
                application.open(),
                anki.open(),
                Renderer(loaded.anki.templates),
                config.options(loaded),
                on_progress=_reporter(context),
            )
        except PipelineError as error:
            retries.try_again(context, error, target)
            raise checks.failure(error) from error
        confirmed = anki_checks.confirmed(report, dry_run=config.dry_run)
        yield from checks.results(NOTES, [confirmed])
        told = {NOTES: metadata.of_following(report), CARDS: metadata.of_cards(report)}
        for name, shown in told.items():
            if config.dry_run:
                context.log_event(dg.AssetObservation(name, metadata=shown))
            else:
                yield dg.MaterializeResult(asset_key=name, metadata=shown)

    return followed


def embeddings_spec(*, group: str) -> dg.AssetSpec:
    """The vectors, which the application makes; they are observed when they are checked."""
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
        specs=_specs(CARDS, anki_checks.OF_CARDS),
        description="Check the cards.",
    )
    def of_cards(application: Application) -> Results:
        named = settings.load().anki
        try:
            renderer = Renderer(named.templates)
            found = anki_checks.of_cards(application.open(), renderer, named.fields)
        except PipelineError as error:
            raise checks.failure(error) from error
        yield from checks.results(CARDS, found)

    @dg.multi_asset_check(
        name=CHECK_NOTES,
        specs=_specs(NOTES, anki_checks.OF_NOTES),
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
        except PipelineError as error:
            raise checks.failure(error) from error
        yield from checks.results(NOTES, found)

    @dg.multi_asset_check(
        name="check_embeddings",
        specs=_specs(EMBEDDINGS, embeddings.OF_EMBEDDINGS),
        description="Look at the vectors, and check them.",
    )
    def of_embeddings(context: dg.AssetCheckExecutionContext, application: Application) -> Results:
        try:
            manager = application.open()
            seen, found = embeddings.observe(manager), embeddings.check(manager)
        except PipelineError as error:
            raise checks.failure(error) from error
        step = context.op_execution_context
        step.log_event(dg.AssetObservation(EMBEDDINGS, metadata=metadata.of_embeddings(seen)))
        yield from checks.results(EMBEDDINGS, found)

    return [of_cards, of_notes, of_embeddings]


def _specs(asset: str, names: Sequence[str]) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(name, asset=asset, description=checks.DESCRIPTIONS[name])
        for name in names
    ]


def _reporter(context: dg.AssetExecutionContext) -> Callable[[int, int], None]:
    report, started = progress.reporter(context.log), time.monotonic()

    def tell(done: int, of: int) -> None:
        report(Progress(NOTES, "export", done, of, 0, time.monotonic() - started))

    return tell
