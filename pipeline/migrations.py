"""The migrations there are: which tables move together, from which source, under which name."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pipeline.sample.content import make_sample as sample_of_content
from pipeline.sample.spaces import make_sample as sample_of_spaces
from pipeline.tables import content, spaces

_COMMAND = re.compile(
    r"\bpipeline (?:doctor|plan|schema|migrate|sync|verify|redrive|rollback|backup(?! list)"
    r"|track (?:on|off|status)|cutover (?:status|freeze|live|thaw|close)|restore (?:source|target))"
    r"\b(?! (?:content|spaces)\b)"
)
"""Commands that take a migration's name, where they have none."""

_FIRST = "SQLITE_DATABASE_URL"
"""The variable of which those speak who find something wrong with a source."""


@dataclass(frozen=True, eq=False)
class Migration:
    """Tables that move together, parents before children.

    Attributes:
        name: what commands, groups of assets and the ledger call it.
        metadata: its tables; no name occurs in two migrations.
        setting: the variable that names its source.
        sample: the name of the file that is made where none is named.
        make_sample: makes it.
        owners: who owns its assets.
        prefix: what tells its assets and jobs from those of the others.
    """

    name: str
    metadata: sa.MetaData
    setting: str
    sample: str
    make_sample: Callable[[Path], None]
    owners: tuple[str, ...]
    prefix: str

    @property
    def tables(self) -> list[sa.Table]:
        """Its tables, parents before children."""
        return self.metadata.sorted_tables

    def addressed(self, text: str) -> str:
        """A text for people in which commands, and the name of the source, are this migration's.

        What finds a fault does not know which migration it works for; without a name a command
        would be taken for another one.
        """
        named = _COMMAND.sub(rf"\g<0> {self.name}", text) if self.prefix else text
        return named.replace(_FIRST, self.setting)

    def named(self, what: str) -> str:
        """The name of its asset, step or job of a kind that every migration has."""
        return self.prefix + what


CONTENT = Migration(
    "content",
    content.metadata,
    "SQLITE_DATABASE_URL",
    "sample.db",
    sample_of_content,
    ("team:learning-content",),
    prefix="",
)
"""The learning application; what it had before there was another one keeps its plain names."""

SPACES = Migration(
    "spaces",
    spaces.metadata,
    "SPACES_DATABASE_URL",
    "spaces_sample.db",
    sample_of_spaces,
    ("team:group-spaces",),
    prefix="spaces_",
)
"""The group-spaces application."""

ALL = {migration.name: migration for migration in (CONTENT, SPACES)}
"""Every migration by its name, in the order in which people are shown them."""


def of(tables: Sequence[sa.Table]) -> Migration:
    """The migration that some tables, all of one, belong to."""
    return next(each for each in ALL.values() if each.metadata is tables[0].metadata)


def holding(table: str) -> Migration | None:
    """The migration that has a table of a name."""
    return next((each for each in ALL.values() if table in each.metadata.tables), None)
