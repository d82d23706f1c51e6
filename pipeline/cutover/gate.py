"""The conditions for the application to write to the target: a list of yes or no answers.

The answers come from both databases. Those that only Dagster or the disk can give are added by the
caller.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from pipeline.core.errors import ShapeError
from pipeline.core.findings import Finding, describe
from pipeline.core.messages import (
    FREEZE,
    MIGRATE,
    ROLLBACK,
    SIGN_OFF,
    SYNC_FULL,
    TRACK_ON,
    Text,
    message,
)
from pipeline.core.policies import Policies
from pipeline.cutover import capture, freezing, sign_offs
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.ledger import watermarks
from pipeline.move.proof import constraints
from pipeline.move.reading.pinned_source import PinnedSource
from pipeline.postgres import access, schema
from pipeline.postgres.target import Target

PROVEN, FROZEN = "every value is proven", "nobody writes the source"
"""The questions that can only be answered with yes once the source is frozen."""

_NAMED = 3


@dataclass(frozen=True)
class Answer:
    """One question of the gate and its answer.

    Attributes:
        detail: the observed facts.
        remedy: what to do; empty if the condition holds.
    """

    question: str
    yes: bool
    detail: str
    remedy: Text = ""


def ask(
    target: Target, live: PinnedSource, tables: Sequence[sa.Table], policies: Policies
) -> list[Answer]:
    """Evaluate all conditions; ``target`` is a session within a transaction."""
    missing = [table.name for table in tables if not schema.exists(target, table.name)]
    if missing or not target.value("SELECT to_regclass('migration.signed_off') IS NOT NULL"):
        detail = f"the target lacks {', '.join(missing) or 'the ledger'}"
        return [Answer(PROVEN, False, detail, message("Run ", MIGRATE))]
    try:
        for table in tables:
            schema.inspect(target, table.name)
    except ShapeError as error:
        return [Answer(PROVEN, False, error.problem, error.advice)]
    mappings = [live.match(table, policies) for table in tables]
    return [
        _proven(target, live, mappings),
        _frozen(live, tables),
        _conflicts(target, tables),
        _untouched(target, tables),
        _quarantine(target, tables),
        _sequences(target, live, mappings, frozen=_frozen(live, tables).yes),
        _rights(target, mappings),
    ]


def ask_later(target: Target, live: PinnedSource, tables: Sequence[sa.Table]) -> list[Answer]:
    """Evaluate the conditions of a rollback while the target is live."""
    frozen, unwatched = _frozen(live, tables), _unwatched(target, tables)
    if not frozen.yes:
        frozen = replace(frozen, remedy="Stop all writers of the source; restore the frozen file")
    question = "every write is captured"
    if unwatched:
        detail = [f"writes to {', '.join(unwatched)} are not captured"]
        captured = _no(
            question,
            detail,
            message("Nothing to do: ", ROLLBACK, " will compare all of their rows"),
        )
    else:
        names = capture.truncated(target, tables)
        # A truncation of a table is not a number of rows.
        rows = sum(capture.noted(target, tables).values()) - len(names)
        emptied = f"; {', '.join(names)} truncated" if names else ""
        captured = Answer(question, True, f"{rows:,} so far{emptied}")
    return [frozen, captured]


def _proven(target: Target, live: PinnedSource, mappings: Sequence[TableMapping]) -> Answer:
    """Whether every value was proven once, and every change logged by the source since."""
    question, wrong, outstanding = PROVEN, [], 0
    for mapping in mappings:
        mark = watermarks.read(target, mapping.name)
        now = live.position(mapping.table)
        whole = target.value(
            "SELECT EXISTS (SELECT FROM migration.evidence WHERE table_name = $1)", (mapping.name,)
        )
        if mark is None or not whole:
            wrong.append(f"{mapping.name} was never moved and proven as a whole")
        elif mark.rules != watermarks.rules_digest(mapping):
            wrong.append(f"columns or policies of {mapping.name} have changed since")
        elif now is None or mark.position is None:
            wrong.append(f"{mapping.name} is not tracked, so later changes are unknown")
        elif not live.continues(mark.position):
            wrong.append(
                f"the change log of {mapping.name} no longer has the entry that was last read"
            )
        elif now != mark.position:
            outstanding += len(live.changed_keys(mapping, mark.position))
    if wrong:
        return _no(question, wrong, message("Run ", TRACK_ON, ", then ", MIGRATE))
    if outstanding:
        detail = [f"{_rows(outstanding)} written since the last move"]
        return _no(question, detail, "Nothing to do: freeze and live move these rows")
    return Answer(question, True, "as a whole, and every change since; nothing is outstanding")


def _frozen(live: PinnedSource, tables: Sequence[sa.Table]) -> Answer:
    with live.sqlite() as connection:
        if freezing.is_frozen(connection, tables, live.schema):
            return Answer(FROZEN, True, "its tables are frozen")
    return _no(FROZEN, ["its tables can be written"], message("Run ", FREEZE))


def _conflicts(target: Target, tables: Sequence[sa.Table]) -> Answer:
    question = "no value differs"
    found = target.rows(
        "SELECT table_name, count(*) FROM migration.conflicts WHERE table_name = ANY($1)"
        " GROUP BY 1 ORDER BY 1",
        ([table.name for table in tables],),
    )
    if found:
        detail = [
            f"{count:,} {'value' if count == 1 else 'values'} of {name} changed in the target"
            for name, count in found
        ]
        remedy = "Keep one side: set POLICY_CONFLICTS=source, or change the source"
        return _no(question, detail, remedy)
    return Answer(question, True, "no moved row was changed in the target")


def _untouched(target: Target, tables: Sequence[sa.Table]) -> Answer:
    question = "nobody else writes the target"
    unwatched = _unwatched(target, tables)
    if unwatched:
        detail = [f"writes to {', '.join(unwatched)} are not captured"]
        return _no(question, detail, message("Run ", FREEZE, ", which captures every later write"))
    written = capture.noted(target, tables)
    if written:
        detail = [f"{_rows(count)} of {name} written" for name, count in written.items()]
        remedy = message("Stop all other writers of the target, then run ", FREEZE, " again")
        return _no(question, detail, remedy)
    return Answer(question, True, "every write is captured; there were none")


def _unwatched(target: Target, tables: Sequence[sa.Table]) -> list[str]:
    return [table.name for table in tables if not capture.is_on(target, table)]


def _quarantine(target: Target, tables: Sequence[sa.Table]) -> Answer:
    question = "quarantine is empty or signed off"
    waiting = {table.name: sign_offs.unsigned(target, table.name) for table in tables}
    detail = [
        f"{_rows(len(rows))} of {name} ({', '.join(rows[:_NAMED])}{', ...' * (len(rows) > _NAMED)})"
        for name, rows in waiting.items()
        if rows
    ]
    if detail:
        return _no(question, detail, message("Correct these rows, or run ", SIGN_OFF))
    signed = sign_offs.count(target, tables)
    return Answer(question, True, f"{_rows(signed)} signed off" if signed else "empty")


def _sequences(
    target: Target, live: PinnedSource, mappings: Sequence[TableMapping], *, frozen: bool
) -> Answer:
    """Compare with the ids that the source has assigned once it assigns no more."""
    found = _findings(
        constraints.sequences(
            target, mapping, assigned=live.last_assigned(mapping.table.name) if frozen else 0
        ).findings
        for mapping in mappings
    )
    if found:
        return _no("sequences are ahead", found, message("Run ", SYNC_FULL))
    return Answer("sequences are ahead", True, "the next id of every table is free")


def _rights(target: Target, mappings: Sequence[TableMapping]) -> Answer:
    question = "rights are as declared"
    if not access.roles(target):
        return Answer(question, True, "the server has none of Supabase's roles")
    found = _findings(tuple(access.check(target, mapping)[0]) for mapping in mappings)
    found += [describe(finding) for finding in access.exposed(target)]
    if found:
        return _no(question, found, message("Run ", SYNC_FULL, ", or revoke the other privileges"))
    return Answer(question, True, "as declared, and tested as every role")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _findings(found: Iterator[tuple[Finding, ...]]) -> list[str]:
    return [describe(finding) for findings in found for finding in findings]


def _no(question: str, detail: Sequence[str], remedy: Text) -> Answer:
    more = f"; and {len(detail) - _NAMED} more" if len(detail) > _NAMED else ""
    return Answer(question, False, "; ".join(detail[:_NAMED]) + more, remedy)
