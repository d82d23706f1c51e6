"""What can be wrong with a collection file: it is told in a sentence, and nothing is half done."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from anki.collection import Collection

from pipeline.anki.store.collection import CollectionFile, make_collection
from pipeline.anki.store.errors import AnkiError, AnkiUnavailable
from pipeline.anki.store.notes import NewNote
from pipeline.migrations.content_sample import make_sample
from pipeline_tests.support.anki_world import (
    DECK,
    SQLITE,
    FileWay,
    World,
    actions,
    make_world,
    told,
)

SETTING = "Set ANKI_COLLECTION to the collection.anki2 of your profile"


def refused(path: Path) -> tuple[type[AnkiError], str, str]:
    """What is said of a file that cannot be opened."""
    with pytest.raises(AnkiError) as caught, CollectionFile(path):
        pass
    assert str(caught.value) == f"{caught.value.problem}. {caught.value.remedy}."
    return type(caught.value), caught.value.problem, caught.value.remedy


@pytest.fixture
def path(anki_folder: Path) -> Path:
    """An empty collection."""
    return anki_folder / "collection.anki2"


# What is no collection


def test_a_file_that_is_missing_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "collection.anki2"
    assert refused(path) == (AnkiError, f"There is no collection {path}", SETTING)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_collection(tmp_path: Path) -> None:
    assert refused(tmp_path) == (AnkiError, f"There is no collection {tmp_path}", SETTING)


@pytest.mark.parametrize("data", [b"", b"no database at all" * 100, b"SQLite format 3\0" * 100])
def test_another_file_is_not_made_a_collection(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "collection.anki2"
    path.write_bytes(data)
    assert refused(path) == (AnkiError, f"{path} is not an Anki collection", SETTING)
    assert (path.read_bytes(), [each.name for each in tmp_path.iterdir()]) == (data, [path.name])


def test_the_applications_own_file_is_not_made_a_collection(tmp_path: Path) -> None:
    path = tmp_path / "anki_vector_db.db"
    make_sample(path)
    before = path.read_bytes()
    assert refused(path) == (AnkiError, f"{path} is not an Anki collection", SETTING)
    assert (path.read_bytes(), [each.name for each in tmp_path.iterdir()]) == (before, [path.name])


def test_a_database_with_one_table_of_a_collections_name_is_not_one(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(SQLITE.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY)")
    before = path.read_bytes()
    assert refused(path) == (AnkiError, f"{path} is not an Anki collection", SETTING)
    assert path.read_bytes() == before


def test_a_database_whose_tables_are_called_alike_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(SQLITE.connect(path)) as connection:
        connection.execute("CREATE TABLE col (a)")
        connection.execute("CREATE TABLE notes (a)")
    before = path.read_bytes()
    assert refused(path)[0] is AnkiError
    assert path.read_bytes() == before


def test_a_path_with_signs_of_a_url_is_one_of_a_collection(path: Path) -> None:
    folder = path.parent / "100% of? it #1 ไทย"
    shutil.copytree(path.parent, folder)
    with CollectionFile(folder / path.name) as anki:
        assert anki.decks() == ["Default", DECK]


def test_a_collection_that_exists_is_not_made_again(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(AnkiError, match="already exists"):
        make_collection(path)
    assert path.read_bytes() == before


# What is a collection and cannot be used


@contextmanager
def held_elsewhere(path: Path) -> Iterator[None]:
    """Another process has it open."""
    script = (
        "import sys; from anki.collection import Collection; c = Collection(sys.argv[1]);"
        "print('open', flush=True); sys.stdin.read(); c.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield
        process.communicate("")


def test_a_collection_that_another_program_has_open(path: Path) -> None:
    with held_elsewhere(path):
        kind, problem, remedy = refused(path)
    assert (kind, remedy) == (
        AnkiUnavailable,
        "Close Anki, or install AnkiConnect in it and set ANKI_CONNECT_URL",
    )
    assert problem.startswith(f"the collection {path}: another program has opened it (")
    with CollectionFile(path) as anki:
        assert anki.decks() == ["Default", DECK]


def test_a_run_keeps_others_out_for_as_long_as_it_lasts(path: Path) -> None:
    script = "import sys; from anki.collection import Collection; Collection(sys.argv[1]).close()"
    codes = []
    with CollectionFile(path):
        codes.append(subprocess.run([sys.executable, "-c", script, path], check=False))
    codes.append(subprocess.run([sys.executable, "-c", script, path], check=False))
    assert [code.returncode for code in codes] == [1, 0]


def test_a_second_attempt_in_one_process_does_not_let_others_in(path: Path) -> None:
    script = "import sys; from anki.collection import Collection; Collection(sys.argv[1]).close()"
    with CollectionFile(path):
        assert refused(path)[0] is AnkiUnavailable
        other = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert other.returncode == 1


@pytest.mark.parametrize(("first", "last"), [(4096, 8192), (100, 4096), (8192, 40960)])
def test_a_damaged_collection_is_told(file_world: World, first: int, last: int) -> None:
    file_world.words(*range(1, 4))
    file_world.sync()
    file_world.change(1, native_text="ใหม่")
    path = file_world.strategy.open().path  # type: ignore[attr-defined]
    data = bytearray(path.read_bytes())
    data[first:last] = b"\xa5" * (last - first)
    path.write_bytes(data)
    cards = file_world.cards()
    with pytest.raises(AnkiError) as caught:
        file_world.sync()
    assert caught.value.remedy != ""
    assert file_world.cards() == cards


def test_a_collection_of_a_newer_anki_is_told(path: Path) -> None:
    with closing(SQLITE.connect(path)) as connection, connection:
        connection.execute("UPDATE col SET ver = 99")
    kind, problem, remedy = refused(path)
    assert (kind, remedy) == (AnkiError, "Install a newer anki package, or use AnkiConnect")
    assert problem.startswith(f"the collection {path}: it was written by a newer version of Anki (")


# Disks

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")


NO_ROOM = "Free disk space and run again; confirmed exports are saved"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def cramped(anki_folder: Path, anki_contents: str, tmp_path: Path) -> Iterator[World]:
    """An empty world whose collection lies on a disk of 4 MiB."""
    with mounted(tmp_path / "disk", "size=4m") as disk:
        shutil.copytree(anki_folder, disk, dirs_exist_ok=True)
        strategy = FileWay(disk / "collection.anki2")
        with make_world(anki_folder, anki_contents, strategy) as world:
            assert world.sqlite == anki_folder / "cards.db"
            yield world


def refused_for_want_of_room(world: World) -> AnkiError:
    """What a run says that finds no room; it makes no card, and with room the next goes on."""
    disk = world.strategy.path.parent  # type: ignore[attr-defined]
    with pytest.raises(AnkiError) as caught:
        world.sync()
    assert world.cards() == []
    assert [each.name for each in disk.iterdir() if each.suffix == ".fresh"] == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    world.sync()
    assert world.followed() == world.all_followed()
    return caught.value


@as_root
def test_a_full_disk_is_told_and_the_next_run_goes_on(cramped: World) -> None:
    for number in range(1, 9):
        cramped.words(number)
        cramped.run(
            "UPDATE fragment_assets SET asset_data = %s WHERE id = %s",
            os.urandom(1000) * 1000,
            100 * number,
        )
    error = refused_for_want_of_room(cramped)
    assert (type(error), error.remedy) == (AnkiError, NO_ROOM)
    path = cramped.strategy.path  # type: ignore[attr-defined]
    assert error.problem.startswith(f"the collection {path}: the disk is full (")


@as_root
def test_a_disk_that_fills_up_while_notes_are_made(cramped: World) -> None:
    for number in range(1, 41):
        cramped.content(number, translation="long " * 30_000)
    assert refused_for_want_of_room(cramped).remedy == NO_ROOM


@as_root
def test_a_recording_that_finds_no_room_leaves_the_one_before(
    anki_folder: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=4m") as disk:
        shutil.copytree(anki_folder, disk, dirs_exist_ok=True)
        with CollectionFile(disk / "collection.anki2") as anki:
            anki.store([("asset_1.mp3", b"first")])
            with pytest.raises(AnkiError, match="the disk is full"):
                anki.store([("asset_1.mp3", bytes(8 << 20))])
        files = {each.name: each.read_bytes() for each in (disk / "collection.media").iterdir()}
    assert files == {"asset_1.mp3": b"first"}


@as_root
def test_a_disk_that_is_read_only_is_told(
    anki_folder: Path, anki_contents: str, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=8m") as disk:
        shutil.copytree(anki_folder, disk, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        path = disk / "collection.anki2"
        kind, problem, remedy = refused(path)
        assert (kind, remedy) == (
            AnkiError,
            "Give this user write permission for the file, its folder and its media",
        )
        assert problem.startswith(f"the collection {path}: it cannot be written (")


def test_a_media_folder_that_is_a_file_is_told(path: Path) -> None:
    media = path.with_name("collection.media")
    shutil.rmtree(media)
    media.write_bytes(b"")
    with pytest.raises(AnkiError), CollectionFile(path) as anki:
        anki.store([("asset_1.mp3", b"x")])


# Media

OUTSIDE = ["../evil.mp3", "a/b.mp3", "/etc/passwd", "", ".", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_is_stored_outside_the_folder(path: Path, name: str) -> None:
    before = sorted(path.parent.rglob("*"))
    with (
        CollectionFile(path) as anki,
        pytest.raises(AnkiError, match="is not a valid name of a media file"),
    ):
        anki.store([(name, b"x")])
    assert [each for each in sorted(path.parent.rglob("*.mp3")) if each not in before] == []


@pytest.mark.parametrize("name", [*OUTSIDE, "x" * 300 + ".mp3", "folder"])
def test_a_name_that_no_media_file_can_have_is_one_that_is_missing(path: Path, name: str) -> None:
    # A learner may write anything into a note.
    (path.with_name("collection.media") / "folder").mkdir()
    with CollectionFile(path) as anki:
        assert anki.media({name: 1}) == {}


def test_media_files_are_replaced_whole(path: Path) -> None:
    with CollectionFile(path) as anki:
        anki.store([("asset_1.mp3", b"first, and long")])
        anki.store([("asset_1.mp3", b"second")])
        anki.store([("ไทย 'x'.mp3", b"")])
        assert anki.media({"asset_1.mp3": 6, "ไทย 'x'.mp3": 0, "asset_2.mp3": 1}) == {
            "asset_1.mp3": "a9f0e61a137d86aa9db53465e0801612",
            "ไทย 'x'.mp3": "d41d8cd98f00b204e9800998ecf8427e",
        }
    media = path.with_name("collection.media")
    assert {each.name: each.read_bytes() for each in media.iterdir()} == {
        "asset_1.mp3": b"second",
        "ไทย 'x'.mp3": b"",
    }


# Notes


def test_notes_are_made_all_or_none(path: Path) -> None:
    good = NewNote(DECK, "Basic", {"Front": "f", "Back": "b"}, ("sync::content::1",))
    bad = NewNote("no such deck", "Basic", {"Front": "f", "Back": "b"}, ("sync::content::2",))
    with CollectionFile(path) as anki:
        with pytest.raises(AnkiError):
            anki.add([good, bad])
        assert anki.find("sync::content::*") == []


def test_more_notes_than_are_read_at_once_are_all_found(path: Path) -> None:
    new = [
        NewNote(DECK, "Basic", {"Front": f"f{n}", "Back": "b"}, (f"sync::content::{n}",))
        for n in range(1203)
    ]
    with CollectionFile(path) as anki:
        made = [number for number in anki.add(new) if number]
        found = anki.notes([*made, 1, 2**40])
        assert [found[number].fields["Front"] for number in made] == [f"f{n}" for n in range(1203)]
        assert sorted(anki.find("sync::content::*")) == sorted(made)


def test_a_write_to_a_note_that_is_gone_changes_no_other(path: Path) -> None:
    new = NewNote(DECK, "Basic", {"Front": "f", "Back": "b"}, ())
    with CollectionFile(path) as anki:
        (number,) = anki.add([new])
        assert number is not None
        with pytest.raises(AnkiError):
            anki.write({number: {"Front": "new"}, 7: {"Front": "new"}})
        assert anki.notes([number])[number].fields == {"Front": "f", "Back": "b"}


def test_a_note_type_that_was_renamed_is_asked_for_by_its_new_name(file_world: World) -> None:
    file_world.words(1)
    file_world.sync()
    with file_world.strategy.collection() as collection:
        model = collection.models.by_name("Basic")
        assert model is not None
        model["name"] = "Mine"
        collection.models.update_dict(model)
    with pytest.raises(AnkiError, match="has no note type Basic"):
        file_world.sync()
    file_world.change(1, native_text="ใหม่")
    assert actions(file_world.sync(note_type="Mine")) == [(1, "updated")]


def test_a_field_that_was_added_to_the_note_type_stays_the_learners(file_world: World) -> None:
    file_world.words(1)
    file_world.sync()
    with file_world.strategy.collection() as collection:
        model = collection.models.by_name("Basic")
        assert model is not None
        collection.models.add_field(model, collection.models.new_field("Mnemonic"))
        collection.models.update_dict(model)
    number = file_world.note(1).id
    file_world.edit(number, Mnemonic="mine")
    file_world.change(1, native_text="ใหม่")
    assert told(file_world.sync()) == [(1, "updated", f"Front of note {number}")]
    assert file_world.note(1).fields["Mnemonic"] == "mine"


def test_a_collection_that_was_synced_opens_in_anki(file_world: World) -> None:
    file_world.words(1, 2)
    file_world.sync()
    with file_world.strategy.collection() as collection:
        assert isinstance(collection, Collection)
        problems, sound = collection.fix_integrity()
        missing = collection.media.check().missing
    assert (sound, list(missing)) == (True, []), problems
