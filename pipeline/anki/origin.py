"""Whether the open Anki has this source's notes: the guard before anything is written.

Another profile, or another collection, may have notes of another source whose contents have the
same ids. A run that would lose or adopt most notes stops and asks, and so does a run over a profile
of another name, or over notes with another source's tag.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from pipeline.anki.ledger import sources
from pipeline.anki.ledger.sources import Source
from pipeline.anki.outcomes import Options
from pipeline.anki.store.errors import AnkiError
from pipeline.anki.store.notes import SOURCE_TAGS, Anki, source_tag, source_tags
from pipeline.application.manager import HybridDatabaseManager
from pipeline.core.messages import ANKI_ACCEPT, ANKI_RECREATE, message

_FEWEST = 2
"""One note that is missing or adopted says nothing about a profile."""


@dataclass(frozen=True)
class Expected:
    """The notes that Anki should have.

    Attributes:
        notes: content id -> the note that its card names.
        adopting: contents without such a note for which Anki has a note that may be theirs.
        tagged: ids of the notes with the tag of a content.
    """

    notes: Mapping[int, int]
    adopting: Collection[int]
    tagged: Collection[int]


class NoteSource:
    """The source of the notes, as the ledger and Anki know it."""

    def __init__(
        self, manager: HybridDatabaseManager, session: Session, anki: Anki, options: Options
    ) -> None:
        """Read what is recorded; a source that was never recorded gets a label."""
        self._manager, self._anki, self._options = manager, anki, options
        self._recorded = sources.read(session)
        self._source = self._recorded or Source(secrets.token_hex(4))
        self._required = False
        self._expected = Expected({}, (), ())

    @property
    def tag(self) -> str:
        """The tag of the source's notes."""
        return source_tag(self._source.label)

    def foreign(self) -> set[int]:
        """Notes with the tag of another source only."""
        return set(self._anki.find(f"{SOURCE_TAGS}*", without=self.tag))

    def require_most(self, expected: Expected) -> None:
        """Require most of the notes to be in Anki; accepted losses do not count again.

        Raises:
            AnkiError: most notes are missing or would be adopted.
        """
        self._expected = expected
        lost = {content for content, note in expected.notes.items() if note not in expected.tagged}
        changed = lost | set(expected.adopting)
        total = len(expected.notes.keys() | set(expected.adopting))
        if self._is_minority(len(changed), total):
            self._accept(min(len(lost), self._source.missing))
            return
        # A note may exist although it has lost its tag.
        existing = self._anki.notes({expected.notes[content] for content in lost})
        lost = {content for content in lost if expected.notes[content] not in existing}
        changed = lost | set(expected.adopting)
        if self._options.accept_profile:
            self._accept(len(lost))
        elif not self._is_minority(len(changed), total):
            self._stop(lost=len(lost), adopting=len(expected.adopting), total=total)

    def require_same(self) -> None:
        """Require the profile of the last sync before the first write, and record this one.

        Raises:
            AnkiError: the profile is another one, or most notes have another source's tag.
        """
        if self._required:
            return
        profile = self._anki.profile()
        recorded = self._recorded.profile if self._recorded else None
        if recorded and profile and recorded != profile and not self._options.accept_profile:
            raise AnkiError(
                f"{self._anki.shown} has the profile {profile}, but the last sync was with the"
                f" profile {recorded}; nothing was written",
                remedy=message(
                    f"Open the profile {recorded}, or run ",
                    ANKI_ACCEPT,
                    " if the notes are in this profile now",
                ),
            )
        self._require_own_tags()
        self._source = replace(self._source, profile=profile or recorded)
        if not self._options.dry_run and self._source != self._recorded:
            with self._manager.get_postgres_session() as session:
                sources.record(session, self._source)
            self._recorded = self._source
        self._required = True

    def _require_own_tags(self) -> None:
        notes = set(self._expected.notes.values()) & set(self._expected.tagged)
        others = self.foreign() & notes
        if 2 * len(others) <= len(notes):
            return
        labels = Counter(
            tag for note in self._anki.notes(others).values() for tag in source_tags(note.tags)
        )
        ((most, _),) = labels.most_common(1)
        if not self._options.accept_profile:
            raise AnkiError(
                f"{len(others)} of {len(notes)} notes in {self._anki.shown} have the tag {most}:"
                " they were exported from another target; nothing was written",
                remedy=message(
                    "Open the profile of this target, or run ",
                    ANKI_ACCEPT,
                    " if this target replaces the other one",
                ),
            )
        self._source = replace(self._source, label=most[len(SOURCE_TAGS) :])

    def _is_minority(self, changed: int, total: int) -> bool:
        accepted = self._source.missing
        return changed < _FEWEST or 2 * (changed - accepted) <= total - accepted

    def _accept(self, missing: int) -> None:
        self._source = replace(self._source, missing=missing)

    def _stop(self, *, lost: int, adopting: int, total: int) -> None:
        """Stop, unless only deleted notes are to be created again, which ``force`` asks for."""
        foreign, profile = len(self.foreign()), self._anki.profile()
        recorded = self._recorded.profile if self._recorded else None
        renamed = bool(recorded and profile and recorded != profile)
        if self._options.force and not (adopting or foreign or renamed):
            return
        parts = [f"{lost} of {total} notes are missing"] if lost else []
        unnamed = f"{adopting} of {total} contents have a note that no card names"
        parts += [unnamed] if adopting else []
        parts += [f"{foreign} notes belong to another source"] if foreign else []
        parts += [f"the last sync was with the profile {recorded}"] if renamed else []
        where = f"{self._anki.shown}, profile {profile}" if profile else self._anki.shown
        going_on = message(
            ANKI_ACCEPT,
            " to adopt the notes that were exported from here" if adopting else " to go on with it",
            f"; add --force to create the {lost} missing notes again" if lost else "",
        )
        if not (adopting or foreign or renamed):
            going_on = message(ANKI_RECREATE, " to create all missing notes again")
        raise AnkiError(
            f"{where}: {', '.join(parts)}. This may be the wrong profile or collection;"
            " nothing was written",
            remedy=message("Open the right one, or run ", going_on),
        )
