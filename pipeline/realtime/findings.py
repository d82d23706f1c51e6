"""What checks of realtime can find, as values."""

from dataclasses import dataclass

from pipeline.move.findings import Finding, say
from pipeline.realtime import publication


@dataclass(frozen=True)
class PublishedOtherwise(Finding):
    """A table is published in another way than declared; None where it is not."""

    table: str
    declared: str | None
    actual: str | None


@dataclass(frozen=True)
class PublicationDiffers(Finding):
    """The publication itself is not as declared."""

    why: str


@dataclass(frozen=True)
class PublishedByOthers(Finding):
    """A table that no migration declares is published with those that are."""

    table: str


@dataclass(frozen=True)
class OldRowsUntold(Finding):
    """A table whose old rows cannot be told, because it has columns that are not declared."""

    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class SecretPublished(Finding):
    """Something is published that nobody may see, or that is too large for it."""

    table: str
    column: str | None
    why: str


@dataclass(frozen=True)
class ObjectDiffers(Finding):
    """A table, function or trigger of the feed is not as declared."""

    kind: str
    name: str
    why: str


@dataclass(frozen=True)
class PolicyDiffers(Finding):
    """A policy of channels is not as declared, or not ours."""

    name: str
    why: str


@dataclass(frozen=True)
class NotHeard(Finding):
    """An event that was made and did not arrive as it should."""

    event: str
    why: str


@say.register
def _(found: PublishedOtherwise) -> str:
    if found.actual is None:
        return f"{found.table} is not published"
    if found.declared is None:
        return f"{found.table} is published, but nothing of it is to be told"
    return f"{found.table} is published with {found.actual} instead of {found.declared}"


@say.register
def _(found: PublicationDiffers) -> str:
    return f"publication {publication.NAME}: {found.why}"


@say.register
def _(found: PublishedByOthers) -> str:
    return f"{found.table} is published, too, by somebody else; no migration declares it"


@say.register
def _(found: OldRowsUntold) -> str:
    columns = ", ".join(found.columns)
    return f"{found.table}: old rows are not told, because {columns} is not declared"


@say.register
def _(found: SecretPublished) -> str:
    place = f"{found.table}.{found.column}" if found.column else found.table
    return f"{place} is published, and {found.why}"


@say.register
def _(found: ObjectDiffers) -> str:
    return f"{found.kind} {found.name}: {found.why}"


@say.register
def _(found: PolicyDiffers) -> str:
    return f"policy {found.name} of realtime.messages: {found.why}"


@say.register
def _(found: NotHeard) -> str:
    return f"{found.event}: {found.why}"
