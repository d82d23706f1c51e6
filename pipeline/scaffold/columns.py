"""The declaration of one column, with a comment about what the census found in it."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.copy.census import given
from pipeline.copy.census.facts import ColumnFacts
from pipeline.copy.census.hints import contents
from pipeline.copy.census.types import Decision
from pipeline.copy.expressions.translate import Translation, default
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.quoting import counted
from pipeline.mapping.matching import folded
from pipeline.scaffold.python import call, comment, sql_string, string, type_text
from pipeline.sqlite.structure.model import Column, Schema

_SECRET = re.compile(
    r"(.*_)?(pass(word|wd|phrase|code)?|pwd|secret|token|salt|(api|private|secret|access)_?key)"
    r"(_?(hash|hashed|digest|enc|encrypted))?",
    re.IGNORECASE,
)
"""Names of columns whose values nobody should read in a report."""
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^\w]+")
"""Where a word of a name ends, as in accessToken, APIKey and access-token."""


@dataclass(frozen=True)
class Declared:
    """What a column is made of.

    Attributes:
        identity: PostgreSQL assigns its values.
        references: the texts of its foreign keys.
    """

    table: CopiedTable
    column: Column
    facts: ColumnFacts
    decision: Decision
    identity: bool = False
    references: Sequence[str] = ()

    @property
    def made(self) -> str:
        """Its name in the target."""
        return self.table.names[self.column.name]

    @property
    def is_key(self) -> bool:
        """Whether it is the primary key."""
        return folded(self.column.name) in map(folded, self.table.source.primary_key)

    @property
    def is_secret(self) -> bool:
        """Whether its name says that its values are secret."""
        return not self.is_key and is_secret_name(self.column.name)


def text(declared: Declared) -> str:
    """The comment and the declaration of a column."""
    lines = [comment(line, indent=4) for line in _comments(declared)]
    return "\n".join([*lines, call("sa.Column", [*_arguments(declared)], indent=4) + ","])


def _arguments(declared: Declared) -> Iterator[str]:
    kind = declared.table.mapping.table.columns[declared.made].type
    yield string(declared.made)
    yield type_text(kind)
    yield from declared.references
    computed = declared.table.computed.get(declared.made)
    if computed is not None:
        yield f"sa.Computed({sql_string(computed)}, persisted=True)"
    if declared.is_key:
        if declared.identity:
            yield "sa.Identity()"
        yield "primary_key=True"
        if not declared.identity and isinstance(kind, sa.Integer):
            yield "autoincrement=False"
    elif declared.made in declared.table.required:
        yield "nullable=False"
    value = _default(declared, kind)
    if value is not None and computed is None:
        yield f"server_default=sa.text({sql_string(value)})"
    rules = []
    if declared.is_secret:
        rules.append("secret=True")
    if declared.made != declared.column.name:
        rules.append(f"source_name={string(declared.column.name)}")
    if rules:
        yield f"info=ColumnRules({', '.join(rules)}).info"


def _default(declared: Declared, kind: "sa.types.TypeEngine[object]") -> str | None:
    if declared.column.default is None:
        return None
    found = default(declared.column.default, kind)
    return found.sql if isinstance(found, Translation) and found.sql != "NULL" else None


def _comments(declared: Declared) -> Iterator[str]:
    facts, decision = declared.facts, declared.decision
    kind = declared.column.declared or "No type"
    yield f"{kind}: {'; '.join(_found(declared))}."
    if decision.quarantines:
        values = counted(decision.quarantines, "value")
        yield f"{values} cannot be stored; such rows go to quarantine."
    if declared.column.not_null and facts.nulls and not declared.is_key:
        yield "The source declares NOT NULL."
    if decision.hint and not declared.is_secret:
        yield _proposal(declared, decision.hint)
    if declared.column.default is not None and declared.column.expression is None:
        kind_ = declared.table.mapping.table.columns[declared.made].type
        found = default(declared.column.default, kind_)
        if not isinstance(found, Translation):
            yield f"The default {declared.column.default} is left out, because it {found.reason}."


def _proposal(declared: Declared, hint: str) -> str:
    """A hint of the census, with the type as it is declared."""
    sentence, _, option = hint.partition(": --cast ")
    if not option:
        return f"{_capital(hint)}."
    name, _, type_name = shlex.split(option)[0].rpartition("=")
    kinds = given.kinds(Schema((declared.table.source,)), {name: type_name})
    kind = kinds[declared.table.source.name][declared.column.name]
    return f"{_capital(sentence)}. For that, declare {type_text(kind)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _found(declared: Declared) -> Iterator[str]:
    facts = declared.facts
    if not facts.values:
        yield "no values"
    elif declared.is_secret:
        yield counted(facts.values, "value")
    else:
        yield contents(facts)
        yield from ranges(facts)
    if facts.nulls:
        yield f"{facts.nulls:,} NULL"


def ranges(facts: ColumnFacts) -> Iterator[str]:
    """The range of the integers of a column, and the length of its texts."""
    if facts.lowest is not None:
        yield f"{facts.lowest:,} to {facts.highest or 0:,}"
    if facts.longest:
        yield f"at most {counted(facts.longest, 'character')}"


def is_secret_name(name: str) -> bool:
    """Whether the name of a column says that its values are secret."""
    return _SECRET.fullmatch(_WORDS.sub("_", name)) is not None
