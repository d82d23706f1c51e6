"""Anki: decks of new notes, writes that are taken back, notes of another source, missing notes."""

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.anki import checks
from pipeline.anki.store.collection import CollectionFile
from pipeline.anki.store.errors import AnkiError
from pipeline.anki.store.notes import NewNote, Refusal
from pipeline.core.errors import SettingsError
from pipeline.core.findings import CheckResult, describe
from pipeline_tests.support.anki_server import AnkiServer
from pipeline_tests.support.anki_world import (
    DECK,
    KEY,
    FileWay,
    ServerWay,
    World,
    actions,
    die_at,
    field_names,
    told,
)

FIELDS = ("Front", "Back")


def stopped(world: World, **options: Any) -> str:
    """What a sync says that stops before it changes anything anywhere."""
    before = world.everything()
    with pytest.raises(AnkiError) as caught:
        world.sync(**options)
    assert world.everything() == before
    return str(caught.value).replace(world.strategy.open().shown, "HERE")


def check(world: World) -> dict[str, CheckResult]:
    """The checks of the notes, by name."""
    with world.strategy.open() as anki:
        return {each.name: each for each in checks.of_notes(world.manager, anki, FIELDS)}


def decks(world: World) -> list[str]:
    """The names of all decks."""
    with world.strategy.collection() as collection:
        return [deck.name for deck in collection.decks.all_names_and_ids()]


# Decks of new notes


@pytest.mark.parametrize("name", [DECK, "TOP-thai-2000", " top-thai-2000 "])
def test_new_notes_are_in_their_deck_though_the_add_on_lost_it(
    server_world: World, anki_server: AnkiServer, name: str
) -> None:
    server_world.words(1, 2, 3)
    server_world.card(2, deck_name="thai::verbs")
    with anki_server.fault("other deck", "addNote"):
        report = server_world.sync(deck=name, create_decks=True)
    assert report.counts["created"] == 3
    assert [note.decks for note in server_world.notes()] == [(DECK,), ("thai::verbs",), (DECK,)]
    assert "blank" not in decks(server_world)


def test_a_deck_that_was_renamed_meanwhile_is_not_made_again(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(1)

    def renames(moment: str) -> None:
        if moment == "after add":
            with server_world.strategy.collection() as collection:
                found = collection.decks.id_for_name(DECK)
                assert found is not None
                collection.decks.rename(found, "words")

    with anki_server.fault("other deck", "addNote"):
        report = server_world.sync(happens=renames)
    detail = f"note {server_world.note(1).id} is in deck Default instead of {DECK}"
    assert told(report) == [(1, "failed", f"{detail}; the next run tries again")]
    assert not checks.confirmed(report, dry_run=False).passed
    assert (decks(server_world), server_world.cards()) == (["Default", "words"], [])
    assert actions(server_world.sync(deck="words")) == [(1, "adopted")]
    assert server_world.note(1).decks == ("words",)


@pytest.mark.parametrize("options", [{}, {"dry_run": True}, {"create_decks": True}])
def test_a_filtered_deck_is_named_as_one_and_takes_no_notes(
    world: World, options: dict[str, bool]
) -> None:
    world.words(1)
    with world.strategy.collection() as collection:
        collection.decks.new_filtered("leeches")
    message = stopped(world, deck="leeches", **options)
    assert "The deck leeches of HERE is a filtered deck, which takes no new notes" in message


def test_a_note_of_an_interrupted_run_is_moved_from_the_default_deck_and_from_no_other(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(1, 2)
    with anki_server.fault("other deck", "addNote"):
        assert die_at(server_world, "after add") == -signal.SIGKILL
    with server_world.strategy.collection() as collection:
        mine = collection.decks.id("mine")
        cards = collection.find_cards("tag:sync::content::2")
        collection.set_deck(cards, mine or 0)
    assert actions(server_world.sync()) == [(1, "adopted"), (2, "adopted")]
    assert [note.decks for note in server_world.notes()] == [(DECK,), ("mine",)]


def test_a_dry_run_lists_a_missing_deck(world: World) -> None:
    world.words(1, 2)
    world.card(2, deck_name="verbs")
    before = world.everything()
    missing = "which is missing: create it in Anki, or run with --create-deck"
    assert told(world.sync(dry_run=True)) == [
        (1, "created", f"in deck {DECK}"),
        (2, "created", f"in deck verbs, {missing}"),
    ]
    assert world.everything() == before


# Writes that are taken back


@pytest.fixture
def edited_world(server_world: World) -> World:
    """A world with three notes that follow; Anki may be at work with them."""
    server_world.words(1, 2, 3)
    server_world.sync()
    server_world.strategy = replace(cast(ServerWay, server_world.strategy), settle_seconds=0.6)
    return server_world


def changed(world: World) -> list[str | None]:
    """Change all contents; the export hashes before."""
    world.run("UPDATE learning_content SET native_text = native_text || '!', translation = 'new'")
    return [card.export_hash for card in world.cards()]


def test_writes_that_an_open_editor_takes_back_are_ours_and_are_written_again(
    edited_world: World, anki_server: AnkiServer
) -> None:
    world = edited_world
    before = changed(world)
    first, second, third = (note.id for note in world.notes())
    with anki_server.fault("taken back", "updateNoteFields", only=2):
        report = world.sync()
    again = "as an open editor does; the next run writes it again"
    assert told(report) == [
        (1, "updated", f"Front, Back of note {first}"),
        (
            2,
            "failed",
            f"Anki put back what Front, Back of note {second} was before the write, {again}",
        ),
        (3, "updated", f"Front, Back of note {third}"),
    ]
    assert not checks.confirmed(report, dry_run=False).passed
    assert [a.export_hash == b for a, b in zip(world.cards(), before, strict=True)] == [
        False,
        True,
        False,
    ]
    assert check(world)["edited"].passed
    assert actions(world.sync()) == [(2, "updated")]
    assert world.followed() == world.all_followed()


def test_what_is_taken_back_after_the_run_is_not_the_learners_at_the_next_change(
    server_world: World,
) -> None:
    server_world.words(1)
    server_world.sync()
    note = server_world.note(1)
    server_world.change(1, native_text="second")
    server_world.sync()
    server_world.edit(note.id, **note.fields)
    (finding,) = check(server_world)["edited"].findings
    assert describe(finding) == (
        f"card 1: note {note.id} has an earlier export again (Front); pipeline anki sync"
        " --recordings --only 1 writes it again"
    )
    only = frozenset({1})
    assert actions(server_world.sync(recordings=True, ids=only)) == [(1, "updated")]
    server_world.edit(note.id, **note.fields)
    server_world.change(1, native_text="third")
    assert told(server_world.sync()) == [(1, "updated", f"Front of note {note.id}")]


def test_a_run_that_is_killed_before_it_reads_again_leaves_nothing_to_the_learner(
    edited_world: World, anki_server: AnkiServer
) -> None:
    changed(edited_world)
    with anki_server.fault("taken back", "updateNoteFields", only=1):
        assert die_at(edited_world, "before settle") == -signal.SIGKILL
    for timer in anki_server._timers:
        timer.join()
    assert edited_world.note(1).fields == field_names(1)
    assert actions(edited_world.sync()) == [(1, "updated")]
    assert edited_world.followed() == edited_world.all_followed()


def test_an_edit_in_that_second_survives_and_is_told(
    edited_world: World, anki_server: AnkiServer
) -> None:
    world = edited_world
    changed(world)
    first, second, third = world.notes()

    def acts(moment: str) -> None:
        if moment == "after write":
            # The editor of the first note saves the old front with a new back.
            fields = [first.fields["Front"], "my own back"]
            anki_server.later(anki_server.put_back, first.id, fields, [*first.tags, *first.source])
            anki_server.later(world.edit, second.id)
            anki_server.later(lambda: world.edit(second.id, Back="mine"))
            anki_server.later(world.delete, third.id)

    assert sorted(told(world.sync(happens=acts))) == [
        (
            1,
            "failed",
            f"Anki put back what Front of note {first.id} was before the write, as an open editor"
            " does; the next run writes it again",
        ),
        (1, "kept", f"Back of note {first.id}: edited in Anki after it was written"),
        (2, "kept", f"Back of note {second.id}: edited in Anki after it was written"),
        (2, "updated", f"Front, Back of note {second.id}"),
        (
            3,
            "missing",
            f"note {third.id} was deleted in Anki after it was written; --force --only 3"
            " recreates it",
        ),
    ]
    edited = f"Back of note {first.id}: the learner edited it"
    gone = f"note {third.id} is not in Anki; --force --only 3 recreates it"
    assert sorted(told(world.sync())) == [
        (1, "kept", edited),
        (1, "updated", f"Front of note {first.id}"),
        (3, "missing", gone),
    ]
    assert world.note(1).fields["Back"] == "my own back"
    assert world.note(2).fields["Back"] == "mine"


def test_tags_and_recordings_that_are_taken_back_are_given_again(
    edited_world: World, anki_server: AnkiServer
) -> None:
    world = edited_world
    first = world.note(1)
    world.untag(first.id, "sync::content::1")
    world.run("UPDATE fragment_assets SET asset_data = 'other bytes' WHERE id = 200")
    world.asset(309, 30, b"a newer one")
    folder = Path(anki_server.collection.media.dir())
    old = (folder / "asset_200.mp3").read_bytes()

    def acts(moment: str) -> None:
        if moment == "after write":
            anki_server.later(world.untag, first.id, "sync::content::1")
            anki_server.later((folder / "asset_200.mp3").write_bytes, old)
            anki_server.later((folder / "asset_309.mp3").unlink)

    what = [detail for _, action, detail in told(world.sync(happens=acts)) if action == "failed"]
    back = [each.partition(" of note")[0].removeprefix("Anki put back what ") for each in what]
    assert sorted(back) == ["asset_200.mp3", "asset_309.mp3", "the tag sync::content::1"]
    assert actions(world.sync()) == [(1, "updated"), (2, "updated"), (3, "updated")]
    assert world.followed() == world.all_followed()


# Notes of another source


@pytest.fixture
def two_sources(file_world: World, anki_folder: Path) -> Iterator[Callable[[str], None]]:
    """Two sources with the same content ids, each with a profile; opens one of them.

    The world is that of the source whose profile is ``mine``.
    """
    blank = anki_folder / "collection.anki2"
    for name in ("mine", "theirs"):
        (anki_folder / name).mkdir()
        shutil.copy(blank, anki_folder / name)

    def open_profile(name: str) -> None:
        file_world.strategy = FileWay(anki_folder / name / blank.name)

    cards = anki_folder / "cards.db"
    shutil.copy(cards, anki_folder / "blank.db")
    file_world.words(1, 2, 3, 4)
    file_world.change(1, native_text="อื่น", translation="other")
    file_world.change(2, translation="other")
    open_profile("theirs")
    file_world.sync()
    # Their target and their cards are elsewhere.
    file_world.run("DROP SCHEMA migration CASCADE")
    shutil.copy(anki_folder / "blank.db", cards)
    file_world.remove(1, 2, 4)
    file_world.words(1, 2)
    open_profile("mine")
    file_world.sync()
    yield open_profile


@pytest.mark.parametrize(
    "options", [{}, {"force": True}, {"dry_run": True}, {"removed": "suspend"}]
)
def test_a_run_over_another_profile_stops_and_asks(
    file_world: World, two_sources: Callable[[str], None], options: dict[str, Any]
) -> None:
    two_sources("theirs")
    file_world.change(1, native_text="ใหม่")
    assert stopped(file_world, **options) == (
        "HERE, profile theirs: 3 of 3 notes are missing, 4 notes belong to another source, the last"
        " sync was with the profile mine. This may be the wrong profile or collection; nothing was"
        " written. Open the right one, or run pipeline anki sync --accept-profile to go on"
        " with it; add --force to create the 3 missing notes again."
    )
    two_sources("mine")
    assert actions(file_world.sync()) == [(1, "updated")]


def test_notes_of_another_source_are_never_changed(
    file_world: World, two_sources: Callable[[str], None]
) -> None:
    two_sources("theirs")
    theirs = file_world.notes()
    report = file_world.sync(accept_profile=True, force=True, removed="suspend")
    assert sorted(actions(report)) == [(1, "created"), (2, "created"), (3, "created")]
    assert [note for note in file_world.notes() if note in theirs] == theirs
    # From now on both share the profile.
    assert file_world.sync(removed="suspend").counts == {"skipped": 3}


def test_a_source_is_told_apart_by_its_tag_where_no_profile_is_named(
    file_world: World, two_sources: Callable[[str], None], anki_folder: Path
) -> None:
    path = anki_folder / "theirs" / "collection.anki2"
    with AnkiServer(path, key=KEY) as server:
        server.profile = None
        file_world.strategy = ServerWay(server)
        message = stopped(file_world, force=True)
    assert message.startswith(
        "HERE: 3 of 3 notes are missing, 4 notes belong to another source. This may be the wrong"
    )


@pytest.mark.parametrize("force", [False, True])
def test_notes_that_were_never_exported_from_here_are_not_adopted(
    world: World, force: bool
) -> None:
    # An earlier version gave its notes no tag of a source.
    world.words(1, 2)
    theirs = [world.add_note(f"f{n}", f"b{n}", f"sync::content::{n}") for n in (1, 2)]
    assert "2 of 2 contents have a note that no card names" in stopped(world, force=force)
    foreign = [
        (
            n,
            "foreign",
            f"note {theirs[n - 1]} has the tag sync::content::{n}, but was not exported from here;"
            " it is not changed",
        )
        for n in (1, 2)
    ]
    created = [(n, "created", f"in deck {DECK}") for n in (1, 2)]
    assert told(world.sync(accept_profile=True, force=force)) == [*foreign, *created]
    assert [note.fields for note in world.notes()[:2]] == [
        {"Front": f"f{n}", "Back": f"b{n}"} for n in (1, 2)
    ]


def test_a_profile_of_another_name_stops_and_is_accepted_once(
    server_world: World, anki_server: AnkiServer
) -> None:
    server_world.words(1, 2)
    server_world.sync()
    anki_server.profile = "Backup"
    server_world.change(1, native_text="ใหม่")
    assert stopped(server_world, force=True) == (
        "HERE has the profile Backup, but the last sync was with the profile User 1; nothing was"
        " written. Open the profile User 1, or run pipeline anki sync --accept-profile if the notes"
        " are in this profile now."
    )
    assert actions(server_world.sync(accept_profile=True)) == [(1, "updated")]
    server_world.change(2, native_text="ใหม่")
    assert actions(server_world.sync()) == [(2, "updated")]


def test_notes_of_another_target_are_taken_over_only_if_a_person_says_so(world: World) -> None:
    world.words(1, 2)
    world.sync()
    (tag,) = world.note(1).source
    world.run("DROP SCHEMA migration CASCADE")
    world.change(1, native_text="ใหม่")
    assert stopped(world, force=True) == (
        f"2 of 2 notes in HERE have the tag {tag}: they were exported from another target; nothing"
        " was written. Open the profile of this target, or run pipeline anki sync --accept-profile"
        " if this target replaces the other one."
    )
    assert actions(world.sync(accept_profile=True)) == [(1, "updated")]
    assert world.followed() == world.all_followed()
    assert world.note(1).source == (tag,)


def test_a_run_that_would_adopt_most_notes_stops_and_asks(world: World) -> None:
    world.words(1, 2, 3)
    world.sync()
    world.sql("DELETE FROM anki_cards")
    assert "3 of 3 contents have a note that no card names" in stopped(world, force=True)
    adopted = [(1, "adopted"), (2, "adopted"), (3, "adopted")]
    assert actions(world.sync(accept_profile=True)) == adopted
    assert world.followed() == world.all_followed()


def test_a_note_of_an_earlier_version_is_adopted_if_it_was_exported_from_here(
    world: World,
) -> None:
    world.words(1, 2, 3, 4, 5)
    world.sync(ids=frozenset({1, 4, 5}))
    own = world.add_note(*field_names(2).values(), "sync::content::2")
    other = world.add_note("f", "b", "sync::content::3")
    assert sorted(told(world.sync())) == [
        (2, "adopted", f"note {own}, asset_200.mp3, asset_201.mp3"),
        (3, "created", f"in deck {DECK}"),
        (
            3,
            "foreign",
            f"note {other} has the tag sync::content::3, but was not exported from here; it is not"
            " changed",
        ),
    ]


# Missing notes


def test_when_all_notes_are_missing_it_says_so_and_names_the_command_that_makes_them(
    world: World,
) -> None:
    world.words(1, 2, 3)
    world.sync()
    world.delete(*(note.id for note in world.notes()))
    message = stopped(world)
    assert ": 3 of 3 notes are missing. This may be the wrong profile or collection" in message
    assert message.endswith("or run pipeline anki sync --force to create all missing notes again.")
    found = check(world)["note_exists"]
    assert (found.passed, found.blocking) == (False, True)
    (finding,) = found.findings
    sentence = describe(finding)
    assert sentence.startswith("none of the cards' notes (3) is in ")
    assert "pipeline anki sync --force" in sentence
    assert actions(world.sync(force=True)) == [(1, "created"), (2, "created"), (3, "created")]
    assert world.followed() == world.all_followed()


def test_losses_that_a_person_accepted_do_not_stop_every_run(world: World) -> None:
    world.words(1, 2, 3)
    world.sync()
    numbers = [note.id for note in world.notes()]
    world.delete(*numbers[:2])
    assert "2 of 3 notes are missing" in stopped(world)
    assert actions(world.sync(accept_profile=True)) == [(1, "missing"), (2, "missing")]
    assert actions(world.sync()) == [(1, "missing"), (2, "missing")]
    world.delete(numbers[2])
    assert "3 of 3 notes are missing" in stopped(world)


# What is switched off


def test_what_is_switched_off_fails_no_check_for_ever(world: World) -> None:
    world.words(1, 2, 3)
    world.sync()
    first, second, _ = world.notes()
    world.tag(first.id, "sync::skip")
    world.tag(second.id, "sync::skip")
    world.untag(second.id, "sync::content::2")
    with world.strategy.collection() as collection:
        collection.media.trash_files(["asset_100.mp3"])
    found = check(world)
    assert [(each.passed, each.blocking) for each in found.values()] == [
        (False, False),
        (True, False),
        (False, False),
    ]
    assert [describe(finding) for finding in found["recordings"].findings] == [
        f"note {first.id}: asset_100.mp3 is missing; the tag sync::skip keeps the note as it is"
    ]
    with world.strategy.collection() as collection:
        collection.media.trash_files(["asset_300.mp3"])
    assert check(world)["recordings"].blocking
    world.sync()
    assert not check(world)["recordings"].blocking


# Reasons


def test_a_note_that_anki_would_refuse_is_refused_by_the_collection_alike(
    anki_folder: Path,
) -> None:
    new = [
        NewNote(DECK, "Basic", {"Front": " <div></div>", "Back": "b"}, ()),
        NewNote(DECK, "Basic", {"Front": "f", "Back": "b"}, ()),
        NewNote(DECK, "Basic", {"Front": "f", "Back": "c"}, ()),
        NewNote(DECK, "Cloze", {"Text": "no cloze"}, ()),
    ]
    with CollectionFile(anki_folder / "collection.anki2") as anki:
        empty, one, same, cloze = anki.add(new)
    assert (empty, cloze) == (
        Refusal("its first field is empty"),
        Refusal("its type needs a cloze deletion, and it has none"),
    )
    assert isinstance(one, int)
    assert isinstance(same, int)


@pytest.mark.parametrize("action", ["findNotes", "notesInfo"])
def test_answers_that_are_not_of_the_add_on_are_named_as_such(
    server_world: World, anki_server: AnkiServer, action: str
) -> None:
    server_world.words(1)
    server_world.sync()
    server_world.change(1, native_text="ใหม่")
    with anki_server.fault("other items", action):
        assert stopped(server_world) == (
            f"HERE answered {action} in a format that is not AnkiConnect's. Check ANKI_CONNECT_URL."
        )


@pytest.mark.parametrize("deck", ["", "  ", "\udcff"])
def test_a_deck_that_can_have_no_such_name_is_refused(world: World, deck: str) -> None:
    world.words(1)
    with pytest.raises(SettingsError, match="The name of a deck is empty or no valid text"):
        world.sync(deck=deck, create_decks=True)


def test_a_media_folder_that_is_a_file_is_named(anki_folder: Path) -> None:
    media = anki_folder / "collection.media"
    shutil.rmtree(media)
    media.write_bytes(b"")
    path = anki_folder / "collection.anki2"
    with pytest.raises(AnkiError) as caught, CollectionFile(path) as anki:
        anki.media_names()
    assert str(caught.value) == (
        f"{media}, where the collection {path} has its media, is a file. Move that file away; the"
        " folder is then created."
    )


@pytest.mark.parametrize(("first", "last"), [(100, 4096), (4096, 8192), (40960, 60000)])
def test_a_damaged_collection_is_named_in_words(file_world: World, first: int, last: int) -> None:
    file_world.words(1, 2, 3)
    file_world.sync()
    path = cast(FileWay, file_world.strategy).path
    data = bytearray(path.read_bytes())
    data[first:last] = b"\xa5" * len(data[first:last])
    path.write_bytes(data)
    file_world.change(1, native_text="ใหม่")
    with pytest.raises(AnkiError) as caught:
        file_world.sync()
    assert str(caught.value) == (
        f"the collection {path}: it is damaged (database disk image is malformed). In Anki, use"
        " Tools, Check Database; if that fails, restore one of its backups."
    )
