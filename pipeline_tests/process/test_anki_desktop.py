"""The desktop program with the real add-on: run where ANKI_CONNECT_ADDON names its folder."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from anki.collection import Collection

from pipeline.anki.store.connect import AnkiConnect
from pipeline.anki.store.errors import AnkiError
from pipeline_tests.support.anki_desktop import ADDON, ask, desktop
from pipeline_tests.support.anki_world import DECK, World, actions, make_world

pytestmark = [
    pytest.mark.skipif(not ADDON, reason="ANKI_CONNECT_ADDON names no add-on"),
    pytest.mark.slow,
]


@dataclass(frozen=True)
class DesktopWay:
    """The way to a desktop program."""

    url: str

    def open(self) -> AnkiConnect:
        """Anki, as the project reaches it."""
        return AnkiConnect(self.url)

    def collection(self) -> AbstractContextManager[Collection]:
        """No test may open it, because the desktop has it open."""
        pytest.fail("the desktop program has the collection open")


@pytest.fixture
def desktop_world(anki_folder: Path, anki_contents: str, tmp_path: Path) -> Iterator[World]:
    """An empty world whose Anki is the desktop program."""
    with (
        desktop(tmp_path) as url,
        make_world(anki_folder, anki_contents, DesktopWay(url)) as world,
    ):
        yield world


def notes(world: World) -> dict[str, tuple[str, ...]]:
    """The fields of all notes, by the tag of their content."""
    with world.strategy.open() as anki:
        found = anki.notes(anki.find("sync::content::*"))
    return {
        next(tag for tag in note.tags if tag.startswith("sync::content::")): (
            note.fields["Front"],
            note.fields["Back"],
        )
        for note in found.values()
    }


def followed(world: World) -> dict[str, tuple[str, ...]]:
    """The fields as they should be."""
    return {f"sync::content::{number}": each.fields for number, each in world.rendered().items()}


def test_notes_are_in_their_decks_and_follow_while_the_browser_shows_them(
    desktop_world: World,
) -> None:
    world = desktop_world
    url = world.strategy.open()._url  # type: ignore[attr-defined]
    world.words(1, 2, 3)
    world.card(2, deck_name="thai::verbs")
    assert actions(world.sync(create_decks=True)) == [(n, "created") for n in (1, 2, 3)]
    for number, deck in ((1, DECK), (2, "thai::verbs"), (3, DECK)):
        query = f'deck:"{deck}" tag:sync::content::{number}'
        assert len(ask(url, "findNotes", query=query)) == 1
    assert world.sync().counts == {"skipped": 3}
    # The editor of the browser saves what it shows when its note changes.
    ask(url, "guiBrowse", query="tag:sync::content::1")
    for turn in range(5):
        world.run("UPDATE learning_content SET native_text = native_text || '!'")
        for _ in range(5):
            told = actions(world.sync())
            assert {what for _, what in told} <= {"updated", "failed"}, (turn, told)
            if not told:
                break
        assert notes(world) == followed(world)


def test_when_all_notes_are_missing_it_says_so_and_makes_them_if_it_is_told_to(
    desktop_world: World,
) -> None:
    world = desktop_world
    url = world.strategy.open()._url  # type: ignore[attr-defined]
    world.words(1, 2)
    world.sync(create_decks=True)
    ask(url, "deleteNotes", notes=ask(url, "findNotes", query="deck:*"))
    with pytest.raises(AnkiError, match="2 of 2 notes are missing"):
        world.sync()
    assert actions(world.sync(force=True)) == [(1, "created"), (2, "created")]
    assert notes(world) == followed(world)
