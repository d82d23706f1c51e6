"""What the target demands of a row, as SQL that SQLite can run.

The contract knows everything that a row can be judged by alone: storage classes, NOT NULL,
ranges, lengths, dates, JSON and CHECKs, the last on the value as it will arrive. Parents and
whatever only PostgreSQL can know are found when the rows are set down; their reasons are told
here as well, so that a rejected row always gets every reason that applies.
"""

import hashlib
import json
import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.visitors import replacement_traverse

from pipeline.core.quoting import quoted
from pipeline.mapping.json_texts import repeats_a_name, unwrapped
from pipeline.mapping.row_key import RowKey
from pipeline.mapping.table_mapping import TableMapping
from pipeline.mapping.types import Rule

_CHUNK = 400

LOSSY = "lossy"
"""The code of a reason that only a policy makes one."""
LOSES = "would lose what cannot be undone"


def bare(sql: str) -> str:
    """A statement without what may be written otherwise and mean the same.

    SQLite keeps the text of a schema as it was given, Turso writes it down anew, with other spaces
    and more names quoted.
    """
    return re.sub(r'[\s"]', "", sql)


@dataclass(frozen=True)
class Reason:
    """Why a row is rejected."""

    code: str
    column: str | None
    message: str

    def __str__(self) -> str:
        """The reason in a few words."""
        return f"{self.column} {self.message}" if self.column else self.message


@dataclass(frozen=True)
class StoredValue:
    """A source value as it is stored: its storage class and its exact bytes."""

    column: str
    storage: str
    value: bytes | None


@dataclass(frozen=True)
class Rejected:
    """A source row that stays out of the target, whole.

    Attributes:
        row_id: what names the row in the source for certain (its rowid).
        key: its primary key as text, None if it has none.
    """

    row_id: str
    key: str | None
    reasons: tuple[Reason, ...]
    values: tuple[StoredValue, ...]

    @property
    def fingerprint(self) -> str:
        """The same for the same row with the same reasons."""
        seen = hashlib.md5(repr(self.reasons).encode(), usedforsecurity=False)
        for value in self.values:
            size = -1 if value.value is None else len(value.value)
            seen.update(f"{value.column}\0{value.storage}\0{size}\0".encode())
            seen.update(value.value or b"")
        return seen.hexdigest()


@dataclass(frozen=True)
class Contract:
    """The rules of one landing; every rule belongs to a column."""

    mapping: TableMapping
    rules: tuple[tuple[str, Rule], ...]

    def violated(self, *, always: bool = False, cast: bool = True) -> str:
        """SQL that is true exactly for the rows that break a rule.

        Args:
            always: only those rules that every row is held against.
            cast: also those rules whose breach makes a cast fail.
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
        everything: str = "",
    ) -> Iterator[Rejected]:
        """Read rejected rows whole, with every reason that applies, one at a time.

        Args:
            source: a connection whose ``text_factory`` is bytes.
            row_ids: what names the rows, integers or text.
            row_id_column: the column of the source that holds the row id.
            held: keys in quarantine by parent table.
            known: reasons found elsewhere, by row id as text.
            everything: prefix of the names of tables in which parents are looked up.
        """
        sql = self._explain_sql(row_id_column, everything)
        _hold(source, held)
        waiting = iter(row_ids)
        while chunk := list(islice(waiting, _CHUNK)):
            for row in source.execute(sql, (json.dumps(chunk),)):
                yield self._rejected(row, known)

    def without_parent(
        self, source: sqlite3.Connection, *, row_id_column: str, held: dict[str, set[str]]
    ) -> list[object]:
        """Handles of the rows whose parent is not in the source, or is held back itself.

        Args:
            source: a connection of Python's own.
            row_id_column: the column of the source that holds the row id.
            held: keys that are held back, by parent table.
        """
        _hold(source, held)
        lonely = []
        for column, parent in self.mapping.parents:
            orphan, waiting = _parent_sql(column.name, parent)
            lonely += [orphan, waiting] if held[parent.name] else [orphan]
        if not lonely:
            return []
        found = source.execute(
            f"SELECT {row_id_column} FROM {quoted(self.mapping.name)} AS r"
            f" WHERE {' OR '.join(f'({condition})' for condition in lonely)}"
        )
        return [row_id for (row_id,) in found]

    def _unplaceable(
        self, values: Iterable[StoredValue], told: Sequence[Reason]
    ) -> Iterator[Reason]:
        """Moments that keep every rule, and that the cast finds no place for."""
        wrong = {reason.column for reason in told}
        for value in values:
            kind = self.mapping.table.columns[value.column].type
            if value.storage != "text" or not isinstance(kind, sa.DateTime):
                continue
            if value.column not in wrong and is_utf8(value.value or b""):
                cast = self.mapping.casts[value.column]
                try:
                    cast.convert(pa.array([value.value]).cast(cast.raw))
                except pa.ArrowInvalid as error:
                    yield Reason("conversion", value.column, cannot_be_converted(error))

    def _losses(self, values: Iterable[StoredValue]) -> Iterator[Reason]:
        """Values that would lose something, although their row is rejected anyway."""
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
                # Its rule has told already what it is.
                continue
            if lossy is not None and lossy[0].as_py():
                yield Reason(LOSSY, value.column, LOSES)

    def _explain_sql(self, row_id_column: str, everything: str) -> str:
        outputs = [
            f"CAST({row_id_column} AS TEXT)",
            f"CAST({quoted(self.mapping.key.name)} AS TEXT)",
        ]
        for column in self.mapping.columns:
            name = quoted(column.name)
            outputs += [f"typeof({name})", name]
        outputs += [f"({rule.violated}) IS TRUE" for _, rule in self.rules]
        for column, parent in self.mapping.parents:
            outputs += list(_parent_sql(column.name, parent, everything))
        return (
            f"SELECT {', '.join(outputs)} FROM {quoted(self.mapping.name)} AS r"
            f" WHERE {row_id_column} IN (SELECT value FROM json_each(?)) ORDER BY {row_id_column}"
        )

    def _rejected(self, row: Sequence[object], known: dict[str, Reason]) -> Rejected:
        columns = self.mapping.columns
        row_id, key = _text(row[0]) or "", _text(row[1])
        rest = row[2 + 2 * len(columns) :]
        reasons = [
            Reason(rule.code, column, rule.message)
            for (column, rule), violated in zip(self.rules, rest, strict=False)
            if violated
        ]
        for index, (column, parent) in enumerate(self.mapping.parents):
            at = len(self.rules) + 2 * index
            if rest[at]:
                message = f"refers to a row of {parent.name} that is not in the source"
                reasons.append(Reason("orphan", column.name, message))
            elif rest[at + 1]:
                message = f"refers to a row of {parent.name} that is in quarantine"
                reasons.append(Reason("held", column.name, message))
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
        reasons += self._unplaceable(values, reasons)
        if self.mapping.policies.lossy_conversions != "keep":
            reasons += self._losses(values)
        extra = known.get(row_id)
        explained = extra in reasons or (reasons and extra and extra.code in ("held", "refused"))
        if extra and not explained:
            reasons.append(extra)
        return Rejected(row_id, key, tuple(reasons), values)


def contract_of(mapping: TableMapping) -> Contract:
    """Compile the contract of a landing."""
    rules: list[tuple[str, Rule]] = []
    for column in mapping.columns:
        name, cast = quoted(column.name), mapping.casts[column.name]
        if not column.nullable and column.name not in mapping.fills:
            rules.append((column.name, Rule("null", "is NULL", f"{name} IS NULL")))
        rules.append((column.name, cast.storage_rule(name, mapping.declared[column.name])))
        rules += [(column.name, rule) for rule in cast.rules(name)]
    return Contract(mapping, (*rules, *_checks(mapping)))


def _checks(mapping: TableMapping) -> Iterator[tuple[str, Rule]]:
    def as_it_arrives(element: object, **_: object) -> object:
        if isinstance(element, sa.Column):
            value = mapping.casts[element.name].checked_as(quoted(element.name))
            if element.name in mapping.fills:
                given = mapping.policies.forbidden_nulls[f"{mapping.name}.{element.name}"]
                value = f"ifnull({value}, {_literal(given)})"
            return sa.literal_column(value, element.type)
        return None

    # A set of constraints has another order in every process; rules are compared between them.
    for check in sorted(mapping.table.constraints, key=lambda each: str(each.name)):
        if isinstance(check, sa.CheckConstraint):
            names = [column.name for column in check.columns]
            if not set(names) <= set(mapping.casts):
                continue
            condition = replacement_traverse(check.sqltext, {}, as_it_arrives)
            sql = condition.compile(
                dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
            )
            shown = check.sqltext.compile(
                dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}
            )
            message = f"breaks the rule {str(shown).replace(mapping.name + '.', '')}"
            yield names[0], Rule("check", message, f"NOT ({sql})")


def _literal(value: object) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def _hold(source: sqlite3.Connection, held: dict[str, set[str]]) -> None:
    """Keep the keys that are held back in temporary tables, for ``_parent_sql``."""
    for parent, keys in held.items():
        name = quoted(f"held {parent}")
        # A table cannot be dropped while another statement of the connection reads.
        source.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} (key TEXT PRIMARY KEY)")
        source.execute(f"DELETE FROM temp.{name}")
        source.executemany(f"INSERT INTO {name} VALUES (?)", ((key,) for key in keys))


def _parent_sql(column: str, parent: sa.Table, everything: str = "") -> tuple[str, str]:
    key = RowKey.of(parent).sql
    name = f"r.{quoted(column)}"
    among = f"{everything}{quoted(parent.name)}"
    exists = f"EXISTS (SELECT 1 FROM {among} AS p WHERE p.{key} = {name})"
    held = f"CAST({name} AS TEXT) IN (SELECT key FROM temp.{quoted(f'held {parent.name}')})"
    return f"{name} IS NOT NULL AND NOT {exists}", f"{name} IS NOT NULL AND {held}"


def _text(value: object) -> str | None:
    if not isinstance(value, bytes):
        return None
    # Shown to people and kept in a column of text, which has no place for NUL.
    return value.decode("utf-8", "replace").replace("\0", "\N{SYMBOL FOR NULL}")


def cannot_be_converted(error: pa.ArrowInvalid) -> str:
    """What a cast says of a value, as the message of a reason."""
    return f"cannot be converted: {str(error).splitlines()[0]}"


def forbidden_loss(mapping: TableMapping, row: Rejected) -> str | None:
    """What a row would lose that nothing else rejects, where the policy is to stop; else None."""
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
    """A value as Python's sqlite3 gives it, with texts as bytes."""
    match value:
        case None | bytes():
            return StoredValue(column, storage, value)
        case int():
            return StoredValue(column, storage, str(value).encode())
        case float():
            return StoredValue(column, storage, _ieee754(value))
    raise TypeError(f"SQLite returned {type(value)} for {column}")


def _ieee754(value: float) -> bytes:
    return struct.pack(">d", value)
