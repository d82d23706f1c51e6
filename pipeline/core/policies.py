"""Decisions about the data that a person has to make; the defaults lose nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ExtraColumns = Literal["carry", "ignore", "fail"]
LossyConversions = Literal["keep", "quarantine", "fail"]
Conflicts = Literal["target", "source", "fail"]
DoubleEncodedJson = Literal["unwrap", "keep"]
MissingColumns = Literal["fail", "default"]


@dataclass(frozen=True)
class Policies:
    """Policies for every table of a run.

    Attributes:
        naive_zone: the time zone of dates without an offset; a row with an hour that is missing or
            ambiguous in that zone is quarantined.
        forbidden_nulls: "table.column" -> the replacement for a NULL that the target does not
            allow; without a replacement, the row is quarantined.
        extra_columns: columns that only the source has are carried to the target, ignored, or stop
            the move.
        lossy_conversions: a value that loses information is moved and its original kept in the
            ledger, its row is quarantined, or the move stops.
        conflicts: for a differing row that was changed in the target after the last sync, the
            target's or the source's version is kept, or the move stops.
        double_encoded_json: in columns declared as double-encoded, strings that contain JSON are
            unwrapped or kept; only a rollback accepts either, because the application may continue
            to write such strings.
        adopt_target: rows that no move wrote to the target are made equal to the source; otherwise
            the move stops before it changes anything.
        max_value_bytes: a larger row of the source stops the move before it is read into memory.
        missing_columns: a declared column that the source lacks stops the move, or its rows get
            the column's default.
        source_names: "table.column" -> the name of that column in the source, if it differs.
        forms: "table.column" -> how the source writes the values of a column, see
            ``pipeline.declared.forms``.
    """

    naive_zone: str = "UTC"
    forbidden_nulls: Mapping[str, Any] = field(default_factory=dict)
    extra_columns: ExtraColumns = "carry"
    lossy_conversions: LossyConversions = "keep"
    conflicts: Conflicts = "target"
    double_encoded_json: DoubleEncodedJson | Literal["either"] = "unwrap"
    adopt_target: bool = False
    max_value_bytes: int = 1_000_000_000
    missing_columns: MissingColumns = "fail"
    source_names: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict)


DEFAULT = Policies()
