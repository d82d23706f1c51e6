"""What a person decides where no rule can, with defaults that lose nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ExtraColumns = Literal["carry", "ignore", "fail"]
LossyConversions = Literal["keep", "quarantine", "fail"]
Conflicts = Literal["target", "source", "fail"]
DoubleEncodedJson = Literal["unwrap", "keep"]


@dataclass(frozen=True)
class Policies:
    """Decisions that hold for every table of a run.

    Attributes:
        naive_zone: the zone of dates that name none; an hour that does not exist there, or exists
            twice, sends its row to quarantine.
        forbidden_nulls: "table.column" -> the value that stands for a NULL that the target
            forbids; where none is given, the row goes to quarantine.
        extra_columns: columns that only the source has are carried along, ignored, or a reason to
            stop.
        lossy_conversions: a value that cannot be undone moves while its original is kept in the
            ledger, sends its row to quarantine, or stops the move.
        conflicts: a row that was changed in the target since the source was read last, and is not
            what the source has: the target's or the source's version stays, or the move stops.
        double_encoded_json: of columns that are declared to hold JSON as a string within JSON, such
            strings are unwrapped or kept as they are; the way back alone takes either for equal,
            because an application may go on writing such strings.
        adopt_target: rows of the target that no move has put there are made equal to the source;
            otherwise the move stops before it changes anything.
        max_value_bytes: a larger row of the source stops the move, before it takes the memory.
    """

    naive_zone: str = "UTC"
    forbidden_nulls: Mapping[str, Any] = field(default_factory=dict)
    extra_columns: ExtraColumns = "carry"
    lossy_conversions: LossyConversions = "keep"
    conflicts: Conflicts = "target"
    double_encoded_json: DoubleEncodedJson | Literal["either"] = "unwrap"
    adopt_target: bool = False
    max_value_bytes: int = 1_000_000_000


DEFAULT = Policies()
