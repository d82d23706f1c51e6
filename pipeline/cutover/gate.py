"""What must hold before the application may write to the target: one list of yes or no.

Each question is asked of the databases themselves. What only Dagster or the disk knows is answered
outside and joins the list.
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
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.move.ledger import watermarks
from pipeline.move.proof import table_checks
from pipeline.move.reading.live import LiveSource
from pipeline.postgres import access, schema
from pipeline.postgres.target import Target

PROVEN, FROZEN = "every value is proven", "nobody writes the source"
"""What can hold only once the source is frozen."""

_NAMED = 3


@dataclass(frozen=True)
class Answer:
    """One question of the gate.

    Attributes:
        question: what must hold.
        yes: whether it does.
        detail: what was seen.
        remedy: what to do about it; empty where it holds.
    """

    question: str
    yes: bool
    detail: str
    remedy: Text = ""


def ask(
    target: Target, live: LiveSource, tables: Sequence[sa.Table], policies: Policies
) -> list[Answer]:
    """Ask both databases.

    Args:
        target: a session within a transaction.
        live: the source as it is now.
        tables: those that move.
        policies: what a person decided.
    """
    lacking = [table.name for table in tables if not schema.exists(target, table.name)]
    if lacking or not target.value("SELECT to_regclass('migration.signed_off') IS NOT NULL"):
        detail = f"the target does not hold {', '.join(lacking) or 'the ledger'}"
        return [Answer(PROVEN, False, detail, message("Run ", MIGRATE))]
    try:
        for table in tables:
            schema.inspect(target, table.name)
    except ShapeError as error:
        return [Answer(PROVEN, False, error.problem, error.advice)]
    mappings = [match(table, live.columns(table.name), policies) for table in tables]
    return [
        _proven(target, live, mappings),
        _frozen(live, tables),
        _conflicts(target, tables),
        _untouched(target, tables),
        _quarantine(target, tables),
        _sequences(target, mappings),
        _rights(target, mappings),
    ]


def ask_later(target: Target, live: LiveSource, tables: Sequence[sa.Table]) -> list[Answer]:
    """Ask what must go on to hold while the target is live, for the sake of the way back."""
    frozen, unwatched = _frozen(live, tables), _unwatched(target, tables)
    if not frozen.yes:
        frozen = replace(frozen, remedy="Stop who writes there; put back the file that was frozen")
    question = "every write is captured"
    if unwatched:
        detail = [f"writes to {', '.join(unwatched)} are not captured"]
        captured = _no(question, detail, message(ROLLBACK, " will compare every row of them"))
    else:
        captured = Answer(question, True, f"{sum(capture.noted(target, tables).values()):,} so far")
    return [frozen, captured]


def _proven(target: Target, live: LiveSource, mappings: Sequence[TableMapping]) -> Answer:
    """Every value was proven once, and every change that the source logged since then."""
    question, wrong, outstanding = PROVEN, [], 0
    for mapping in mappings:
        mark = watermarks.read(target, mapping.name)
        now = live.position(mapping.table)
        whole = target.value(
            "SELECT EXISTS (SELECT FROM migration.evidence WHERE table_name = $1)", (mapping.name,)
        )
        if mark is None or not whole:
            wrong.append(f"{mapping.name} was never moved and proven as a whole")
        elif mark.rules != watermarks.rules_of(mapping):
            wrong.append(f"columns or policies of {mapping.name} are others since")
        elif now is None or mark.position is None:
            wrong.append(f"{mapping.name} is not tracked, so nobody knows what changed since")
        elif not live.continues(mark.position):
            wrong.append(f"the log of changes of {mapping.name} is not the one that was read")
        elif now != mark.position:
            outstanding += len(live.changed_keys(mapping, mark.position))
    if wrong:
        return _no(question, wrong, message("Run ", TRACK_ON, ", then ", MIGRATE))
    if outstanding:
        detail = [f"{_rows(outstanding)} written since"]
        return _no(question, detail, "Nothing: freeze and live move them at last")
    return Answer(question, True, "as a whole, and every change since; nothing is outstanding")


def _frozen(live: LiveSource, tables: Sequence[sa.Table]) -> Answer:
    with live.sqlite() as connection:
        if freezing.is_frozen(connection, tables, live.schema):
            return Answer(FROZEN, True, "its tables are frozen")
    return _no(FROZEN, ["its tables can be written"], message(FREEZE))


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
        return _no(question, detail, "Take one side: POLICY_CONFLICTS=source, or change the source")
    return Answer(question, True, "nobody changed a moved row in the target")


def _untouched(target: Target, tables: Sequence[sa.Table]) -> Answer:
    question = "nobody else writes the target"
    unwatched = _unwatched(target, tables)
    if unwatched:
        detail = [f"writes to {', '.join(unwatched)} are not captured"]
        return _no(question, detail, message(FREEZE, " switches that on"))
    written = capture.noted(target, tables)
    if written:
        detail = [f"{_rows(count)} of {name} written" for name, count in written.items()]
        return _no(question, detail, message("Stop who writes there, then run ", FREEZE, " again"))
    return Answer(question, True, "every write is captured, there was none")


def _unwatched(target: Target, tables: Sequence[sa.Table]) -> list[str]:
    return [table.name for table in tables if not capture.is_on(target, table)]


def _quarantine(target: Target, tables: Sequence[sa.Table]) -> Answer:
    question = "quarantine is empty or signed off"
    waiting = {table.name: sign_offs.lacking(target, table.name) for table in tables}
    detail = [
        f"{_rows(len(rows))} of {name} ({', '.join(rows[:_NAMED])}{', ...' * (len(rows) > _NAMED)})"
        for name, rows in waiting.items()
        if rows
    ]
    if detail:
        remedy = message("Mend them, or ", SIGN_OFF)
        return _no(question, detail, remedy)
    signed = sign_offs.count(target, tables)
    return Answer(question, True, f"{_rows(signed)} of it signed off" if signed else "empty")


def _sequences(target: Target, mappings: Sequence[TableMapping]) -> Answer:
    found = _findings(table_checks.sequences(target, mapping).findings for mapping in mappings)
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
        return _no(question, found, message("Run ", SYNC_FULL, ", or revoke what is too much"))
    return Answer(question, True, "as declared, and tried as every role")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _findings(found: Iterator[tuple[Finding, ...]]) -> list[str]:
    return [describe(finding) for findings in found for finding in findings]


def _no(question: str, detail: Sequence[str], remedy: Text) -> Answer:
    more = f"; and {len(detail) - _NAMED} more" if len(detail) > _NAMED else ""
    return Answer(question, False, "; ".join(detail[:_NAMED]) + more, remedy)
