"""A module that declares a migration, as text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.copy.expressions.trial import Condition
from pipeline.copy.plan import CopyPlan
from pipeline.copy.target.extras import Extra, LeftOut
from pipeline.copy.target.layout import CopiedTable
from pipeline.core.quoting import counted, quoted
from pipeline.mapping.matching import folded
from pipeline.scaffold import columns, orphans
from pipeline.scaffold.columns import Declared
from pipeline.scaffold.limits import Refused, refused_reference, refused_tables
from pipeline.scaffold.python import call, comment, sql_string, string, variable
from pipeline.sqlite.structure.model import ForeignKey

_ACTION = {"DELETE": "ondelete", "UPDATE": "onupdate"}


@dataclass(frozen=True)
class Scaffold:
    """A module, and what it cannot say.

    Attributes:
        tables: the text of each table, by its name in the source.
        columns: the text of each column, by the names of its table and its own.
        text: the whole module.
        refused: tables and foreign keys that a migration cannot have.
        left: what else the source has and PostgreSQL will not.
    """

    tables: dict[str, str]
    columns: dict[tuple[str, str], str]
    text: str
    refused: tuple[Refused, ...]
    left: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Naming:
    """The names that a new migration has.

    Attributes:
        source: the URL of its source, without a secret.
        stays: tables that stay in SQLite on purpose.
        command: the command that wrote the module.
    """

    name: str
    setting: str
    source: str
    command: str
    stays: Sequence[str] = ()


@dataclass
class _Writer:
    """Writes tables, and collects what cannot be declared."""

    plan: CopyPlan
    taken: set[str] = field(default_factory=set)
    moved: dict[str, CopiedTable] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    columns: dict[tuple[str, str], str] = field(default_factory=dict)

    def table(self, name: str) -> str:
        """The text of a table; ``name`` is its folded name in the source."""
        table = self.plan.tables[name]
        self.moved[name] = table
        extras = self.plan.extras[name]
        notes = [*self._references(table)]
        references: dict[str, list[str]] = {}
        for extra, key in self._declared_references(table, notes):
            references.setdefault(extra.elements[0], []).append(_reference(table, extra, key))
        identity = any(each.kind == "identity" for each in extras.own)
        made = []
        for column in table.source.columns:
            declared = Declared(
                table,
                column,
                self.plan.censuses[table.source.name].column(column.name),
                self.plan.decisions[table.source.name][column.name],
                identity=identity,
                references=references.get(table.names[column.name], ()),
            )
            made.append(columns.text(declared))
            self.columns[table.source.name, column.name] = made[-1]
        made += [f"{each}," for extra in extras.own if (each := _constraint(extra))]
        notes += [
            f"{left.kind} {left.name}: {left.reason}."
            for left in extras.left
            if left.kind != "name"
        ]
        found = variable(table.name, self.taken)
        head = [comment(f"{counted(table.rows, 'row')}.")]
        head += [comment(f"Not declared: {note}") for note in notes]
        inner = "\n".join([f"    {string(table.name)},", "    metadata,", *made])
        return "\n".join([*head, f"{found} = sa.Table(\n{inner}\n)"])

    def _references(self, table: CopiedTable) -> Iterator[str]:
        """Sentences about foreign keys that cannot be declared."""
        for extra, _ in _with_keys(table, self.plan):
            reason = refused_reference(self.plan, table, extra, self.moved)
            if reason is not None:
                self.refused.append(Refused(table.source.name, f"foreign key {extra.name}", reason))
                yield f"foreign key {extra.name}, because it {reason}."

    def _declared_references(
        self, table: CopiedTable, notes: list[str]
    ) -> Iterator[tuple[Extra, ForeignKey]]:
        for extra, key in _with_keys(table, self.plan):
            if refused_reference(self.plan, table, extra, self.moved) is not None:
                continue
            lonely = orphans.count(self.plan, table, key)
            if not lonely:
                yield extra, key
                continue
            rows = "1 row has" if lonely == 1 else f"{lonely:,} rows have"
            notes.append(
                f"foreign key {extra.name}, because {rows} no row there. Declared, such rows go to"
                " quarantine."
            )


def write(plan: CopyPlan, naming: Naming) -> Scaffold:
    """Write a module from the plan of a copy."""
    refused = [*refused_tables(plan)]
    without = {folded(each.table) for each in refused}
    writer, texts = _Writer(plan), {}
    for unit in plan.units:
        for name in unit:
            if name not in without:
                texts[plan.tables[name].source.name] = writer.table(name)
    refused += writer.refused
    body = "\n\n".join(texts.values())
    text = f"{_head(plan, naming, body)}\n{body}\n\n{_migration(naming, refused)}\n"
    return Scaffold(texts, writer.columns, text, tuple(refused), plan.left)


def _with_keys(table: CopiedTable, plan: CopyPlan) -> list[tuple[Extra, ForeignKey]]:
    """Foreign keys that PostgreSQL can have, each with what the source declares."""
    found = []
    remaining = list(table.source.foreign_keys)
    # Two foreign keys may differ in nothing but their actions; both lists have the same order.
    for extra in plan.extras[folded(table.source.name)].references:
        key = next(
            each
            for each in remaining
            if [table.names[table.exact(n)] for n in each.columns] == list(extra.elements)
            and folded(each.parent) == (extra.parent or ("",))[0]
        )
        remaining.remove(key)
        found.append((extra, key))
    return found


def _reference(table: CopiedTable, extra: Extra, key: ForeignKey) -> str:
    usual = f"{table.name}_{extra.elements[0]}_fkey"
    options = [] if extra.made == usual else [f"name={string(extra.made or '')}"]
    actions = {"DELETE": key.on_delete, "UPDATE": key.on_update}
    options += [
        f"{_ACTION[event]}={string(action)}"
        for event, action in actions.items()
        if action != "NO ACTION"
    ]
    if key.deferred:
        options += ["deferrable=True", 'initially="DEFERRED"']
    parent = (extra.parent or ("", ""))[1]
    return f"sa.ForeignKey({', '.join([string(f'{parent}.{extra.refers_to[0]}'), *options])})"


def _constraint(extra: Extra) -> str | None:
    """The text of a constraint or an index of a table."""
    name = string(extra.made or "")
    match extra.kind:
        case "unique" if extra.statement.startswith("ALTER"):
            names = [string(each[1:-1].replace('""', '"')) for each in extra.elements]
            return call("sa.UniqueConstraint", [*names, f"name={name}"], indent=4)
        case "check" if isinstance(extra.condition, Condition):
            sql = sql_string(extra.condition.target)
            return call("sa.CheckConstraint", [sql, f"name=conv({name})"], indent=4)
        case "index" | "unique":
            return _index(extra, name)
    return None


def _index(extra: Extra, name: str) -> str:
    elements = [_element(each) for each in extra.elements]
    options = ["unique=True"] if extra.statement.startswith("CREATE UNIQUE") else []
    if extra.kind == "index" and extra.condition is not None:
        options.append(f"postgresql_where=sa.text({sql_string(extra.condition.target)})")
    return call("sa.Index", [name, *elements, *options], indent=4)


def _element(sql: str) -> str:
    inner = sql[1:-1].replace('""', '"')
    return string(inner) if quoted(inner) == sql else f"sa.text({sql_string(sql)})"


def _head(plan: CopyPlan, naming: Naming, body: str) -> str:
    lines = [
        f'"""The migration {naming.name}: {counted(len(plan.tables), "table")}.',
        "",
        f"{naming.command} has written this module from what the source declares and holds.",
        "It is yours: change types, add what is missing, remove what should not move. The comments",
        "say what was found; run the command again to see whether the source still fits.",
        '"""',
        "",
        "import sqlalchemy as sa",
    ]
    body = "\n".join(line for line in body.split("\n") if not line.lstrip().startswith("#"))
    imports: Mapping[str, str] = {
        "JSONB": "from sqlalchemy.dialects.postgresql import JSONB",
        "conv(": "from sqlalchemy.schema import conv",
    }
    lines += [line for name, line in imports.items() if name in body]
    forms = ("DecimalText", "EpochMoment", "MixedBytes", "MixedText", "WordBoolean")
    used = [name for name in forms if f"{name}(" in body]
    lines += ["", "from pipeline.declared import access"]
    lines += [f"from pipeline.declared.forms import {', '.join(used)}"] if used else []
    rules = "ColumnRules, SharedRules" if "ColumnRules(" in body else "SharedRules"
    lines += [
        f"from pipeline.declared.rules import {rules}",
        "from pipeline.migrations.declaration import NAMES, Migration",
        "",
        "# Of Supabase's roles, only that of the service may use the tables.",
        'SERVICE = access.Access("service_role", access.ALL)',
        "metadata = sa.MetaData(naming_convention=NAMES, info=SharedRules(access=(SERVICE,)).info)",
        "",
    ]
    return "\n".join(lines)


def _migration(naming: Naming, refused: Sequence[Refused]) -> str:
    lines = [comment(f"A migration cannot have this yet: {each.sentence}.") for each in refused]
    arguments = [
        string(naming.name),
        "metadata",
        f"setting={string(naming.setting)}",
        f"source={string(naming.source)}",
    ]
    if naming.stays:
        stays = ", ".join(map(string, naming.stays))
        arguments.append(f"stays=({stays},)")
    inner = "".join(f"    {argument},\n" for argument in arguments)
    return "\n".join([*lines, f"MIGRATION = Migration(\n{inner})"])
