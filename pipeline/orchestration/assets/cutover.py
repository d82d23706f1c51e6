"""The asset that represents the state of a migration: who may write. Only its job changes it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal, get_args

import dagster as dg
from pydantic import Field

from pipeline import backup
from pipeline.anki import checks as anki_checks
from pipeline.anki import embeddings
from pipeline.config import settings
from pipeline.config.environment import server, source_file
from pipeline.core.errors import PipelineError, SettingsError
from pipeline.core.locks import private_folder
from pipeline.core.messages import (
    ANKI_CHECK,
    ANKI_SYNC,
    BACKUP,
    PLAN,
    REALTIME_ON,
    message,
    written,
)
from pipeline.cutover import rollback, states, steps
from pipeline.cutover.gate import Answer
from pipeline.cutover.steps import CUTOVER, STEP
from pipeline.declared import ledger
from pipeline.migrations.declaration import Migration
from pipeline.move.context.options import MoveOptions
from pipeline.move.ledger import check_results
from pipeline.move.ledger.watermarks import common_rules_digest
from pipeline.orchestration.assets.anki import CARDS, EMBEDDINGS
from pipeline.orchestration.assets.plan import PLAN as PLANNED
from pipeline.orchestration.assets.realtime import NAME as REALTIME
from pipeline.orchestration.common import checks
from pipeline.orchestration.common.metadata import ANSWERS, NOTES
from pipeline.orchestration.common.resources import SourceDatabase, TargetDatabase
from pipeline.postgres.target import Target
from pipeline.realtime import checks as realtime_checks
from pipeline.reporting import frames

GATE = "gate"
Step = Literal["check", "freeze", "live", "unfreeze", "close", "rollback"]
STEPS: tuple[Step, ...] = get_args(Step)

BACKUP_HOURS = 24
"""The maximum age of the backup that a cut-over requires."""

_OF_ANKI = {
    NOTES: (anki_checks.CONFIRMED, *anki_checks.NOTE_CHECKS),
    CARDS: anki_checks.CARD_CHECKS,
    EMBEDDINGS: embeddings.EMBEDDING_CHECKS,
}

Further = Callable[[Target], Answer]
"""A question for the gate, answered from recorded results of checks."""

Results = Iterator[dg.AssetCheckResult | dg.MaterializeResult]  # type: ignore[type-arg]


class CutoverConfig(dg.Config):
    """Configuration of ``cutover``."""

    step: Step = Field(
        default="check",
        description=(
            "check: evaluate the gate only. freeze: compare every value, freeze the source, and"
            " move the remaining changes. live: freeze, then let the application write to the"
            " target. unfreeze: go back from frozen to shadow. close: stop capturing writes to the"
            " target; rollback becomes impossible. rollback: copy what was written to the target"
            " back into the source."
        ),
    )
    confirm: str = Field(
        default="",
        description=(
            "close and rollback cannot be undone. They run only if this repeats the step and the"
            " migration, such as: close content"
        ),
    )


def cutover_asset(
    migration: Migration, *, group: str, further: Sequence[Further] = ()
) -> dg.AssetsDefinition:
    """The asset that represents the state of a migration.

    Args:
        migration: the migration.
        group: the asset's group.
        further: additional questions for the gate.
    """
    tables = migration.tables
    name = migration.named(CUTOVER)

    @dg.multi_asset(
        name=migration.named(STEP),
        specs=[
            dg.AssetSpec(
                name,
                deps=[table.name for table in tables],
                group_name=group,
                kinds={"sqlite", "postgres"},
                owners=list(migration.owners),
                description=(
                    "Who may write. shadow: the application writes to SQLite, and syncs update"
                    " PostgreSQL. frozen: nobody writes. live: the application writes to"
                    " PostgreSQL, and its writes are captured for a rollback. closed: a rollback is"
                    " no longer possible."
                ),
            )
        ],
        check_specs=[dg.AssetCheckSpec(GATE, asset=name, description=checks.DESCRIPTIONS[GATE])],
        description="Change the state of the migration, or evaluate the gate.",
        # Not every step evaluates the gate, and evaluating it alone changes no state.
        can_subset=True,
    )
    def changed(
        context: dg.AssetExecutionContext,
        config: CutoverConfig,
        source: SourceDatabase,
        target: TargetDatabase,
    ) -> Results:
        try:
            _require_confirmation(config, migration)
            loaded = settings.load()
            site = steps.CutoverContext(
                path=source_file(loaded, migration),
                sources=source.views(migration, run_id=context.run.run_id),
                target=target.open(),
                migration=migration.name,
                tables=tables,
                options=MoveOptions(
                    context.run.run_id,
                    loaded.policies(migration),
                    loaded.max_delete_share,
                    quarantine_share=loaded.max_quarantine_share,
                ),
                log=lambda text: context.log.info(written(text, migration.address)),
            )
            yield from _step(config.step, site, migration, further)
        except PipelineError as error:
            raise checks.failure(error, migration) from error

    return changed


def _require_confirmation(config: CutoverConfig, migration: Migration) -> None:
    """Refuse a step that cannot be undone unless it is confirmed.

    Raises:
        SettingsError: the configuration does not confirm it.
    """
    wanted = steps.confirmation(config.step, migration.name)
    if wanted and config.confirm.strip() != wanted:
        raise SettingsError(
            f"The step {config.step} cannot be undone and is not confirmed",
            remedy=f"Add this line below step in the run's configuration: confirm: {wanted}",
        )


def _step(
    step: Step,
    site: steps.CutoverContext,
    migration: Migration,
    further: Sequence[Further],
) -> Results:
    """Take one step and report its outcome."""
    name = migration.named(CUTOVER)
    shown: dict[str, dg.MetadataValue] = {}
    if step == "rollback":
        with private_folder(settings.load().snapshots, f"{site.options.run_id}-back") as folder:
            returned = rollback.roll_back(site, folder)
        for table in returned:
            counts = f"{table.inserted} inserted, {table.updated} updated, {table.deleted} deleted"
            left = [
                f"{count} values of {name} exist only in the target"
                for name, count in table.left.items()
            ]
            shown[table.table] = dg.MetadataValue.text("; ".join([counts, *left, *table.notes]))
    elif step == "unfreeze":
        steps.unfreeze(site)
    elif step == "close":
        steps.close(site)
    else:
        outside = [
            _planned(site, migration),
            _backed_up(site, migration),
            *(ask(site.target) for ask in further),
        ]
        match step:
            case "check":
                passed = states.why_not_following(site.target, site.migration)
                asked = [*([] if passed else outside), *steps.ask(site)]
                if asked:
                    yield result(migration, asked, asked_early=True)
                return
            case "freeze":
                outcome = steps.freeze(site, outside=outside)
            case "live":
                outcome = steps.go_live(site, outside=outside)
        yield result(migration, outcome.answers)
        if not outcome.open:
            no = "; ".join(f"{a.question}: {a.detail}" for a in outcome.answers if not a.yes)
            raise dg.Failure(
                f"The gate is closed, and the migration is {outcome.state}. {no}.",
                allow_retries=False,
            )
        shown["caught_up"] = dg.MetadataValue.int(outcome.caught_up)
        if outcome.blocked_seconds is not None:
            shown["blocked_seconds"] = dg.MetadataValue.float(round(outcome.blocked_seconds, 3))
    now = states.read(site.target, site.migration)
    yield dg.MaterializeResult(
        asset_key=name, metadata={"state": dg.MetadataValue.text(now.state), **shown}
    )


def result(
    migration: Migration, answers: Sequence[Answer], *, asked_early: bool = False
) -> dg.AssetCheckResult:
    """The gate as a check, which passes if every answer is yes.

    Args:
        migration: the migration.
        answers: the answers to all questions.
        asked_early: whether no cut-over was attempted, so that a no is only a warning.
    """
    answers = [replace(a, remedy=written(a.remedy, migration.address)) for a in answers]
    no = [answer for answer in answers if not answer.yes]
    return dg.AssetCheckResult(
        check_name=GATE,
        asset_key=migration.named(CUTOVER),
        passed=not no,
        severity=dg.AssetCheckSeverity.WARN if asked_early else dg.AssetCheckSeverity.ERROR,
        description="; ".join(f"{a.question}: no, {a.detail}" for a in no) or "open",
        metadata={
            "questions": dg.MetadataValue.int(len(answers)),
            "no": dg.MetadataValue.int(len(no)),
            "answers": dg.MetadataValue.md(frames.markdown(frames.answer_frame(answers))),
            ANSWERS: dg.MetadataValue.json([vars(answer) for answer in answers]),
        },
    )


def _planned(site: steps.CutoverContext, migration: Migration) -> Answer:
    question, plan = "the plan is current", migration.named(PLANNED)
    found = check_results.read(site.target, [plan]).get((plan, ledger.PLANNED))
    if found is None:
        return Answer(question, False, "no plan exists", message("Run ", PLAN, " and review it"))
    live = site.sources.pin(site.tables)
    now = common_rules_digest(site.tables, live, site.options.policies)
    site.sources.release()
    made = f"created {found.at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"  # noqa: UP017
    if found.rules != now:
        detail = f"{made}; columns or policies have changed since"
        return Answer(question, False, detail, message("Run ", PLAN, " and review it"))
    return Answer(question, True, made)


def anki_consistent(target: Target) -> Answer:
    """Whether the checks of Anki passed, if an Anki is configured."""
    question = "Anki is consistent"
    named = settings.load().anki
    if not (named.collection or named.connect_url):
        return Answer(question, True, "no Anki is configured")
    # One check is made by syncs only; before the first sync it has no result.
    no = _unchecked(target, _OF_ANKI, spared=1)
    if no:
        return Answer(question, False, no, message("Run ", ANKI_SYNC, " or ", ANKI_CHECK))
    return Answer(question, True, "every check passed, apart from warnings")


def realtime_arrives(target: Target) -> Answer:
    """Whether realtime is switched on, and a test event of every type arrived."""
    question = "realtime is on, and events arrive"
    no = _unchecked(target, {REALTIME: realtime_checks.NAMES})
    if no:
        return Answer(question, False, no, message("Run ", REALTIME_ON))
    return Answer(question, True, "every check passed, apart from warnings")


def _unchecked(
    target: Target, wanted: Mapping[str, Sequence[str]], *, spared: int = 0
) -> str | None:
    """Which checks failed in their last run or never ran; None if all passed.

    Args:
        target: the target with the results.
        wanted: names of checks by asset.
        spared: number of checks that need no result.
    """
    recorded = check_results.read(target, list(wanted))
    keys = [(asset, name) for asset, names in wanted.items() for name in names]
    missing = [name for asset, name in keys if (asset, name) not in recorded]
    found = [recorded[key] for key in keys if key in recorded]
    failed = [result.name for result in found if not result.passed and result.blocking]
    if failed:
        return f"failed: {', '.join(failed)}"
    return f"never checked: {', '.join(missing)}" if len(missing) > spared else None


def _backed_up(site: steps.CutoverContext, migration: Migration) -> Answer:
    question, remedy = "a backup was restored and verified", message("Run ", BACKUP)
    found = backup.newest(settings.load().pipeline_home, migration.name)
    if found is None or found.restore_verified is None:
        return Answer(question, False, "no backup exists", remedy)
    backed_up = f"{found.name}, restore verified {found.restore_verified:%Y-%m-%d %H:%M} UTC"
    if Path(found.source) != site.path:
        return Answer(question, False, f"{backed_up}, but of {found.source}", remedy)
    if found.target != server(settings.load()).target_shown:
        return Answer(question, False, f"{backed_up}, but of {found.target}", remedy)
    if datetime.now(timezone.utc) - found.at > timedelta(hours=BACKUP_HOURS):  # noqa: UP017
        return Answer(question, False, f"{backed_up}, more than {BACKUP_HOURS} hours old", remedy)
    return Answer(question, True, backed_up)
