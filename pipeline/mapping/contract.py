"""The requirements of the target for a row, as SQL for SQLite.

The contract covers all rules that concern a row alone: storage classes, NOT NULL, ranges, lengths,
dates, JSON, and CHECKs on the converted value. Missing parents and violations that only PostgreSQL
detects are found when rows are written. Their reasons are added here, so that a rejected row has
all reasons that apply.
"""

import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.visitors import replacement_traverse

from pipeline.core.quoting import literal, quoted
from pipeline.mapping import parents
from pipeline.mapping.casts.cast import Rule
from pipeline.mapping.casts.json_texts import repeats_a_name, unwrapped
from pipeline.mapping.table_mapping import TableMapping

_CHUNK = 400

LOSSY = "lossy"
"""The code of a reason that depends on a policy."""
LOSES = "would lose what cannot be undone"


@dataclass(frozen=True)
class Reason:
    """Why a row is rejected."""

    code: str
    column: str | None
    message: str

    def __str__(self) -> str:
        """Column and message."""
        return f"{self.column} {self.message}" if self.column else self.message


@dataclass(frozen=True)
class StoredValue:
    """A source value: its storage class and its exact bytes."""

    column: str
    storage: str
    value: bytes | None


@dataclass(frozen=True)
class Rejected:
    """A complete source row that is not moved.

    Attributes:
        row_id: identifies the row in the source (its rowid).
        key: its primary key as text.
    """

    row_id: str
    key: str | None
    reasons: tuple[Reason, ...]
    values: tuple[StoredValue, ...]

    @property
    def fingerprint(self) -> str:
        """A hash of values and reasons."""
        digest = hashlib.md5(repr(self.reasons).encode(), usedforsecurity=False)
        for value in self.values:
            size = -1 if value.value is None else len(value.value)
            digest.update(f"{value.column}\0{value.storage}\0{size}\0".encode())
            digest.update(value.value or b"")
        return digest.hexdigest()


@dataclass(frozen=True)
class Contract:
    """The rules of a table mapping, each with its column."""

    mapping: TableMapping
    rules: tuple[tuple[str, Rule], ...]

    def violated(self, *, always: bool = False, cast: bool = True) -> str:
        """SQL that is true exactly for the rows that break a rule.

        Args:
            always: include only rules that are checked for every row.
            cast: include rules whose violation makes a cast fail.
        """
        rules = [
            rule.violated
            for _, rule in self.rules
            if (rule.always or not always) and (cast or not rule.cast)
        ]
        if not rules:
            return "0"
        return "(" + " OR ".join(f"({rule})" for rule in rules) + ") IS TRUE"

    def explain(
        self,
        source: sqlite3.Connection,
        row_ids: Iterable[object],
        *,
        row_id_column: str,
        held: dict[str, set[str]],
        known: dict[str, Reason],
        collations: Mapping[str, str | None] = MappingProxyType({}),
        all_rows_prefix: str = "",
    ) -> Iterator[Rejected]:
        """Yield rejected rows with all their values and reasons.

        Args:
            source: a connection whose ``text_factory`` is bytes.
            row_ids: integers or text.
            row_id_column: the column of the source with the row id.
            held: quarantined keys by parent table.
            known: reasons found elsewhere, by row id as text.
            collations: collations of the keys of parent tables in the source.
            all_rows_prefix: prefix of the names of the parent tables.
        """
        sql = self._explain_sql(row_id_column, collations, all_rows_prefix)
        parents.store_held_keys(source, held)
        remaining = iter(ids := list(row_ids))
        tables = [parent for _, parent in self.mapping.parents] if ids else []
        parents.store_collated_keys(source, tables, collations, all_rows_prefix=all_rows_prefix)
        while chunk := list(islice(remaining, _CHUNK)):
            for row in source.execute(sql, (json.dumps(chunk),)):
                yield self._rejected(row, known, collations)

    def rows_without_parent(
        self, source: sqlite3.Connection, *, row_id_column: str, held: dict[str, set[str]]
    ) -> list[object]:
        """Row ids of the rows whose parent is missing in the source or is held itself.

        ``held`` has the keys of held rows by parent table.
        """
        parents.store_held_keys(source, held)
        conditions: list[str] = []
        for column, parent in self.mapping.parents:
            named = self.mapping.source_name(column.name)
            orphan, waiting = parents.conditions(named, parent)
            conditions += [orphan, waiting] if held[parent.name] else [orphan]
        if not conditions:
            return []
        found = source.execute(
            f"SELECT {row_id_column} FROM {quoted(self.mapping.name)} AS r"
            f" WHERE {' OR '.join(f'({condition})' for condition in conditions)}"
        )
        # Row ids of a table WITHOUT ROWID are texts.
        return [row_id.decode() if isinstance(row_id, bytes) else row_id for (row_id,) in found]

    def _unconvertible_dates(
        self, values: Iterable[StoredValue], known: Sequence[Reason]
    ) -> Iterator[Reason]:
        """Dates that meet all rules but cannot be converted."""
        wrong = {reason.column for reason in known}
        for value in values:
            kind = self.mapping.table.columns[value.column].type
            if value.storage != "text" or not isinstance(kind, sa.DateTime):
                continue
            if value.column not in wrong and is_utf8(value.value or b""):
                cast = self.mapping.casts[value.column]
                try:
                    cast.convert(pa.array([value.value]).cast(cast.raw))
                except pa.ArrowInvalid as error:
                    yield Reason("conversion", value.column, conversion_message(error))

    def _losses(self, values: Iterable[StoredValue]) -> Iterator[Reason]:
        """Values that would lose information; their row is rejected anyway."""
        for value in values:
            cast = self.mapping.casts[value.column]
            if value.storage not in cast.storage or value.storage not in ("real", "text"):
                continue
            found: object = value.value
            if value.storage == "real":
                (found,) = struct.unpack(">d", value.value or b"")
            if isinstance(self.mapping.table.columns[value.column].type, JSONB):
                text = (value.value or b"").decode("utf-8", "replace")
                inner = unwrapped(text) if value.column in self.mapping.double_encoded else None
                if inner is not None or repeats_a_name(text):
                    yield Reason(LOSSY, value.column, LOSES)
                continue
            try:
                lossy = cast.convert(pa.array([found]).cast(cast.raw)).lossy
            except pa.ArrowInvalid:
                continue  # A rule has reported it.
            if lossy is not None and lossy[0].as_py():
                yield Reason(LOSSY, value.column, LOSES)

    def _explain_sql(
        self, row_id_column: str, collations: Mapping[str, str | None], all_rows_prefix: str
    ) -> str:
        outputs = [
            f"CAST({row_id_column} AS TEXT)",
            f"CAST({quoted(self.mapping.key.name)} AS TEXT)",
        ]
        for column in self.mapping.columns:
            name = self.mapping.in_source(column.name)
            outputs += [f"typeof({name})", name]
        outputs += [f"({rule.violated}) IS TRUE" for _, rule in self.rules]
        for column, parent in self.mapping.parents:
            outputs += parents.outputs(
                self.mapping.source_name(column.name),
                parent,
                collations.get(parent.name),
                all_rows_prefix=all_rows_prefix,
            )
        return (
            f"SELECT {', '.join(outputs)} FROM {quoted(self.mapping.name)} AS r"
            f" WHERE {row_id_column} IN (SELECT value FROM json_each(?)) ORDER BY {row_id_column}"
        )

    def _rejected(
        self,
        row: Sequence[object],
        known: dict[str, Reason],
        collations: Mapping[str, str | None],
    ) -> Rejected:
        columns = self.mapping.columns
        row_id, key = _text(row[0]) or "", _text(row[1])
        rest = row[2 + 2 * len(columns) :]
        reasons = [
            Reason(rule.code, column, rule.message)
            for (column, rule), violated in zip(self.rules, rest, strict=False)
            if violated
        ]
        for index, (column, parent) in enumerate(self.mapping.parents):
            at = len(self.rules) + parents.OUTPUTS * index
            values_ = rest[at : at + parents.OUTPUTS]
            if found := parents.reason(parent, values_, collations.get(parent.name)):
                reasons.append(Reason(found[0], column.name, found[1]))
        values = tuple(
            stored(column.name, _text(row[2 + 2 * i]) or "null", row[3 + 2 * i])
            for i, column in enumerate(columns)
        )
        reasons += [
            Reason("conversion", value.column, "is not valid UTF-8")
            for value in values
            if value.storage == "text"
            and "text" in self.mapping.casts[value.column].storage
            and not is_utf8(value.value or b"")
        ]
        reasons += self._unconvertible_dates(values, reasons)
        if self.mapping.policies.lossy_conversions != "keep":
            reasons += self._losses(values)
        extra = known.get(row_id)
        explained = extra in reasons or (reasons and extra and extra.code in ("held", "refused"))
        if extra and not explained:
            reasons.append(extra)
        return Rejected(row_id, key, tuple(reasons), values)


def compile_contract(mapping: TableMapping) -> Contract:
    """Compile the contract of a table mapping."""
    rules: list[tuple[str, Rule]] = []
    for column in mapping.columns:
        rules += [(column.name, rule) for rule in column_rules(mapping, column)]
    return Contract(mapping, (*rules, *_checks(mapping)))


def column_rules(mapping: TableMapping, column: sa.Column[Any]) -> Iterator[Rule]:
    """The rules of one column, without CHECKs."""
    name, cast = mapping.in_source(column.name), mapping.casts[column.name]
    if not column.nullable and column.name not in mapping.fills:
        yield Rule("null", "is NULL", f"{name} IS NULL")
    yield cast.storage_rule(name, mapping.declared[column.name])
    yield from cast.rules(name)


def _checks(mapping: TableMapping) -> Iterator[tuple[str, Rule]]:
    def converted(element: object, **_: object) -> object:
        if isinstance(element, sa.Column):
            value = mapping.casts[element.name].checked_as(mapping.in_source(element.name))
            if element.name in mapping.fills:
                given = mapping.policies.forbidden_nulls[f"{mapping.name}.{element.name}"]
                default = literal(given) if isinstance(given, str) else repr(given)
                value = f"ifnull({value}, {default})"
            return sa.literal_column(value, element.type)
        return None

    # The order of a set differs between processes, but rules are compared between processes.
    for check in sorted(mapping.table.constraints, key=lambda each: str(each.name)):
        if isinstance(check, sa.CheckConstraint):
            names = [column.name for column in check.columns]
            # A condition that is a text is PostgreSQL's own; the server refuses rows that break it.
            if not names or not set(names) <= set(mapping.casts):
                continue
            condition = replacement_traverse(check.sqltext, {}, converted)
            sql = condition.compile(
                dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
            )
            shown = check.sqltext.compile(
                dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
            )
            message = f"breaks the rule {str(shown).replace(mapping.name + '.', '')}"
            yield names[0], Rule("check", message, f"NOT ({sql})")


def _text(value: object) -> str | None:
    if not isinstance(value, bytes):
        return None
    # PostgreSQL's text cannot contain NUL.
    return value.decode("utf-8", "replace").replace("\0", "\N{SYMBOL FOR NULL}")


def conversion_message(error: pa.ArrowInvalid) -> str:
    """The error of a cast as the message of a reason."""
    return f"cannot be converted: {str(error).splitlines()[0]}"


def forbidden_loss(mapping: TableMapping, row: Rejected) -> str | None:
    """The loss that stops the move by policy, if the row has no other reason; otherwise None."""
    if mapping.policies.lossy_conversions != "fail" or {r.code for r in row.reasons} != {LOSSY}:
        return None
    return f"{mapping.name} {row.key}: {'; '.join(map(str, row.reasons))}"


def is_utf8(value: bytes) -> bool:
    """Whether bytes are valid UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def stored(column: str, storage: str, value: object) -> StoredValue:
    """A value of Python's sqlite3, with text as bytes."""
    match value:
        case None | bytes():
            return StoredValue(column, storage, value)
        case int():
            return StoredValue(column, storage, str(value).encode())
        case float():
            return StoredValue(column, storage, struct.pack(">d", value))
    raise TypeError(f"SQLite returned {type(value)} for {column}")
