"""Sentences for people that name commands and settings as values.

Whoever finds a fault does not know which migration it works for. So a sentence keeps the command
itself, and the edge, which knows the migration, writes it out: for one "pipeline plan", for another
"pipeline plan spaces".
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Address:
    """The migration that a sentence is about, as far as it shows in sentences.

    Attributes:
        name: what commands have to be told; empty where a command without a name is right.
        setting: the variable that names the source.
    """

    name: str
    setting: str


ANYBODY = Address("", "SQLITE_DATABASE_URL")
"""Where nobody knows the migration, or the one with plain names is meant."""


@dataclass(frozen=True)
class Command:
    """A command of the project.

    Attributes:
        words: its name.
        options: what follows the name of the migration.
        of_migration: whether it takes one.
    """

    words: str
    options: str = ""
    of_migration: bool = True

    def written(self, address: Address) -> str:
        """As people type it."""
        name = address.name if self.of_migration else ""
        return " ".join(filter(None, ("pipeline", self.words, name, self.options)))


@dataclass(frozen=True)
class SourceSetting:
    """The setting that names the source."""

    def written(self, address: Address) -> str:
        """As people set it."""
        return address.setting


Part = str | Command | SourceSetting


@dataclass(frozen=True)
class Message:
    """A sentence in parts."""

    parts: tuple[Part, ...]

    def written(self, address: Address) -> str:
        """The whole sentence."""
        return "".join(
            part if isinstance(part, str) else part.written(address) for part in self.parts
        )


Text = str | Message


def message(*parts: Part | Message) -> Message:
    """A sentence of these parts."""
    flat: list[Part] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Message) else (part,))
    return Message(tuple(flat))


def written(text: Text, address: Address = ANYBODY) -> str:
    """A sentence for people."""
    return text if isinstance(text, str) else text.written(address)


SOURCE_SETTING = SourceSetting()

PLAN = Command("plan")
SCHEMA = Command("schema")
MIGRATE = Command("migrate")
SYNC_FULL = Command("sync", "--full")
VERIFY = Command("verify")
REDRIVE = Command("redrive")
TRACK_ON = Command("track on")
BACKUP = Command("backup")
CUTOVER_STATUS = Command("cutover status")
FREEZE = Command("cutover freeze")
UNFREEZE = Command("cutover unfreeze")
ROLLBACK = Command("rollback")
SIGN_OFF = Command("cutover sign-off", "TABLE --by NAME --reason WHY", of_migration=False)
RESTORE = Command("restore", of_migration=False)
BACKUP_LIST = Command("backup list", of_migration=False)
EXPORT = Command("quarantine export PATH")
FORGET = Command("quarantine forget", of_migration=False)
ANKI_SYNC = Command("anki sync", of_migration=False)
ANKI_CHECK = Command("anki check", of_migration=False)
REALTIME_ON = Command("realtime on", of_migration=False)
DEV = Command("dev", of_migration=False)
