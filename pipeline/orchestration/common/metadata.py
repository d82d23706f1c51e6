"""Metadata of materializations: schema, counts, rates, reasons and a preview."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import pandas as pd
import sqlalchemy as sa

from pipeline.anki.embeddings import Observed
from pipeline.anki.outcomes import ACTIONS, CONFIRMED, Report
from pipeline.core.findings import Quarantined, describe
from pipeline.core.policies import Policies
from pipeline.core.quoting import printable, quoted
from pipeline.declared.rules import ColumnRules
from pipeline.mapping import secret
from pipeline.mapping.casts.types import type_name
from pipeline.mapping.row_key import RowKey
from pipeline.move.reading import recognition
from pipeline.move.run.disk_space import NOTHING_NEEDED, TargetDisk
from pipeline.move.run.plan import TablePlan
from pipeline.move.run.transaction import MoveResult
from pipeline.postgres.driver.statements import Question
from pipeline.postgres.target import Target
from pipeline.reporting import census_page, frames
from pipeline.scaffold.census import Census
from pipeline.sqlite.tables import OtherTable

PLAN = "plan"
"""The metadata entry that holds a plan as JSON."""

ROOM, FITS = "disk space", "fits the disk"
"""The metadata entries of a plan with the disk space that it needs, and whether the disk has it."""

NEW_REASONS = "new_in_quarantine"
"""The metadata entry with the reasons of the rows that a move put into quarantine, as JSON."""

RULES = "rules"
"""The metadata entry with a digest of the rules and policies of a plan."""

NOT_DECLARED = "not_declared"
"""The entry with the tables of the source that are not declared."""
FORMS = "setting"
"""The entry with the setting that declares the forms that a plan recognized."""
ANSWERS = "list"
"""The metadata entry with the answers of a cut-over's gate as JSON."""

_PREVIEW_ROWS = 5
_PREVIEW_LETTERS = 60

NOTES = "anki_notes"
"""The asset of the notes in Anki."""

OUTCOMES = "outcomes"
"""The metadata entry with the outcomes of a sync with Anki as JSON."""

_OUTCOMES = 500


def columns(table: sa.Table) -> dict[str, dg.MetadataValue]:
    """The columns of a table."""
    return {
        "dagster/column_schema": dg.MetadataValue.table_schema(
            dg.TableSchema(
                columns=[
                    dg.TableColumn(
                        column.name,
                        type_name(column.type),
                        description=ColumnRules.of(column).description,
                        constraints=dg.TableColumnConstraints(
                            nullable=bool(column.nullable), unique=bool(column.primary_key)
                        ),
                    )
                    for column in table.columns
                ]
            )
        )
    }


def declared(table: sa.Table) -> dict[str, dg.MetadataValue]:
    """The metadata of a table that has not moved yet."""
    constraints = ", ".join(sorted(str(c.name) for c in table.constraints))
    return {
        **columns(table),
        "dagster/table_name": dg.MetadataValue.text(f"public.{table.name}"),
        "constraints": dg.MetadataValue.text(constraints),
        "indexes": dg.MetadataValue.text(", ".join(sorted(str(i.name) for i in table.indexes))),
    }


def of_census(census: Census, page: Path) -> dict[str, dg.MetadataValue]:
    """The metadata of a census."""
    declared = census.declared
    others = [table.name for table in census.others if not table.stays]
    shown: dict[str, dg.MetadataValue] = {
        "rows": dg.MetadataValue.int(sum(table.rows for table in declared)),
        "to_look_at": dg.MetadataValue.int(sum(table.to_look_at for table in declared)),
        "columns": dg.MetadataValue.md(census_page.summary(census)),
        "page": dg.MetadataValue.path(page),
    }
    if others:
        shown[NOT_DECLARED] = dg.MetadataValue.text(", ".join(map(printable, others)))
    return shown


def of_move(
    move: MoveResult, new: Sequence[Quarantined], *, preview: pd.DataFrame, report: Path
) -> dict[str, dg.MetadataValue]:
    """The metadata of a move; ``new`` are the reasons of rows that it put into quarantine."""
    loading = sum(s for phase, s in move.seconds.items() if phase in ("load", "compare"))
    whole = sum(move.seconds.values())
    shown: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(move.target_rows),
        **columns(move.mapping.table),
        "strategy": dg.MetadataValue.text(move.strategy),
        **{name: dg.MetadataValue.int(figure) for name, figure in move.figures.items()},
        "rows_per_second": dg.MetadataValue.int(
            round((move.source_rows - move.excluded_rows) / max(loading, 1e-3))
        ),
        "mib_per_second": dg.MetadataValue.float(
            float(round(move.source_bytes / 2**20 / max(loading, 1e-3), 1))
        ),
        "seconds": dg.MetadataValue.float(float(round(whole, 3))),
        "seconds_by_phase": dg.MetadataValue.json(
            {phase: round(seconds, 3) for phase, seconds in move.seconds.items()}
        ),
    }
    if move.newest is not None:
        shown["newest_source_change"] = dg.MetadataValue.timestamp(move.newest)
    if move.newest is not None and move.previous_newest is not None:
        lag = max((move.newest - move.previous_newest).total_seconds(), 0.0)
        shown["lag_seconds"] = dg.MetadataValue.float(lag)
    shown["report"] = dg.MetadataValue.path(report)
    if len(preview):
        shown["preview"] = dg.MetadataValue.md(frames.markdown(preview))
    reasons = [f for c in move.checks for f in c.findings if isinstance(f, Quarantined)]
    for name, listed in (("quarantine_reasons", reasons), (NEW_REASONS, new)):
        if listed:
            shown[name] = dg.MetadataValue.json(
                [{n: v for n, v in vars(reason).items() if n != "table"} for reason in listed]
            )
    if reasons:
        shown["quarantine"] = dg.MetadataValue.md(frames.markdown(frames.reasons(reasons)))
    drift = next(check for check in move.checks if check.name == "drift")
    if drift.findings:
        shown["drift"] = dg.MetadataValue.text(
            printable("; ".join(describe(f) for f in drift.findings))
        )
    return shown


def of_undeclared(found: Sequence[OtherTable]) -> dict[str, dg.MetadataValue]:
    """The metadata of tables that are not declared; none if all are."""
    if not found:
        return {}
    return {NOT_DECLARED: dg.MetadataValue.text(", ".join(each.shown for each in found))}


def of_plan(
    plans: Sequence[TablePlan],
    rules: str,
    space: TargetDisk,
    undeclared: Sequence[OtherTable],
    policies: Policies,
) -> dict[str, dg.MetadataValue]:
    """The metadata of a plan: tables for people, JSON for programs.

    Args:
        plans: one for each table.
        rules: digest of the rules and policies that decide how values move.
        space: the disk of the target.
        undeclared: tables of the source that are not declared.
    """
    room = sum((plan.disk_need for plan in plans), NOTHING_NEEDED)
    shown: dict[str, dg.MetadataValue] = {
        "rows": dg.MetadataValue.int(sum(plan.rows for plan in plans)),
        "bytes": dg.MetadataValue.int(sum(plan.bytes for plan in plans)),
        "rejected": dg.MetadataValue.int(sum(plan.rejected_rows for plan in plans)),
        "seconds": dg.MetadataValue.float(round(sum(plan.seconds for plan in plans), 1)),
        ROOM: dg.MetadataValue.text(space.describe(room)),
        FITS: dg.MetadataValue.bool(space.fits(room)),
    }
    for title, frame in frames.of_plan(plans).items():
        if len(frame):
            shown[title.lower()] = dg.MetadataValue.md(frames.markdown(frame))
    shown |= of_undeclared(undeclared)
    forms = [form for plan in plans for form in plan.proposals]
    if forms:
        shown[FORMS] = dg.MetadataValue.text(recognition.settings(forms, policies.forms))
    shown[PLAN] = dg.MetadataValue.json([asdict(plan) for plan in plans])
    shown[RULES] = dg.MetadataValue.text(rules)
    return shown


def preview_of(target: Target, table: sa.Table) -> pd.DataFrame:
    """The first rows of a table, with BLOBs as sizes, long texts cut and secrets hidden."""
    return target.answer(preview_question(table))


def preview_question(table: sa.Table) -> Question[pd.DataFrame]:
    """The questions of ``preview_of``."""
    hidden = secret.columns(table)
    outputs = ", ".join(
        f"'{secret.SHOWN}' AS {quoted(c.name)}"
        if c.name in hidden
        else f"octet_length({quoted(c.name)}) || ' bytes' AS {quoted(c.name)}"
        if isinstance(c.type, sa.LargeBinary)
        else f"left({quoted(c.name)}::text, {_PREVIEW_LETTERS}) AS {quoted(c.name)}"
        for c in table.columns
    )
    key = RowKey.of(table).sql
    names = [column.name for column in table.columns]
    return Question(
        f"SELECT {outputs} FROM {quoted(table.name)} AS t ORDER BY t.{key} LIMIT {_PREVIEW_ROWS}",
        (),
        lambda rows: pd.DataFrame(rows, columns=names, dtype=object),
    )


def of_following(report: Report) -> dict[str, dg.MetadataValue]:
    """The metadata of a sync with Anki, or of its dry run."""
    shown: dict[str, dg.MetadataValue] = {
        action.replace(" ", "_"): dg.MetadataValue.int(report.counts[action]) for action in ACTIONS
    }
    shown |= {
        "recordings": dg.MetadataValue.int(report.media_files),
        "recorded_bytes": dg.MetadataValue.int(report.media_bytes),
        "seconds": dg.MetadataValue.float(round(report.seconds, 3)),
    }
    if report.outcomes:
        some = report.outcomes[:_OUTCOMES]
        shown["contents"] = dg.MetadataValue.md(frames.markdown(frames.outcome_frame(some)))
        shown[OUTCOMES] = dg.MetadataValue.json([asdict(outcome) for outcome in some])
    return shown


def of_cards(report: Report) -> dict[str, dg.MetadataValue]:
    """The metadata of the cards: outcomes that Anki confirmed."""
    written = {name: report.counts[name] for name in (*CONFIRMED, "skipped")}
    return {name: dg.MetadataValue.int(number) for name, number in written.items()}


def of_embeddings(found: Observed) -> dict[str, dg.MetadataValue]:
    """The metadata of the embeddings."""
    shown: dict[str, dg.MetadataValue] = {
        "embeddings": dg.MetadataValue.int(found.embeddings),
        "cards": dg.MetadataValue.int(found.cards),
        "by_type": dg.MetadataValue.json(found.by_type),
        "by_dimension": dg.MetadataValue.json(found.by_dimension),
    }
    if found.newest:
        shown["newest"] = dg.MetadataValue.text(found.newest)
    return shown
