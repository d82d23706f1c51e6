"""What checks of realtime can find, as values."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.findings import Finding
from pipeline.core.messages import Text, message
from pipeline.realtime import publication


@dataclass(frozen=True)
class PublishedOtherwise(Finding):
    """A table is published in another way than declared; None where it is not."""

    title: ClassVar[str] = "published otherwise"
    table: str
    declared: str | None
    actual: str | None

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        if self.actual is None:
            return f"{self.table} is not published"
        if self.declared is None:
            return f"{self.table} is published, but nothing of it is to be told"
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
    """A table that no migration declares is published with those that are."""

    title: ClassVar[str] = "published by others"
    table: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.table} is published, too, by somebody else; no migration declares it"


@dataclass(frozen=True)
class OldRowsUntold(Finding):
    """A table whose old rows cannot be told, because it has columns that are not declared."""

    title: ClassVar[str] = "old rows untold"
    table: str
    columns: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        columns = ", ".join(self.columns)
        return f"{self.table}: old rows are not told, because {columns} is not declared"


@dataclass(frozen=True)
class SecretPublished(Finding):
    """Something is published that nobody may see, or that is too large for it."""

    title: ClassVar[str] = "secret published"
    table: str
    column: str | None
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        place = f"{self.table}.{self.column}" if self.column else self.table
        return f"{place} is published, and {self.why}"


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
class PolicyDiffers(Finding):
    """A policy of channels is not as declared, or not ours."""

    title: ClassVar[str] = "policy differs"
    name: str
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"policy {self.name} of realtime.messages: {self.why}"


@dataclass(frozen=True)
class NotHeard(Finding):
    """An event that was made and did not arrive as it should."""

    title: ClassVar[str] = "not heard"
    event: str
    why: str

    @property
    def sentence(self) -> str:
        """What is wrong with what."""
        return f"{self.event}: {self.why}"
