"""Anki by its collection file, through the ``anki`` package; the desktop program is not running.

A collection belongs to one program at a time: it is locked while it is open here.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from pipeline.anki.store.errors import AnkiError, AnkiGone
from pipeline.anki.store.notes import NewNote, Note, Refusal
from pipeline.core import private
from pipeline.core.errors import FilesError
from pipeline.sqlite import opening

_AT_ONCE = 500
_BUSY_SECONDS = 0.5
_LONGEST_NAME = 255
_OPEN: set[Path] = set()
"""The collections that this process has open."""


class CollectionFile:
    """A collection and its media folder.

    Attributes:
        path: the file, ``collection.anki2``; its media lie in ``collection.media`` beside it.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened before the block begins."""
        self.path = path.resolve()
        self.shown = f"the collection {path}"
        self._collection: Any = None

    def __enter__(self) -> Self:
        """Open and lock the collection.

        Raises:
            AnkiGone: another program has it open.
            AnkiError: it is no collection, or cannot be written.
        """
        if self.path in _OPEN:
            # To look into the file again would let the lock go.
            raise AnkiGone(
                f"{self.shown}: this program has it open already", remedy="Run one at a time"
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

    def decks(self) -> list[str]:
        """Names of the decks that notes can be put into."""
        with self._translated():
            decks = self._collection.decks.all_names_and_ids(include_filtered=False)
            return [deck.name for deck in decks]

    def create_deck(self, name: str) -> None:
        """Make a deck."""
        with self._translated():
            self._collection.decks.id(name)

    def fields_of(self, note_type: str) -> list[str] | None:
        """Names of a note type's fields, None if there is no such type."""
        with self._translated():
            model = self._collection.models.by_name(note_type)
        return None if model is None else [field["name"] for field in model["flds"]]

    def find(self, tag: str) -> list[int]:
        """Ids of the notes with a tag; it may end in ``*``."""
        with self._translated():
            return [int(found) for found in self._collection.find_notes(f"tag:{tag}")]

    def notes(self, ids: Collection[int]) -> dict[int, Note]:
        """Those of the notes that exist."""
        found: dict[int, Note] = {}
        wanted = sorted(ids)
        with self._translated():
            types = {
                model.id: (model.name, self._collection.models.get(model.id)["flds"])
                for model in self._collection.models.all_names_and_ids()
            }
            for at in range(0, len(wanted), _AT_ONCE):
                some = ",".join(map(str, wanted[at : at + _AT_ONCE]))
                query = f"SELECT id, mid, tags, flds FROM notes WHERE id IN ({some})"
                for number, model, tags, values in self._collection.db.execute(query):
                    name, fields = types[model]
                    texts = zip((f["name"] for f in fields), values.split("\x1f"), strict=True)
                    found[number] = Note(number, name, dict(texts), tuple(tags.split()))
        return found

    def add(self, notes: Sequence[NewNote]) -> list[int | Refusal]:
        """Make notes, all of them or none."""
        from anki.collection import AddNoteRequest

        requests = []
        with self._translated():
            for new in notes:
                note = self._collection.new_note(self._collection.models.by_name(new.note_type))
                for name, value in new.fields.items():
                    note[name] = value
                note.tags = list(new.tags)
                deck = self._collection.decks.id_for_name(new.deck)
                if deck is None:
                    raise AnkiError(
                        f"{self.shown} has no deck {new.deck}", remedy="Make it in Anki"
                    )
                requests.append(AddNoteRequest(note, deck))
            self._collection.add_notes(requests)
        return [int(request.note.id) for request in requests]

    def write(self, fields: Mapping[int, Mapping[str, str]]) -> dict[int, Refusal]:
        """Write fields of notes: id -> name -> HTML; all of them or none."""
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
        """Give each of these notes a tag."""
        with self._translated():
            for number, tag in tags.items():
                self._collection.tags.bulk_add([number], tag)

    def untag(self, ids: Collection[int], tag: str) -> None:
        """Take a tag from notes."""
        with self._translated():
            self._collection.tags.bulk_remove(list(ids), tag)

    def suspend(self, ids: Collection[int]) -> None:
        """Suspend all cards of notes."""
        with self._translated():
            self._collection.sched.suspend_notes(list(ids))

    def media_names(self) -> set[str]:
        """Names of all media files."""
        with self._translated():
            return {path.name for path in self._folder().iterdir()}

    def media(self, names: Collection[str]) -> dict[str, str]:
        """MD5 of the media files of these names that exist, in hexadecimal."""
        found = {}
        for name in filter(_is_name, names):
            with self._translated():
                path = self._folder() / name
                if path.is_file():
                    with path.open("rb") as file:
                        found[name] = hashlib.file_digest(file, "md5").hexdigest()
        return found

    def store(self, name: str, data: bytes) -> None:
        """Write a media file whole, or leave what was there."""
        # Beside the folder, on the same disk: what lies in it would be synced by Anki.
        if not _is_name(name):
            raise AnkiError(
                f"{name!r} is no name of a media file", remedy="Correct the template that made it"
            )
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

    def _give_rights(self, row_id: int) -> None:
        """Let whoever uses the collection use a media file as well."""
        rights = private.Rights.of(self.path)
        if rights is not None:
            rights.give(row_id)

    def _folder(self) -> Path:
        folder = Path(self._collection.media.dir())
        folder.mkdir(exist_ok=True)
        return folder

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        from anki.errors import AnkiException

        try:
            yield
        except AnkiException as error:
            raise _said(self.shown, str(error)) from error
        except (OSError, FilesError) as error:
            raise _said(self.shown, _why(error)) from error


def make_collection(path: Path, *, decks: Sequence[str] = ()) -> None:
    """Make an empty collection with Anki's own note types.

    Args:
        path: where its file goes; missing folders are made.
        decks: names of the decks it is to have.

    Raises:
        AnkiError: the file exists, or cannot be made.
    """
    if path.exists():
        raise AnkiError(f"{path} exists already", remedy="Name another file")
    try:
        private.folder(path.parent)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
            whole = Path(scratch, path.name)
            private.create(whole)
            with contextlib.closing(_open(whole)) as collection:
                for deck in decks:
                    collection.decks.id(deck)
            # Under its name only when it is complete; who comes second finds it there.
            private.folder(path.with_suffix(".media"))
            os.link(whole, path)
    except FileExistsError as error:
        raise AnkiError(f"{path} exists already", remedy="Name another file") from error
    except (OSError, FilesError) as error:
        raise _said(f"the collection {path}", _why(error)) from error


def _why(error: Exception) -> str:
    """What the system says of a file that cannot be written."""
    cause = error.__cause__ if isinstance(error, FilesError) else error
    return getattr(cause, "strerror", None) or str(error)


def _is_name(name: str) -> bool:
    """Whether a file of the media folder can be called so."""
    return (
        0 < len(name.encode("utf-8", "replace")) <= _LONGEST_NAME
        and name not in (".", "..")
        and not set(name) & set("/\\\0")
    )


def _open(path: Path) -> Any:
    # The package needs a third of a second to be imported, which only Anki's own runs pay.
    from anki.collection import Collection as AnkiCollection

    make: Callable[[str], Any] = AnkiCollection
    return make(str(path))


def _require_collection(path: Path) -> None:
    """Refuse what is no collection; Anki would make one of any empty or other database."""
    remedy = "Set ANKI_COLLECTION to the collection.anki2 of your profile"
    try:
        there = path.is_file()
    except OSError as error:
        raise AnkiError(
            f"The collection {path} cannot be opened ({error.strerror})", remedy=remedy
        ) from error
    if not there:
        raise AnkiError(f"There is no collection {path}", remedy=remedy)
    try:
        with contextlib.closing(opening.connect(path, "ro", timeout=_BUSY_SECONDS)) as file:
            columns = {row[1] for row in file.execute("PRAGMA table_info(notes)")}
            versions = {row[1] for row in file.execute("PRAGMA table_info(col)")}
        if columns >= {"guid", "mid", "tags", "flds"} and "ver" in versions:
            return
    except sqlite3.OperationalError as error:
        raise _said(f"the collection {path}", str(error)) from error
    except opening.UNREADABLE:
        pass
    raise AnkiError(f"{path} is no collection of Anki", remedy=remedy)


_KNOWN = (
    (
        AnkiGone,
        ("already open", "locked"),
        "another program has it open",
        "Close Anki, or install AnkiConnect in it and set ANKI_CONNECT_URL",
    ),
    (
        AnkiError,
        ("full", "No space left"),
        "the disk is full",
        "Free space and run again; what was confirmed is kept",
    ),
    (
        AnkiError,
        ("readonly", "Permission denied", "Read-only", "unable to open", "CannotOpen"),
        "it cannot be written",
        "Give this user the right to write the file, its folder and its media",
    ),
    (
        AnkiError,
        ("too new", "newer version", "FileTooNew"),
        "a newer Anki has written it",
        "Install a newer anki package, or use AnkiConnect",
    ),
)


def _said(shown: str, text: str) -> AnkiError:
    for kind, words, problem, remedy in _KNOWN:
        if any(word in text for word in words):
            return kind(f"{shown}: {problem} ({text.strip()[:200]})", remedy=remedy)
    return AnkiError(
        f"{shown}: {text.strip()[:300]}", remedy="Check the collection in Anki, then run again"
    )
