"""Findings of the checks of realtime."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.findings import Finding
from pipeline.core.messages import Text, message
from pipeline.realtime import publication


@dataclass(frozen=True)
class TablePublicationDiffers(Finding):
    """A table is not published as declared; None if it is not published, or not declared."""

    title: ClassVar[str] = "table publication differs"
    table: str
    declared: str | None
    actual: str | None

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        if self.actual is None:
            return f"{self.table} is not published"
        if self.declared is None:
            return f"{self.table} is published, but not declared as published"
        return f"{self.table} is published with {self.actual} instead of {self.declared}"


@dataclass(frozen=True)
class PublicationDiffers(Finding):
    """The publication itself is not as declared."""

    title: ClassVar[str] = "publication differs"
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"publication {publication.NAME}: {self.why}"


@dataclass(frozen=True)
class PublishedByOthers(Finding):
    """A published table that no migration declares."""

    title: ClassVar[str] = "undeclared table published"
    table: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.table} is also published, but no migration declares it"


@dataclass(frozen=True)
class OldRowsNotPublished(Finding):
    """A table whose old rows cannot be published, because it has undeclared columns."""

    title: ClassVar[str] = "old rows not published"
    table: str
    columns: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        columns = ", ".join(self.columns)
        return (
            f"{self.table}: old rows are not published, because of undeclared columns ({columns})"
        )


@dataclass(frozen=True)
class SecretPublished(Finding):
    """A published column or table that is secret or too large."""

    title: ClassVar[str] = "secret published"
    table: str
    column: str | None
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        place = f"{self.table}.{self.column}" if self.column else self.table
        return f"{place} is published, although {self.why}"


@dataclass(frozen=True)
class ObjectDiffers(Finding):
    """A table, function or trigger of the feed is not as declared."""

    title: ClassVar[str] = "object differs"
    kind: str
    name: str
    why: Text

    @property
    def sentence(self) -> Text:
        """What is wrong with what."""
        return message(f"{self.kind} {self.name}: ", self.why)


@dataclass(frozen=True)
class WritesNotPublished(Finding):
    """A role or database whose sessions fire no triggers, so the feed lacks their writes."""

    title: ClassVar[str] = "writes not published"
    role: str | None
    database: str | None

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        whose = " in ".join(
            f"{kind} {name}"
            for kind, name in (("role", self.role), ("database", self.database))
            if name
        )
        return (
            f"writes of {whose or 'all roles'} are not published: session_replication_role ="
            " replica is set for it, so triggers do not fire"
        )


@dataclass(frozen=True)
class PolicyDiffers(Finding):
    """A policy of channels is not as declared, or not declared."""

    title: ClassVar[str] = "policy differs"
    name: str
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"policy {self.name} of realtime.messages: {self.why}"


@dataclass(frozen=True)
class EventNotReceived(Finding):
    """An event of the canary that did not arrive as expected."""

    title: ClassVar[str] = "event not received"
    event: str
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.event}: {self.why}"
