"""Notes in Anki follow the contents, by the collection file and over HTTP alike."""

import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.anki.store.errors import AnkiError
from pipeline.anki.store.notes import SKIP, SUCCESS
from pipeline.core.errors import SourceError, TargetError
from pipeline_tests.support.anki_server import AnkiServer
from pipeline_tests.support.anki_world import (
    DECK,
    SQLITE,
    SeenCard,
    World,
    actions,
    die_at,
    field_names,
    told,
)

SCHEDULING = (
    "SELECT id, nid, did, ord, type, queue, due, ivl, factor, reps, lapses, left, odue, odid,"
    " flags, data FROM cards ORDER BY id"
)


def scheduling(world: World) -> list[Any]:
    """What Anki knows of the learner's progress."""
    with world.strategy.collection() as collection:
        assert collection.db is not None
        return [collection.db.all(SCHEDULING), collection.db.all("SELECT * FROM revlog")]


def left_alone(world: World, **options: Any) -> list[tuple[int, str, str]]:
    """What a sync tells that changes nothing anywhere."""
    before = world.everything()
    report = world.sync(**options)
    assert world.everything() == before
    return told(report)


# What follows


def test_every_content_becomes_one_note(world: World) -> None:
    world.words(1, 2)
    report = world.sync()
    assert told(report) == [
        (1, "created", "in deck top-thai-2000"),
        (2, "created", "in deck top-thai-2000"),
    ]
    assert (report.media_files, report.media_bytes) == (4, 4 * len(b"ID3 recording 100"))
    assert [(n.fields, n.tags, n.decks, n.suspended) for n in world.notes()] == [
        (field_names(1), {"sync::content::1", SUCCESS}, (DECK,), (False,)),
        (field_names(2), {"sync::content::2", SUCCESS}, (DECK,), (False,)),
    ]
    assert world.followed() == world.all_followed()


def test_a_second_run_changes_nothing(world: World) -> None:
    world.words(1, 2, 3)
    world.content(4)
    world.card(2, tags='["sync::new", "hard"]')
    world.sync()
    assert left_alone(world) == []
    assert world.sync().counts == {"skipped": 4}


def test_a_second_run_asks_as_often_for_many_cards_as_for_few(
    server_world: World, anki_server: AnkiServer
) -> None:
    asked = []
    for few in (range(1, 4), range(4, 240)):
        server_world.words(*few)
        server_world.sync()
        anki_server.requests.clear()
        server_world.sync()
        asked.append(dict(anki_server.requests))
    assert asked[0] == asked[1]
    assert sum(asked[0].values()) < 10


def test_more_contents_than_are_written_at_once_all_follow(world: World) -> None:
    world.words(*range(1, 232))
    seen: list[tuple[int, int]] = []
    world.sync(on_progress=lambda done, of: seen.append((done, of)))
    assert seen == [(100, 231), (200, 231), (231, 231)]
    assert world.followed() == world.all_followed()


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE learning_content SET native_text = 'ใหม่' WHERE id = 1", "Front"),
        ("UPDATE learning_content SET translation = 'new', ipa = 'x' WHERE id = 1", "Front, Back"),
        ("UPDATE content_fragments SET body_text = 'new' WHERE id = 12", "Back"),
        ("UPDATE content_fragments SET extra = 'new' WHERE id = 11", "Back"),
        ("UPDATE rankings SET rank_score = 5 WHERE fragment_id = 12", "Back"),
        ("DELETE FROM content_fragments WHERE id = 11", "Back"),
        ("DELETE FROM fragment_assets WHERE id = 100", "Front"),
        ("UPDATE content_fragments SET learning_content_id = 2 WHERE id = 12", "Back"),
        ("UPDATE fragment_assets SET asset_data = 'other bytes' WHERE id = 100", "asset_100.mp3"),
        ("UPDATE fragment_assets SET fragment_id = 12 WHERE id = 101", "Back"),
    ],
)
def test_a_change_of_what_a_note_shows_follows(world: World, sql: str, what: str) -> None:
    world.words(1)
    world.sync()
    note = world.note(1)
    world.words(2)
    world.sync()
    world.run(sql)
    assert (1, "updated", f"{what} of note {note.id}") in told(world.sync())
    world.sync()
    assert world.followed() == world.all_followed()
    assert world.note(1).id == note.id


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE learning_content SET title = 'new', tags = '[\"x\"]', difficulty_level = 5",
        "INSERT INTO rankings (fragment_id, asset_id, rank_score, assessed_by)"
        " VALUES (12, 101, 5, 'nok')",
        "UPDATE content_fragments SET updated_at = now(), fragment_metadata = '{}'",
        "UPDATE rankings SET rank_score = rank_score - 1",
    ],
)
def test_a_change_of_what_no_note_shows_does_nothing(world: World, sql: str) -> None:
    world.words(1)
    world.sync()
    world.run(sql)
    assert left_alone(world) == []


def test_a_newer_recording_takes_the_place_of_an_older_one(world: World) -> None:
    world.words(1)
    world.sync()
    world.asset(109, 10, b"a newer one")
    assert told(world.sync()) == [
        (1, "updated", f"Front, asset_109.mp3 of note {world.note(1).id}")
    ]
    assert {name: data for name, data in world.media().items() if name == "asset_109.mp3"} == {
        "asset_109.mp3": b"a newer one"
    }


def test_a_recording_that_was_lost_from_anki_is_stored_again_with_the_next_change(
    world: World,
) -> None:
    world.words(1)
    world.sync()
    with world.strategy.collection() as collection:
        collection.media.trash_files(["asset_100.mp3"])
    world.change(1, translation="new")
    world.sync()
    assert world.media()["asset_100.mp3"] == b"ID3 recording 100"


def test_only_the_contents_that_were_asked_for_follow(world: World) -> None:
    world.words(1, 2, 3)
    report = world.sync(ids=frozenset({2, 77}))
    assert told(report) == [
        (77, "failed", "PostgreSQL has no content with this id"),
        (2, "created", "in deck top-thai-2000"),
    ]
    assert list(world.by_content()) == [2]


def test_an_id_that_no_database_can_hold_is_no_content(world: World) -> None:
    world.words(1)
    assert told(world.sync(ids=frozenset({-1, 2**31, 2**70}))) == [
        (number, "failed", "PostgreSQL has no content with this id")
        for number in (-1, 2**31, 2**70)
    ]


def test_what_only_some_contents_are_asked_for_says_nothing_of_removed_ones(world: World) -> None:
    world.words(1, 2)
    world.sync()
    world.remove(1)
    assert left_alone(world, ids=frozenset({2}), removed="suspend") == []


# What the learner does


def test_an_edited_field_is_the_learners_and_the_other_one_follows(world: World) -> None:
    world.words(1)
    world.sync()
    number = world.note(1).id
    world.edit(number, Front="my own front")
    world.change(1, native_text="ใหม่", translation="new")
    assert told(world.sync()) == [
        (1, "kept", f"Front of note {number}: the learner edited it"),
        (1, "updated", f"Back of note {number}"),
    ]
    back = world.rendered()[1].fields[1]
    assert world.note(1).fields == {"Front": "my own front", "Back": back}
    kept = [(1, "kept", f"Front of note {number}: the learner edited it")]
    assert left_alone(world) == kept
    world.change(1, translation="newer")
    assert told(world.sync()) == [*kept, (1, "updated", f"Back of note {number}")]


def test_an_edit_without_a_change_of_the_content_is_left_alone(world: World) -> None:
    world.words(1)
    world.sync()
    world.edit(world.note(1).id, Front="my own front", Back="")
    assert left_alone(world) == []


def test_a_field_that_the_learner_set_back_follows_again(world: World) -> None:
    world.words(1)
    world.sync()
    number, front = world.note(1).id, world.note(1).fields["Front"]
    world.edit(number, Front="my own front")
    world.change(1, native_text="ใหม่")
    world.sync()
    world.edit(number, Front=front)
    assert told(world.sync()) == [(1, "updated", f"Front of note {number}")]
    assert world.followed() == world.all_followed()


def test_what_the_editor_writes_in_its_own_way_is_no_edit(world: World) -> None:
    world.words(1)
    world.change(1, native_text='"it\'s" [sound:evil.mp3]')
    world.sync()
    front = world.note(1).fields["Front"]
    edited = front.replace("&#34;", '"').replace("&#39;", "'").replace("&#91;", "[")
    assert edited != front
    world.edit(world.note(1).id, Front=edited)
    world.change(1, native_text="new")
    assert actions(world.sync()) == [(1, "updated")]


def test_force_writes_over_edits(world: World) -> None:
    world.words(1)
    world.sync()
    world.edit(world.note(1).id, Front="my own front")
    assert told(world.sync(force=True)) == [(1, "updated", f"Front of note {world.note(1).id}")]
    assert world.followed() == world.all_followed()


def test_force_where_nothing_differs_changes_nothing(world: World) -> None:
    world.words(1)
    world.sync()
    assert left_alone(world, force=True) == []


def test_tags_decks_and_scheduling_of_the_learner_survive(world: World) -> None:
    world.words(1, 2)
    world.sync()
    first, second = (note.id for note in world.notes())
    with world.strategy.collection() as collection:
        (card,), (other,) = (collection.get_note(number).cards() for number in (first, second))
        collection.set_deck([card.id], collection.decks.id("mine::own") or 0)
        card = collection.get_card(card.id)
        card.type, card.queue, card.due, card.ivl, card.factor = 2, 2, 321, 45, 2345
        card.reps, card.lapses, card.flags = 7, 1, 3
        collection.update_card(card)
        collection.sched.suspend_cards([other.id])
        collection.tags.bulk_add([first], "leech verb::irregular")
    before = scheduling(world)
    world.change(1, native_text="ใหม่", translation="new")
    world.change(2, native_text="ใหม่", translation="new")
    assert actions(world.sync()) == [(1, "updated"), (2, "updated")]
    assert scheduling(world) == before
    assert [(note.tags, note.decks, note.suspended) for note in world.notes()] == [
        ({"sync::content::1", SUCCESS, "leech", "verb::irregular"}, ("mine::own",), (False,)),
        ({"sync::content::2", SUCCESS}, (DECK,), (True,)),
    ]


def test_the_learners_tags_on_a_card_go_to_its_note_and_stay_on_the_card(world: World) -> None:
    world.words(1)
    world.card(1, tags='["sync::new", "hard", "two words", "  ", "", "sync::group::a", 7]')
    world.sync()
    assert world.note(1).tags == {"sync::content::1", SUCCESS, "hard", "two_words"}
    (card,) = world.cards()
    assert card.tags == '["sync::success", "hard", "two words", "  ", "", "sync::group::a", 7]'


@pytest.mark.parametrize(("where", "tag"), [("card", "Sync::Skip"), ("note", "SYNC::skip")])
def test_a_tag_switches_a_card_off(world: World, where: str, tag: str) -> None:
    world.words(1)
    world.sync()
    if where == "card":
        world.sql("UPDATE anki_cards SET tags = ?", f'["{tag}"]')
    else:
        world.tag(world.note(1).id, tag)
    world.change(1, native_text="ใหม่")
    off = [(1, "switched off", "the note or its card has the tag sync::skip")]
    assert left_alone(world) == off
    assert left_alone(world, force=True) == off


def test_a_card_that_is_switched_off_gets_no_note(world: World) -> None:
    world.words(1)
    world.card(1, tags='["sync::skip"]')
    assert left_alone(world) == [(1, "switched off", "the note or its card has the tag sync::skip")]


@pytest.mark.parametrize(("where", "removed"), [("card", "tag"), ("note", "suspend")])
def test_a_note_that_is_switched_off_is_left_as_it_is_when_its_content_goes(
    world: World, where: str, removed: str
) -> None:
    world.words(1, 2)
    world.sync()
    if where == "card":
        world.sql("""UPDATE anki_cards SET tags = '["sync::skip"]' WHERE learning_content_id = 1""")
    else:
        world.tag(world.note(1).id, SKIP)
    world.remove(1)
    left_alone(world, removed=removed)


def test_a_note_that_the_learner_deleted_is_made_again_only_by_force(world: World) -> None:
    world.words(1)
    world.sync()
    number = world.note(1).id
    world.delete(number)
    detail = f"note {number} is not in Anki; --force --only 1 recreates it"
    assert left_alone(world) == [(1, "missing", detail)]
    assert told(world.sync(force=True)) == [(1, "created", "in deck top-thai-2000")]
    assert world.followed() == world.all_followed()
    assert world.note(1).id != number


def test_a_copy_with_its_tags_is_told_and_left_alone(world: World) -> None:
    world.words(1)
    world.sync()
    note = world.note(1)
    copy = world.add_note(*note.fields.values(), *note.tags)
    told_of = [(1, "duplicate", f"note {copy} has the same tag; delete one of them")]
    assert left_alone(world) == told_of
    world.change(1, native_text="ใหม่")
    assert told(world.sync()) == [*told_of, (1, "updated", f"Front of note {note.id}")]
    assert [each.fields["Front"] for each in world.notes()] == [
        world.rendered()[1].fields[0],
        note.fields["Front"],
    ]


def test_a_copy_is_adopted_when_the_note_was_deleted(world: World) -> None:
    world.words(1)
    world.sync()
    note = world.note(1)
    copy = world.add_note(*note.fields.values(), *note.tags)
    world.delete(note.id)
    assert told(world.sync()) == [(1, "adopted", f"note {copy}")]
    assert world.followed() == world.all_followed()


def test_a_note_that_says_it_is_of_another_content_is_not_touched(world: World) -> None:
    world.words(1, 2)
    number = world.add_note("front", "back", "sync::content::2")
    world.card(1, number)
    failed = (1, "failed", f"note {number} has the tag of content 2")
    assert failed in told(world.sync())
    assert {note.id: note.fields for note in world.notes()}[number] == {
        "Front": "front",
        "Back": "back",
    }


@pytest.mark.parametrize(
    "tag",
    [
        "sync::content::",
        "sync::content::x",
        "sync::content::1::2",
        "sync::content::" + "9" * 30,
        "sync::content::²",
        "sync::content::" + "9" * 5000,
    ],
)
def test_a_tag_that_names_no_content_disturbs_nothing(world: World, tag: str) -> None:
    world.words(1)
    world.add_note("mine", "own", tag)
    world.sync()
    assert [note.fields for note in world.by_content()[1]] == [field_names(1)]


def test_the_capitals_of_the_learners_tags_make_no_difference(world: World) -> None:
    world.words(1, 2)
    world.add_note("mine", "own", "Sync::Content::Own")
    world.sync()
    assert left_alone(world) == []
    world.change(1, native_text="ใหม่")
    assert actions(world.sync()) == [(1, "updated")]
    assert world.sync().counts == {"skipped": 2}


def test_a_tag_that_the_learner_took_away_is_given_again(world: World) -> None:
    world.words(1)
    world.sync()
    number = world.note(1).id
    world.untag(number, "sync::content::1")
    assert told(world.sync()) == [(1, "updated", f"the record of note {number}")]
    assert world.note(1).id == number
    assert left_alone(world) == []


def test_a_note_without_the_fields_is_told(world: World) -> None:
    world.words(1, 2)
    world.sync(ids=frozenset({2}))
    tags = ("sync::content::1", *world.note(2).source)
    number = world.add_note("{{c1::a}}", "b", *tags, model="Cloze")
    detail = f"note {number}, of type Cloze, has no field Front, Back"
    assert left_alone(world) == [(1, "failed", detail)]


# Cards of earlier applications


def test_an_untagged_note_that_is_right_is_tagged(world: World) -> None:
    world.words(1)
    number = world.add_note(*field_names(1).values(), "mine")
    world.card(1, number, export_hash="5d41402abc4b2a76b9719d911017c592")
    assert actions(world.sync()) == [(1, "updated")]
    assert world.note(1).tags == {"mine", "sync::content::1"}
    assert world.sync().counts == {"skipped": 1}


@pytest.mark.parametrize("export_hash", ["5d41402abc4b2a76b9719d911017c592", None, "", "a-b-c"])
def test_what_an_earlier_application_exported_is_kept_until_forced(
    world: World, export_hash: str | None
) -> None:
    world.words(1)
    number = world.add_note("old front", field_names(1)["Back"])
    world.card(1, number, export_hash=export_hash)
    kept = (1, "kept", f"Front of note {number}: its last export is unknown")
    assert told(world.sync())[0] == kept
    assert world.note(1).fields == {**field_names(1), "Front": "old front"}
    assert left_alone(world) == [kept]
    world.change(1, translation="new")
    assert told(world.sync()) == [kept, (1, "updated", f"Back of note {number}")]
    assert told(world.sync(force=True)) == [(1, "updated", f"Front of note {number}")]
    assert [each.fields for each in world.notes()] == [
        dict(zip(("Front", "Back"), world.rendered()[1].fields, strict=True))
    ]


def test_an_untagged_note_whose_content_is_gone_is_told(world: World) -> None:
    world.words(2)
    number = world.add_note("old", "note")
    world.card(1, number)
    assert (1, "removed", f"note {number}: left unchanged") in told(world.sync())


@pytest.mark.parametrize(
    "tags", ["{}", "not json", '"sync::skip"', "7", '["a"', b'["\xff"]', "[" * 100_000]
)
def test_a_card_whose_tags_cannot_be_read_is_left_alone(world: World, tags: str | bytes) -> None:
    world.words(1)
    world.card(1, tags=tags)
    assert [what for _, what, _ in left_alone(world)] == ["switched off"]


@pytest.mark.parametrize("tags", [None, "null", "[]", ""])
def test_a_card_without_tags_gets_a_note(world: World, tags: str | None) -> None:
    world.words(1)
    world.card(1, tags=tags)
    assert actions(world.sync()) == [(1, "created")]
    assert [(card.content, card.tags) for card in world.cards()] == [(1, '["sync::success"]')]


def test_of_several_cards_the_one_with_a_note_follows(world: World) -> None:
    world.words(1)
    without = world.card(1)
    number = world.add_note(*field_names(1).values(), "sync::content::1")
    other = world.add_note("another", "note", "sync::content::1")
    world.card(1, number)
    world.card(1, other)
    assert actions(world.sync()) == [(1, "updated")]
    before = world.cards()
    assert before[0] == SeenCard(without, None, DECK, '["sync::new"]', 1, None)
    world.change(1, native_text="ใหม่")
    assert told(world.sync()) == [(1, "updated", f"Front of note {number}")]
    assert {note.id: note.fields["Back"] for note in world.notes()} == {
        number: field_names(1)["Back"],
        other: "note",
    }


# Contents that are gone


@pytest.mark.parametrize(
    ("removed", "detail", "tags", "suspended"),
    [
        ("report", "left unchanged", set(), False),
        ("tag", "tagged sync::removed", {"sync::removed"}, False),
        ("suspend", "suspended", {"sync::removed", "sync::suspended"}, True),
    ],
)
def test_the_note_of_a_content_that_is_gone(
    world: World, removed: str, detail: str, tags: set[str], suspended: bool
) -> None:
    world.words(1, 2)
    world.sync()
    note = world.note(1)
    world.remove(1)
    gone = [(1, "removed", f"note {note.id}: {detail}")]
    assert left_alone(world, removed=removed, dry_run=True) == gone
    assert told(world.sync(removed=removed)) == gone
    after = world.note(1)
    assert (after.fields, after.tags, after.suspended) == (
        note.fields,
        note.tags | tags,
        (suspended,),
    )
    again = detail if removed == "report" else "already marked sync::removed"
    assert left_alone(world, removed=removed) == [(1, "removed", f"note {note.id}: {again}")]

    world.words(1)
    back = [(1, "restored", f"note {note.id}: its content is back; suspended cards stay suspended")]
    assert told(world.sync(removed=removed)) == (back if tags else [])
    assert world.note(1).tags == note.tags
    assert left_alone(world, removed=removed) == []


def test_a_note_that_no_card_names_is_marked_too(world: World) -> None:
    world.words(1, 2)
    world.sync()
    number = world.note(1).id
    world.remove(1)
    world.sql("DELETE FROM anki_cards WHERE learning_content_id = 1")
    world.add_note("a", "b", "sync::content::1")
    assert told(world.sync(removed="suspend")) == [(1, "removed", f"note {number}: suspended")]
    # A note without the tag of this source may be another's.
    assert [note.suspended for note in world.by_content()[1]] == [(True,), (False,)]


def test_a_content_in_quarantine_is_not_gone(world: World) -> None:
    world.words(1, 2)
    world.sync()
    number = world.note(1).id
    world.remove(1)
    world.wait_in_quarantine(1, 2)
    waits = [(1, "waiting", f"note {number}: its content is in quarantine")]
    assert left_alone(world, removed="suspend") == waits


# What Anki has to have


def test_a_deck_that_is_missing_stops_before_anything_is_done(world: World) -> None:
    world.words(1, 2)
    world.card(2, deck_name="another")
    before = world.everything()
    with pytest.raises(AnkiError) as caught:
        world.sync(deck="verbs")
    assert caught.value.problem == f"{world.strategy.open().shown} has no deck another, verbs"
    assert world.everything() == before
    assert actions(world.sync(deck="verbs", create_decks=True)) == [(1, "created"), (2, "created")]
    assert [note.decks for note in world.notes()] == [("verbs",), ("another",)]


@pytest.mark.parametrize(
    "deck", ["TOP-thai-2000", "Ame\N{COMBINING ACUTE ACCENT}lie", "thai::verbs"]
)
def test_a_deck_is_the_one_that_anki_takes_it_for(world: World, deck: str) -> None:
    world.words(1)
    with world.strategy.collection() as collection:
        collection.decks.id(deck)
    assert told(world.sync(deck=deck)) == [(1, "created", f"in deck {deck}")]


def test_a_deck_whose_name_anki_writes_otherwise_is_made_once(world: World) -> None:
    world.words(1, 2)
    world.sync(deck=" verbs :: new ", create_decks=True, ids=frozenset({1}))
    world.sync(deck=" verbs :: new ", create_decks=True)
    assert [note.decks for note in world.notes()] == [("verbs::new",), ("verbs::new",)]


def test_a_filtered_deck_takes_no_notes(file_world: World) -> None:
    file_world.words(1)
    with file_world.strategy.collection() as collection:
        collection.decks.new_filtered("leeches")
    before = file_world.everything()
    with pytest.raises(AnkiError, match="leeches"):
        file_world.sync(deck="leeches")
    assert file_world.everything() == before


@pytest.mark.parametrize("removed", ["tag", "suspend"])
def test_more_notes_than_the_share_are_not_marked(world: World, removed: str) -> None:
    world.words(1, 2, 3, 4)
    world.sync()
    world.remove(1)
    world.remove(2)
    before = world.notes()
    with pytest.raises(
        AnkiError, match=r"The contents of 2 of 4 notes were deleted.*no note was marked"
    ):
        world.sync(removed=removed, removed_share=0.25)
    assert world.notes() == before
    assert actions(world.sync(removed=removed, removed_share=0.5)) == [
        (1, "removed"),
        (2, "removed"),
    ]


def test_a_deck_that_only_a_card_without_need_names_is_not_asked_for(world: World) -> None:
    world.words(1)
    world.card(1, deck_name="gone", tags='["sync::skip"]')
    assert left_alone(world) == [(1, "switched off", "the note or its card has the tag sync::skip")]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"note_type": "Thai"}, "{shown} has no note type Thai"),
        ({"fields": ("Front", "Tones")}, "The note type Basic of {shown} has no field Tones"),
    ],
)
def test_what_notes_need_is_asked_for_first(
    world: World, options: dict[str, Any], problem: str
) -> None:
    world.words(1)
    before = world.everything()
    with pytest.raises(AnkiError) as caught:
        world.sync(**options)
    assert caught.value.problem == problem.format(shown=world.strategy.open().shown)
    assert world.everything() == before


def test_another_note_type_with_more_fields(world: World) -> None:
    world.words(1)
    kind = "Basic (optional reversed card)"
    assert actions(world.sync(note_type=kind, fields=("Back", "Front"))) == [(1, "created")]
    front, back = field_names(1).values()
    assert world.note(1).fields == {"Front": back, "Back": front, "Add Reverse": ""}
    assert left_alone(world, note_type=kind, fields=("Back", "Front")) == []


# Dry runs


def in_need_of_everything(world: World) -> None:
    """One content for each thing that can become of one."""
    world.words(1, 2, 3, 4, 5, 6, 7, 8)
    world.sync()
    numbers = {content: some[0].id for content, some in world.by_content().items()}
    world.words(9)
    world.card(9, deck_name="another")
    world.change(1, native_text="ใหม่")
    world.run("UPDATE fragment_assets SET asset_data = 'other bytes' WHERE id = 200")
    world.edit(numbers[3], Front="my own front")
    world.change(3, native_text="ใหม่", translation="new")
    world.sql("DELETE FROM anki_cards WHERE learning_content_id = 4")
    world.delete(numbers[5])
    world.add_note("a", "b", "sync::content::6")
    world.remove(7)
    world.tag(numbers[8], "sync::removed")


def test_a_dry_run_tells_what_a_run_does_and_changes_nothing(world: World) -> None:
    in_need_of_everything(world)
    options: dict[str, Any] = {"removed": "suspend", "create_decks": True}
    would = left_alone(world, dry_run=True, **options)
    assert [(content, what) for content, what, _ in would] == [
        (3, "kept"),
        (5, "missing"),
        (6, "duplicate"),
        (1, "updated"),
        (2, "updated"),
        (3, "updated"),
        (4, "adopted"),
        (9, "created"),
        (8, "restored"),
        (7, "removed"),
    ]
    assert sorted(told(world.sync(**options))) == sorted(would)


def test_a_dry_run_by_force_changes_nothing(world: World) -> None:
    in_need_of_everything(world)
    options: dict[str, Any] = {"force": True, "create_decks": True}
    would = left_alone(world, dry_run=True, **options)
    assert sorted(told(world.sync(**options))) == sorted(would)


def test_a_dry_run_counts_as_a_run_does(world: World) -> None:
    in_need_of_everything(world)
    would = world.sync(dry_run=True, create_decks=True)
    assert world.sync(create_decks=True).counts == would.counts


# Others at the same time


def test_a_card_that_is_tagged_meanwhile_keeps_the_tag(world: World) -> None:
    world.words(1)
    world.card(1)

    def tags(moment: str) -> None:
        if moment == "after add":
            world.sql("""UPDATE anki_cards SET tags = '["sync::new", "hard"]'""")

    world.sync(happens=tags)
    assert [card.tags for card in world.cards()] == ['["sync::success", "hard"]']


def test_a_card_that_is_made_meanwhile_is_the_only_one(world: World) -> None:
    world.words(1)

    def makes(moment: str) -> None:
        if moment == "after add":
            world.card(1)

    world.sync(happens=makes)
    world.sync()
    assert world.followed() == world.all_followed()


def test_a_card_that_is_deleted_meanwhile_is_not_made_again(world: World) -> None:
    world.words(1)
    world.card(1)

    def deletes(moment: str) -> None:
        if moment == "after add":
            world.sql("DELETE FROM anki_cards")

    world.sync(happens=deletes)
    assert world.cards() == []
    world.sync()
    assert world.followed() == world.all_followed()


def test_another_writer_of_the_cards_is_told_and_the_next_run_goes_on(world: World) -> None:
    world.words(1, 2)
    world.card(1)
    with closing(SQLITE.connect(world.sqlite)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SourceError, match="another process is writing to it"):
            world.sync()
        other.rollback()
    assert actions(world.sync()) == [(1, "adopted"), (2, "adopted")]
    assert world.followed() == world.all_followed()


@pytest.mark.parametrize("when", ["before add", "after add"])
def test_a_postgresql_that_ends_the_session_is_told_and_the_next_run_goes_on(
    world: World, when: str
) -> None:
    world.words(1, 2)

    def ends(moment: str) -> None:
        if moment == when:
            world.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    with pytest.raises(TargetError, match="the connection to the server was lost"):
        world.sync(happens=ends)
    world.sync()
    assert world.followed() == world.all_followed()


def test_an_sqlite_file_that_is_missing_is_told_before_anything_is_done(world: World) -> None:
    world.words(1)
    away = world.sqlite.rename(world.sqlite.with_name("away"))
    with pytest.raises(SourceError, match="There is no SQLite file"):
        world.sync()
    away.rename(world.sqlite)
    assert world.notes() == []


def test_a_run_sees_the_contents_as_they_were_when_it_began(world: World) -> None:
    world.words(1)

    def changes(moment: str) -> None:
        if moment == "after create_deck":
            world.change(1, native_text="ใหม่")
            world.run("UPDATE fragment_assets SET asset_data = 'other bytes' WHERE id = 100")
            world.words(2)

    report = world.sync(deck="verbs", create_decks=True, happens=changes)
    assert told(report) == [(1, "created", "in deck verbs")]
    assert [note.fields for note in world.notes()] == [field_names(1)]
    assert world.media()["asset_100.mp3"] == b"ID3 recording 100"
    assert sorted(actions(world.sync())) == [(1, "updated"), (2, "created")]
    assert world.followed() == world.all_followed()


def test_a_content_that_changes_meanwhile_follows_in_the_next_run(world: World) -> None:
    world.words(1)

    def changes(moment: str) -> None:
        if moment == "before add":
            world.change(1, native_text="ใหม่")

    world.sync(happens=changes)
    assert world.note(1).fields == field_names(1)
    assert actions(world.sync()) == [(1, "updated")]
    assert world.followed() == world.all_followed()


# Sudden death

CREATING = ("after create_deck", "after store", "before add", "after add", "before commit")
UPDATING = ("before write", "after write", "before commit")


@pytest.mark.parametrize("moment", CREATING)
def test_a_run_that_is_killed_while_it_makes_notes_is_made_good(world: World, moment: str) -> None:
    world.words(1, 2)
    world.card(2, deck_name="another")
    assert die_at(world, moment, create_decks=True) == -signal.SIGKILL
    assert [card.note for card in world.cards()] == [None]
    made = moment in ("after add", "before commit")
    report = world.sync(create_decks=True)
    assert actions(report) == [(n, "adopted" if made else "created") for n in (1, 2)]
    assert world.followed() == world.all_followed()


@pytest.mark.parametrize("moment", UPDATING)
def test_a_run_that_is_killed_while_it_writes_notes_is_made_good(world: World, moment: str) -> None:
    world.words(1, 2)
    world.sync()
    numbers = [note.id for note in world.notes()]
    world.change(1, native_text="ใหม่", translation="new")
    world.run("UPDATE fragment_assets SET asset_data = 'other bytes' WHERE id = 100")
    assert die_at(world, moment) == -signal.SIGKILL
    assert actions(world.sync()) == [(1, "updated")]
    assert world.followed() == world.all_followed()
    assert [note.id for note in world.notes()] == numbers


@pytest.mark.parametrize("moment", ["after suspend", "after tag"])
def test_a_run_that_is_killed_while_it_suspends_is_made_good(world: World, moment: str) -> None:
    world.words(1, 2)
    world.sync()
    world.remove(1)
    assert die_at(world, moment, removed="suspend") == -signal.SIGKILL
    assert actions(world.sync(removed="suspend")) == [(1, "removed")]
    assert world.note(1).suspended == (True,)
    assert "sync::removed" in world.note(1).tags


def test_a_change_that_was_written_before_a_sudden_death_is_not_the_learners(world: World) -> None:
    world.words(1)
    world.sync()
    world.change(1, native_text="second")
    assert die_at(world, "after write") == -signal.SIGKILL
    world.change(1, native_text="third")
    assert actions(world.sync()) == [(1, "updated")]
    assert world.followed() == world.all_followed()


def test_a_note_that_was_made_before_a_sudden_death_follows_a_later_change(world: World) -> None:
    world.words(1)
    assert die_at(world, "after add") == -signal.SIGKILL
    world.change(1, native_text="second")
    world.sync()
    assert world.followed() == world.all_followed()


def test_nothing_is_left_open(file_world: World) -> None:
    file_world.words(1)
    file_world.sync()
    held = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert [name for name in held if "collection.anki2" in name] == []


# Recordings and contents that go while nobody looks


def a_recording(world: World) -> Path:
    """A file in the media folder."""
    with world.strategy.collection() as collection:
        return min(Path(collection.media.dir()).iterdir())


def test_a_recording_that_anki_lost_is_stored_again_though_nothing_changed(world: World) -> None:
    world.words(1, 2)
    world.sync()
    lost = a_recording(world)
    sound = lost.read_bytes()
    lost.unlink()
    assert [action for _, action in actions(world.sync())] == ["updated"]
    assert lost.read_bytes() == sound
    assert world.sync().counts == {"skipped": 2}


def test_a_recording_that_differs_is_stored_again_when_all_are_compared(world: World) -> None:
    world.words(1, 2)
    world.sync()
    changed = a_recording(world)
    sound = changed.read_bytes()
    changed.write_bytes(b"noise")
    assert world.sync().counts == {"skipped": 2}
    report = world.sync(recordings=True)
    assert (report.counts["updated"], report.counts["skipped"]) == (1, 1)
    assert changed.read_bytes() == sound


def test_comparing_all_recordings_leaves_a_learners_edit_alone(world: World) -> None:
    world.words(1)
    world.sync()
    number = world.by_content()[1][0].id
    world.edit(number, Front="my own front")
    world.sync(recordings=True)
    assert world.note(1).fields["Front"] == "my own front"


def test_a_card_is_marked_with_its_note_and_freed_when_the_content_is_back(world: World) -> None:
    world.words(1, 2)
    world.sync()
    world.remove(1)
    world.sync(removed="tag")
    marked = "SELECT learning_content_id FROM anki_cards WHERE tags LIKE '%sync::removed%'"
    assert world.sql(marked) == [(1,)]
    world.words(1)
    world.sync()
    assert world.sql(marked) == []


def test_a_content_that_is_deleted_while_its_note_is_made_gets_no_card(world: World) -> None:
    world.words(1, 2)
    world.sync(happens=lambda moment: world.remove(1) if moment == "after add" else None)
    assert world.sql("SELECT learning_content_id FROM anki_cards") == [(2,)]
    assert actions(world.sync()) == [(1, "removed")]


def test_what_was_only_tagged_can_be_suspended_later(world: World) -> None:
    world.words(1, 2)
    world.sync()
    world.remove(1)
    world.sync(removed="tag")
    number = world.by_content()[1][0].id
    assert told(world.sync(removed="suspend")) == [(1, "removed", f"note {number}: suspended")]
    assert set(world.note(1).tags) >= {"sync::removed", "sync::suspended"}
    assert told(world.sync(removed="suspend")) == [
        (1, "removed", f"note {number}: already marked sync::removed")
    ]
