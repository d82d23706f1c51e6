"""Stop a move of which hardly anything would arrive."""

from pipeline.core.errors import TooManyRejected
from pipeline.core.messages import PLAN, message
from pipeline.core.proof import Proof
from pipeline.move.context.move_context import MoveContext
from pipeline.move.context.table_scope import CountedRows
from pipeline.move.ledger import quarantine
from pipeline.move.reading import recognition

FEWEST_ROWS = 20
"""A smaller table stops only if none of its rows would arrive and a setting can read them."""


def is_too_large(rows: int, quarantined: int, *, share: float, recognized: bool) -> bool:
    """Whether too many of a table's rows would be in quarantine.

    Args:
        recognized: the rejected values have a form that a setting can declare.
    """
    nothing_arrives = quarantined >= rows > 0 and recognized
    return (rows >= FEWEST_ROWS or nothing_arrives) and quarantined > rows * share


def require_small(context: MoveContext, proof: Proof, *, target_rows: int) -> None:
    """Refuse to leave more than the allowed share of a table in quarantine.

    The share is that of all rows of the source's table, whatever part of it moves.

    Raises:
        TooManyRejected: says how many, and why most of them.
    """
    target, mapping, share = context.target, context.mapping, context.options.quarantine_share
    quarantined = len(quarantine.row_ids(target, mapping.name))
    rows = target_rows + quarantined
    if isinstance(context.scope, CountedRows):
        rows = context.scope.source_rows
    elif context.scope.keys is None:
        rows = proof["conservation"].figures["source_rows"]
    if not is_too_large(rows, quarantined, share=share, recognized=True):
        return
    with context.source.sqlite() as connection:
        found = recognition.proposals(connection, mapping, schema=context.source.schema)
    if not is_too_large(rows, quarantined, share=share, recognized=bool(found)):
        return
    why = quarantine.summary(target, mapping.name)[0]
    reason = f"{why.column} {why.reason}" if why.column else why.reason
    setting = recognition.settings(found, mapping.policies.forms)
    advice = f"If the values are as described, set {setting}. " if found else ""
    raise TooManyRejected(
        f"{mapping.name}: {quarantined:,} of {rows:,} rows ({quarantined / rows:.1%}) would be in"
        f" quarantine, more than MAX_QUARANTINE_SHARE ({share:.0%}). Most frequent reason:"
        f" {reason} ({why.rows:,} rows)" + "".join(f". {each.sentence}" for each in found),
        remedy=message(
            f"The table is unchanged. {advice}",
            PLAN,
            " lists all reasons. To move the other rows anyway, raise MAX_QUARANTINE_SHARE",
        ),
    )
