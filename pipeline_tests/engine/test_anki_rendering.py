"""What a note shows: which fragments, as which HTML, and that Anki keeps it as it was sent."""

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.anki import contents
from pipeline.anki.contents import EXAMPLE, ITEM, Sound
from pipeline.anki.store.errors import RenderError
from pipeline_tests.support.anki_world import NEW_YEAR, World


def templates(folder: Path, front: str = "{{ content.title }}", back: str = "b") -> Path:
    """A folder of a user's own templates."""
    (folder / "front.html").write_text(front)
    (folder / "back.html").write_text(back)
    return folder


# Whole cards


# Which fragments


def shown(world: World, content: int = 1) -> tuple[int | None, list[int]]:
    """Ids of the item and of the examples of a content."""
    with world.manager.get_postgres_session() as session:
        (found,) = contents.read(session, [content])
    return found.item and found.item.id, [each.id for each in found.examples]


def heard(world: World) -> list[int | None]:
    """Ids of the recordings of the examples of content 1."""
    with world.manager.get_postgres_session() as session:
        (found,) = contents.read(session, [1])
    return [each.sound and each.sound.asset_id for each in found.examples]


def test_the_best_by_average_come_first_and_the_unrated_last(file_world: World) -> None:
    file_world.content(1)
    for number in range(1, 6):
        file_world.fragment(number, 1)
    ratings = {1: [3.0, 4.0], 2: [0.0], 3: [5.0, 1.9], 4: []}
    for fragment, scores in ratings.items():
        for score in scores:
            file_world.rate(score, fragment=fragment)
    file_world.rate(None, fragment=5)
    assert shown(file_world) == (None, [1, 3, 2])
    file_world.run("DELETE FROM content_fragments WHERE id IN (1, 3)")
    assert shown(file_world) == (None, [2, 5, 4])


def test_among_equals_the_newest_comes_first_whatever_its_id(file_world: World) -> None:
    file_world.content(1)
    moments = {1: 5, 2: 9, 3: 9, 4: None, 5: 1}
    for number, minute in moments.items():
        created = NEW_YEAR + timedelta(minutes=minute) if minute else None
        file_world.fragment(number, 1, created_at=created)
    assert shown(file_world) == (None, [3, 2, 1])
    file_world.run("DELETE FROM content_fragments WHERE id IN (2, 3)")
    assert shown(file_world) == (None, [1, 5, 4])


def test_averages_that_differ_in_the_last_digit_are_no_equals(file_world: World) -> None:
    file_world.content(1)
    for number in (1, 2):
        file_world.fragment(number, 1)
    for score in (1.0, 1.0, 1.01):
        file_world.rate(score, fragment=1)
    file_world.rate(1.0, fragment=2)
    assert shown(file_world) == (None, [1, 2])


def test_ratings_of_a_recording_do_not_rate_its_fragment(file_world: World) -> None:
    file_world.content(1)
    for number in (1, 2):
        file_world.fragment(number, 1)
        file_world.asset(number, number)
    file_world.rate(5, fragment=1, asset=1)
    file_world.rate(0.5, fragment=2)
    assert shown(file_world) == (None, [2, 1])


def test_the_best_item_is_shown_and_other_kinds_are_not(file_world: World) -> None:
    file_world.content(1)
    file_world.content(2)
    for number, kind in enumerate(
        (ITEM, ITEM, "usage_example", "basic_meaning", "usage_tip", EXAMPLE), 1
    ):
        file_world.fragment(number, 1, kind)
    file_world.fragment(9, 2, EXAMPLE)
    file_world.rate(1, fragment=1)
    assert [shown(file_world, 1), shown(file_world, 2)] == [(1, [6]), (None, [9])]


def test_the_best_recording_of_a_fragment_is_played(file_world: World) -> None:
    file_world.content(1)
    file_world.fragment(1, 1)
    for number in (1, 2, 3):
        file_world.asset(number, 1)
    assert heard(file_world) == [3]
    file_world.rate(2, asset=1)
    assert heard(file_world) == [1]
    file_world.rate(2.5, fragment=1, asset=2)
    assert heard(file_world) == [2]


def test_what_is_no_recording_is_not_played(file_world: World) -> None:
    file_world.content(1)
    file_world.fragment(1, 1)
    file_world.asset(1, 1, asset_type="image")
    file_world.asset(2, 1, b"")
    assert heard(file_world) == [None]


def test_contents_come_by_id_and_only_those_asked_for(file_world: World) -> None:
    for number in (3, 1, 2):
        file_world.content(number, native_text=f"text {number}")
    with file_world.manager.get_postgres_session() as session:
        every = [each.id for each in contents.read(session)]
        some = [each.id for each in contents.read(session, [3, 2, 2, 99])]
        none = [each.id for each in contents.read(session, [])]
    assert (every, some, none) == ([1, 2, 3], [2, 3], [])


def test_the_digest_of_a_recording_is_that_of_its_bytes(file_world: World) -> None:
    file_world.content(1)
    file_world.fragment(1, 1)
    data = bytes(range(256)) * 50
    file_world.asset(2147483647, 1, data)
    with file_world.manager.get_postgres_session() as session:
        (content,) = contents.read(session)
        sound = content.examples[0].sound
        assert sound is not None
        assert list(contents.recordings(session, [sound])) == [(sound, data)]
        known = contents.recorded(session, [sound.file, "other.mp3", "asset_7.mp3", "asset_x.mp3"])
    md5 = hashlib.md5(data).hexdigest()
    assert sound == Sound(2147483647, md5, len(data))
    assert known == {"asset_2147483647.mp3": sound}


# A user's own templates


def test_a_failing_template_leaves_everything_as_it_was(world: World, tmp_path: Path) -> None:
    world.words(1)
    world.sync()
    world.words(2)
    before = world.everything()
    with pytest.raises(RenderError):
        world.sync(templates=templates(tmp_path, "{{ 1 // (content.id - 2) }}"))
    assert world.everything() == before


def test_changed_templates_reach_every_note(world: World, tmp_path: Path) -> None:
    world.words(1, 2)
    world.sync()
    own = templates(tmp_path, "{{ content.native_text }}", "{{ content.translation }}")
    world.sync(templates=own)
    assert world.followed(templates=own) == world.all_followed(templates=own)
    assert [list(note.fields.values()) for note in world.notes()] == [
        ["คำ 1", "word 1"],
        ["คำ 2", "word 2"],
    ]


# What was exported


# Anki keeps what it is given
