"""Sentences that name commands as values are written out for the migration at hand."""

from typing import Any

import pytest
import typer

from pipeline.cli.main import build
from pipeline.core import messages
from pipeline.core.errors import SourceError
from pipeline.core.findings import Finding, PartiallyMoved, describe
from pipeline.core.messages import (
    FREEZE,
    MIGRATE,
    PLAN,
    SOURCE_SETTING,
    SYNC_FULL,
    Command,
    message,
    written,
)
from pipeline.migrations.content import CONTENT
from pipeline.migrations.spaces import SPACES

COMMANDS = {name: each for name, each in vars(messages).items() if isinstance(each, Command)}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_that_sentences_name_is_one_and_takes_a_migration_if_it_says_so(
    command: Command,
) -> None:
    found: Any = typer.main.get_command(build(["content", "spaces"]))
    for word in filter(str.islower, command.words.split()):
        found = found.commands[word]
    takes_one = {"which"} & {option.name for option in found.params}
    own = "spaces" in getattr(found, "commands", {})
    assert (bool(takes_one) or own) == command.of_migration
    options = {text for option in found.params for text in option.opts}
    assert {word for word in command.options.split() if word.startswith("--")} <= options


@pytest.mark.parametrize(
    ("parts", "content", "spaces"),
    [
        (
            ("Run ", MIGRATE, " first"),
            "Run pipeline migrate first",
            "Run pipeline migrate spaces first",
        ),
        ((SYNC_FULL,), "pipeline sync --full", "pipeline sync spaces --full"),
        (
            (message(FREEZE), ", or not"),
            "pipeline cutover freeze, or not",
            "pipeline cutover freeze spaces, or not",
        ),
        ((messages.REALTIME_ON,), "pipeline realtime on", "pipeline realtime on"),
        (("Set ", SOURCE_SETTING), "Set SQLITE_DATABASE_URL", "Set SPACES_DATABASE_URL"),
    ],
)
def test_a_sentence_is_written_out_for_its_migration(
    parts: tuple[Any, ...], content: str, spaces: str
) -> None:
    sentence = message(*parts)
    assert written(sentence) == content
    assert written(sentence, CONTENT.address) == content
    assert written(sentence, SPACES.address) == spaces


def test_words_of_the_data_that_look_like_a_command_stay_as_they_are() -> None:
    name = "pipeline plan of SQLITE_DATABASE_URL {0}.db"
    error = SourceError(f"There is no {name}", remedy=message(PLAN, " shows it"))
    assert str(error) == f"There is no {name}. pipeline plan shows it."
    assert error.for_migration(SPACES.address) is error
    assert str(error) == f"There is no {name}. pipeline plan spaces shows it."
    assert error.remedy == "pipeline plan spaces shows it"


def test_every_finding_has_a_title_of_its_own_and_says_its_sentence_for_a_migration() -> None:
    titles = [kind.title for kind in _kinds(Finding)]
    assert len(titles) == len(set(titles)) > 35
    assert all(title == title.lower() and title.strip() for title in titles)
    assert describe(PartiallyMoved("t")).endswith("run pipeline migrate to complete it")
    assert describe(PartiallyMoved("t"), SPACES.address).endswith(
        "run pipeline migrate spaces to complete it"
    )


def _kinds(kind: type[Finding]) -> list[type[Finding]]:
    """The kinds of findings, from whichever part of the project."""
    import pipeline.anki.findings
    import pipeline.realtime.findings  # noqa: F401 - they declare some

    return [each for below in kind.__subclasses__() for each in (below, *_kinds(below))]
