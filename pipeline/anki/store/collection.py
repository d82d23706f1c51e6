"""Access Anki through its collection file with the ``anki`` package, without the desktop program.

Only one program at a time can open a collection; it is locked while it is open here.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from pipeline.anki.store.collection_errors import damaged, system_message, translate
from pipeline.anki.store.errors import AnkiError, AnkiUnavailable
from pipeline.anki.store.notes import NewNote, Note, Refusal
from pipeline.core import private
from pipeline.core.errors import FilesError
from pipeline.sqlite import opening

_BATCH = 500
_BUSY_SECONDS = 0.5
_LONGEST_NAME = 255
_OPEN: set[Path] = set()
"""Collections that are open in this process."""


class CollectionFile:
    """A collection file, ``collection.anki2``, with the media folder beside it."""

    settle_seconds: float | None = None

    def __init__(self, path: Path) -> None:
        """Prepare; ``__enter__`` opens the file."""
        self.path = path.resolve()
        self.shown = f"the collection {path}"
        self._collection: Any = None

    def __enter__(self) -> Self:
        """Open and lock the collection.

        Raises:
            AnkiUnavailable: another program has opened it.
            AnkiError: it is not a collection, or cannot be written.
        """
        if self.path in _OPEN:
            # Opening the file a second time would release the lock.
            raise AnkiUnavailable(
                f"{self.shown} is already open in this program", remedy="Run one sync at a time"
            )
        _require_collection(self.path)
        with self._translated():
            self._collection = _open(self.path)
        _OPEN.add(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        _OPEN.discard(self.path)
        with self._translated():
            self._collection.close()

    def profile(self) -> str | None:
        """The name of the profile: Anki keeps each collection in a folder of that name."""
        return self.path.parent.name or None

    def decks(self) -> list[str]:
        """Names of all decks."""
        with self._translated():
            return [deck.name for deck in self._collection.decks.all_names_and_ids()]

    def default_deck(self) -> str:
        """The name of the deck that always exists."""
        with self._translated():
            return str(self._collection.decks.name(1))

    def filtered(self, decks: Collection[str]) -> list[str]:
        """The filtered decks among these."""
        with self._translated():
            found = {name: self._collection.decks.by_name(name) for name in decks}
        return [name for name, deck in found.items() if deck and deck.get("dyn")]

    def decks_of(self, cards: Collection[int]) -> dict[int, str]:
        """The decks of the existing cards among these: card id -> name."""
        listed = ",".join(map(str, cards))
        with self._translated():
            names = {deck.id: deck.name for deck in self._collection.decks.all_names_and_ids()}
            query = f"SELECT id, did FROM cards WHERE id IN ({listed})"
            rows = self._collection.db.execute(query)
        return {int(card): names[deck] for card, deck in rows if deck in names}

    def move(self, cards: Collection[int], deck: str) -> None:
        """Move cards to a deck."""
        with self._translated():
            number = self._collection.decks.id_for_name(deck)
            if number is not None:
                self._collection.set_deck(list(cards), number)

    def create_deck(self, name: str) -> None:
        """Create a deck."""
        with self._translated():
            self._collection.decks.id(name)

    def field_names(self, note_type: str) -> list[str] | None:
        """Field names of a note type, None if it does not exist."""
        with self._translated():
            model = self._collection.models.by_name(note_type)
        return None if model is None else [field["name"] for field in model["flds"]]

    def find(self, tag: str, *, without: str | None = None) -> list[int]:
        """Ids of the notes with a tag, which may end in ``*``, and without another one."""
        query = f"tag:{tag} -tag:{without}" if without else f"tag:{tag}"
        with self._translated():
            return [int(found) for found in self._collection.find_notes(query)]

    def notes(self, ids: Collection[int]) -> dict[int, Note]:
        """The existing notes among these."""
        found: dict[int, Note] = {}
        wanted = sorted(ids)
        with self._translated():
            types = {
                model.id: (model.name, self._collection.models.get(model.id)["flds"])
                for model in self._collection.models.all_names_and_ids()
            }
            for start in range(0, len(wanted), _BATCH):
                some = ",".join(map(str, wanted[start : start + _BATCH]))
                cards: dict[int, list[int]] = {}
                query = f"SELECT nid, id FROM cards WHERE nid IN ({some}) ORDER BY ord"
                for number, card in self._collection.db.execute(query):
                    cards.setdefault(number, []).append(card)
                query = f"SELECT id, mid, tags, flds FROM notes WHERE id IN ({some})"
                for number, model, tags, values in self._collection.db.execute(query):
                    name, fields = types.get(model, ("", ()))
                    names, texts = [f["name"] for f in fields], values.split("\x1f")
                    if len(names) != len(texts):
                        raise damaged(self.shown, f"note {number} does not fit its note type")
                    found[number] = Note(
                        number,
                        name,
                        dict(zip(names, texts, strict=True)),
                        tuple(tags.split()),
                        tuple(cards.get(number, ())),
                    )
        return found

    def add(self, notes: Sequence[NewNote]) -> list[int | Refusal]:
        """Create all notes or none, except those that Anki itself would refuse."""
        from anki.collection import AddNoteRequest
        from anki.notes import NoteFieldsCheckResult as Fields

        refusals = {
            Fields.EMPTY: "its first field is empty",
            Fields.MISSING_CLOZE: "its type needs a cloze deletion, and it has none",
        }
        made: list[Any] = []
        with self._translated():
            for new in notes:
                note = self._collection.new_note(self._collection.models.by_name(new.note_type))
                for name, value in new.fields.items():
                    note[name] = value
                note.tags = list(new.tags)
                deck = self._collection.decks.id_for_name(new.deck)
                if deck is None:
                    raise AnkiError(
                        f"{self.shown} has no deck {new.deck}", remedy="Create it in Anki"
                    )
                why = refusals.get(note.fields_check())
                made.append(Refusal(why) if why else AddNoteRequest(note, deck))
            self._collection.add_notes([each for each in made if not isinstance(each, Refusal)])
        return [each if isinstance(each, Refusal) else int(each.note.id) for each in made]

    def write(self, fields: Mapping[int, Mapping[str, str]]) -> dict[int, Refusal]:
        """Write the fields of all notes or of none: id -> name -> HTML."""
        with self._translated():
            notes = []
            for number, values in fields.items():
                note = self._collection.get_note(number)
                for name, value in values.items():
                    note[name] = value
                notes.append(note)
            self._collection.update_notes(notes)
        return {}

    def tag(self, tags: Mapping[int, str]) -> None:
        """Add a tag to each of these notes."""
        with self._translated():
            for number, tag in tags.items():
                self._collection.tags.bulk_add([number], tag)

    def untag(self, ids: Collection[int], tags: Collection[str]) -> None:
        """Remove tags from notes."""
        with self._translated():
            self._collection.tags.bulk_remove(list(ids), " ".join(tags))

    def suspend(self, ids: Collection[int]) -> None:
        """Suspend all cards of notes."""
        with self._translated():
            self._collection.sched.suspend_notes(list(ids))

    def media_names(self) -> set[str]:
        """Names of all media files."""
        with self._translated():
            return {path.name for path in self._folder().iterdir()}

    def media(self, sizes: Mapping[str, int]) -> dict[str, str]:
        """Hexadecimal MD5 of the existing media files: name -> expected number of bytes."""
        found = {}
        for name in filter(_is_name, sizes):
            with self._translated():
                path = self._folder() / name
                if path.is_file():
                    with path.open("rb") as file:
                        found[name] = hashlib.file_digest(file, "md5").hexdigest()
        return found

    def store(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write or replace media files, each in one step."""
        for name, data in files:
            self._store(name, data)

    def _store(self, name: str, data: bytes) -> None:
        if not _is_name(name):
            raise AnkiError(
                f"{name!r} is not a valid name of a media file",
                remedy="Correct the template that uses it",
            )
        # Not in the media folder, whose files Anki synchronizes, but on the same disk.
        fresh = self.path.with_name(f".{name}.fresh")
        with self._translated():
            try:
                with private.opened(fresh, "wb") as file:
                    file.write(data)
                    file.flush()
                    self._give_rights(file.fileno())
                fresh.replace(self._folder() / name)
            finally:
                fresh.unlink(missing_ok=True)

    def _give_rights(self, descriptor: int) -> None:
        """Give a media file the owner and mode of the collection."""
        rights = private.Rights.of(self.path)
        if rights is not None:
            rights.apply(descriptor)

    def _folder(self) -> Path:
        folder = Path(self._collection.media.dir())
        if folder.exists() and not folder.is_dir():
            raise AnkiError(
                f"{folder}, where {self.shown} has its media, is a file",
                remedy="Move that file away; the folder is then created",
            )
        folder.mkdir(exist_ok=True)
        return folder

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        from anki.errors import AnkiException

        try:
            yield
        except AnkiException as error:
            raise translate(self.shown, str(error)) from error
        except (OSError, FilesError) as error:
            raise translate(self.shown, system_message(error)) from error


def make_collection(path: Path, *, decks: Sequence[str] = ()) -> None:
    """Create an empty collection with Anki's standard note types, and missing folders above it.

    Raises:
        AnkiError: the file exists, or cannot be created.
    """
    if path.exists():
        raise AnkiError(f"{path} already exists", remedy="Choose another file")
    try:
        private.folder(path.parent)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
            complete = Path(scratch, path.name)
            private.create(complete)
            with contextlib.closing(_open(complete)) as collection:
                for deck in decks:
                    collection.decks.id(deck)
            # The file gets its name when it is complete; a second process finds it there.
            private.folder(path.with_suffix(".media"))
            os.link(complete, path)
    except FileExistsError as error:
        raise AnkiError(f"{path} already exists", remedy="Choose another file") from error
    except (OSError, FilesError) as error:
        raise translate(f"the collection {path}", system_message(error)) from error


def _is_name(name: str) -> bool:
    """Whether a name is valid for a file of the media folder."""
    return (
        0 < len(name.encode("utf-8", "replace")) <= _LONGEST_NAME
        and name not in (".", "..")
        and not set(name) & set("/\\\0")
    )


def _open(path: Path) -> Any:
    # Importing the package takes a third of a second, so only runs with Anki import it.
    from anki.collection import Collection as AnkiCollection

    make: Callable[[str], Any] = AnkiCollection
    return make(str(path))


def _require_collection(path: Path) -> None:
    """Refuse other files; Anki would turn any empty or other database into a collection."""
    remedy = "Set ANKI_COLLECTION to the collection.anki2 of your profile"
    try:
        exists = path.is_file()
    except OSError as error:
        raise AnkiError(
            f"The collection {path} cannot be opened ({error.strerror})", remedy=remedy
        ) from error
    if not exists:
        raise AnkiError(f"There is no collection {path}", remedy=remedy)
    try:
        with contextlib.closing(opening.connect(path, "ro", timeout=_BUSY_SECONDS)) as file:
            columns = {row[1] for row in file.execute("PRAGMA table_info(notes)")}
            versions = {row[1] for row in file.execute("PRAGMA table_info(col)")}
        if columns >= {"guid", "mid", "tags", "flds"} and "ver" in versions:
            return
    except sqlite3.OperationalError as error:
        raise translate(f"the collection {path}", str(error)) from error
    except opening.UNREADABLE as error:
        if "malformed" in str(error):
            raise damaged(f"the collection {path}", str(error)) from error
    raise AnkiError(f"{path} is not an Anki collection", remedy=remedy)
