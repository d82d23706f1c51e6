"""Sentences for people that contain commands and settings as values.

Code that reports a fault does not know the current migration. So a sentence contains the command as
a value, and the caller that knows the migration writes it out: "pipeline plan" for one migration,
"pipeline plan spaces" for another.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Address:
    """A migration as sentences name it.

    Attributes:
        name: the argument of commands; empty for the migration with plain names.
        setting: the variable that names the source.
    """

    name: str
    setting: str


DEFAULT_ADDRESS = Address("", "SQLITE_DATABASE_URL")
"""The migration with plain names; also used if the migration is unknown."""


@dataclass(frozen=True)
class Command:
    """A command of the project.

    Attributes:
        options: follow the name of the migration.
        of_migration: it takes the name of a migration.
    """

    words: str
    options: str = ""
    of_migration: bool = True

    def written(self, address: Address) -> str:
        """The command line."""
        name = address.name if self.of_migration else ""
        return " ".join(filter(None, ("pipeline", self.words, name, self.options)))


@dataclass(frozen=True)
class SourceSetting:
    """The setting that names the source of the migration."""

    def written(self, address: Address) -> str:
        """The name of the variable."""
        return address.setting


Part = str | Command | SourceSetting


@dataclass(frozen=True)
class Message:
    """A sentence made of texts, commands and settings."""

    parts: tuple[Part, ...]

    def written(self, address: Address) -> str:
        """The sentence with its commands written out."""
        return "".join(
            part if isinstance(part, str) else part.written(address) for part in self.parts
        )


Text = str | Message


def message(*parts: Part | Message) -> Message:
    """Join parts to a message."""
    flat: list[Part] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Message) else (part,))
    return Message(tuple(flat))


def written(text: Text, address: Address = DEFAULT_ADDRESS) -> str:
    """Write out a text for a migration."""
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
QUARANTINE = Command("quarantine show")
FORGET = Command("quarantine forget", of_migration=False)
ANKI_SYNC = Command("anki sync", of_migration=False)
ANKI_RECREATE = Command("anki sync", "--force", of_migration=False)
ANKI_ACCEPT = Command("anki sync", "--accept-profile", of_migration=False)
ANKI_CHECK = Command("anki check", of_migration=False)
REALTIME_ON = Command("realtime on", of_migration=False)
DEV = Command("dev", of_migration=False)
