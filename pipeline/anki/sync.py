"""Update notes in Anki from the contents in PostgreSQL; cards in SQLite record the exports.

Every content is rendered, and its digest is compared with the card's; equal contents are skipped.
For the others, the note is read. A field that is unchanged since its export is overwritten; a field
that the learner edited is left unchanged and reported. Written notes are read back, and only
confirmed exports are saved in SQLite. A tag on each note names its content, and another one the
source, so a note whose card was never saved, because an answer was lost or a run ended, is found
and adopted. Notes of another source are never changed. Notes are never deleted. A second run
changes nothing.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice

from sqlalchemy.orm import Session

from pipeline.anki import cards, contents, removed
from pipeline.anki.decisions import Situation, Step, decide, outcome
from pipeline.anki.export import Exporter
from pipeline.anki.ledger import pending_writes
from pipeline.anki.origin import Expected, NoteSource
from pipeline.anki.outcomes import Options, Outcome, Report
from pipeline.anki.rendering import ExportHash, Rendered, Renderer, digest
from pipeline.anki.store.decks import folded, make_ready, require_unfiltered
from pipeline.anki.store.notes import CONTENT_TAGS, SKIP, Anki, Note, has_tag, tagged_contents
from pipeline.application.manager import HybridDatabaseManager

_BATCH = 100
"""The number of contents that are written, confirmed and saved together."""


def sync(
    manager: HybridDatabaseManager,
    anki: Anki,
    renderer: Renderer,
    options: Options,
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Report:
    """Update the notes of all contents.

    ``on_progress`` receives the number of processed contents and their total.

    Raises:
        AnkiUnavailable: Anki stopped answering; confirmed exports are saved.
        AnkiError: Anki refuses the run, lacks a deck, a note type or a field, or has most notes of
            another source or none of this one.
        RenderError: a template cannot be used.
        Refused: a confirmed export cannot be saved in its card.
        SourceError: the SQLite file cannot be read or written.
        TargetError: PostgreSQL does not answer.
    """
    started = time.perf_counter()
    with manager.get_postgres_session(snapshot=True) as session:
        run = _Run(manager, session, anki, options)
        run.prepare()
        rendered = map(renderer.render, contents.read(session, options.ids))
        changed: list[Rendered] = []
        done = 0
        while some := list(islice(rendered, _BATCH)):
            changed += run.select_changed(some)
            if len(changed) >= _BATCH:
                run.update(changed[:_BATCH])
                del changed[:_BATCH]
            done += len(some)
            on_progress(done, len(run.wanted))
        if changed:
            run.update(changed)
        run.exporter.settle()
        if options.ids is None:
            run.process_removed()
    run.report.seconds = time.perf_counter() - started
    return run.report


class _Run:
    """A running sync."""

    def __init__(
        self, manager: HybridDatabaseManager, session: Session, anki: Anki, options: Options
    ) -> None:
        self.report = Report()
        self._manager, self._session, self._anki, self._options = manager, session, anki, options
        self._existing = contents.ids(session)
        self.wanted = self._existing if options.ids is None else self._existing & options.ids
        for number in sorted((options.ids or frozenset()) - self._existing):
            self.report.add(Outcome(number, "", "failed", "PostgreSQL has no content with this id"))
        with manager.get_sqlite_session() as sqlite:
            self._all_cards = cards.read(sqlite)
        self._cards = cards.by_content(self._all_cards)
        self._tagged = set(anki.find(f"{CONTENT_TAGS}*"))
        self._media = anki.media_names()
        self._intended = pending_writes.read(session)
        self._origin = NoteSource(manager, session, anki, options)
        self._unlinked = self._read_unlinked()
        self._missing_decks: set[str] = set()
        self.exporter = Exporter(manager, session, anki, options, self.report, tagged=self._tagged)

    def _read_unlinked(self) -> dict[int, list[Note]]:
        """Notes with a content's tag that belong to no card and no other source, by content."""
        unlinked = self._tagged - {card.note_id for card in self._all_cards}
        if unlinked:
            unlinked -= self._origin.foreign()
        found: dict[int, list[Note]] = {}
        for _, note in sorted(self._anki.notes(unlinked).items()):
            for content_id in tagged_contents(note.tags)[:1]:
                found.setdefault(content_id, []).append(note)
        return found

    def prepare(self) -> None:
        """Make sure that Anki has this source's notes, and what new notes need."""
        notes = {
            content_id: card.note_id
            for content_id, card in self._cards.items()
            if card.note_id is not None and content_id in self._existing
        }
        adopting = {
            content_id
            for content_id, some in self._unlinked.items()
            if content_id in self._existing
            and notes.get(content_id) not in self._tagged
            and not any(self._is_pending(content_id, note) for note in some)
        }
        self._origin.require_most(Expected(notes, adopting, self._tagged))
        if self._options.accept_profile:
            self._origin.require_same()
        self._prepare_decks()

    def _is_pending(self, content_id: int, note: Note) -> bool:
        """Whether a note has what an interrupted run has written."""
        names = self._options.fields
        now = tuple(digest(note.fields.get(name, "")) for name in names)
        intended = self._intended.get(content_id, [])
        exports = [ExportHash.parse(text, fields=len(names)) for text in intended]
        return any(each is not None and each.fields == now for each in exports)

    def _prepare_decks(self) -> None:
        options = self._options
        decks: set[str] = set()
        for content_id in self.wanted:
            card = self._cards.get(content_id)
            if card is None:
                decks.add(options.deck)
            elif (card.note_id is None or options.force) and not has_tag(card.tags, SKIP):
                decks.add(card.deck)
        missing = make_ready(
            self._anki,
            decks=decks | {options.deck},
            note_type=options.note_type,
            fields=options.fields,
            create_decks=options.create_decks or options.dry_run,
        )
        if decks:
            require_unfiltered(self._anki, decks)
        if options.dry_run and not options.create_decks:
            self._missing_decks = set(map(folded, missing))
        elif missing and not options.dry_run:
            self._origin.require_same()
            for name in missing:
                self._anki.create_deck(name)

    def select_changed(self, rendered: Sequence[Rendered]) -> list[Rendered]:
        """The contents that are not up to date in Anki, as far as the cards show."""
        changed = [each for each in rendered if not self._is_unchanged(each)]
        self._skip(len(rendered) - len(changed))
        return changed

    def update(self, changed: Sequence[Rendered]) -> None:
        """Update the notes of a batch of contents."""
        self._origin.require_same()
        known = [card for each in changed if (card := self._cards.get(each.content_id))]
        notes = self._anki.notes({card.note_id for card in known if card.note_id is not None})
        steps = []
        for each in changed:
            card = self._cards.get(each.content_id)
            found = Situation(
                card,
                notes.get(card.note_id) if card and card.note_id is not None else None,
                self._unlinked.get(each.content_id, []),
                self._intended.get(each.content_id, []),
                self._origin.tag,
            )
            step, outcomes = decide(each, found, self._options)
            self.report.add(*outcomes)
            steps += [step] if step else []
        to_store = self.exporter.sounds_to_store(steps)
        if self._options.dry_run:
            self.report.media_files += len(to_store)
            done = [(step, step.note) for step in steps]
        else:
            done = [*self.exporter.execute(steps, to_store)]
        for step, note in done:
            sounds = to_store & {*step.rendered.sounds}
            reported = self._report_step(step, sorted(sound.file for sound in sounds))
            if note and not self._options.dry_run:
                self.exporter.remember(step, note.id, sounds, reported)

    def _is_unchanged(self, rendered: Rendered) -> bool:
        card = self._cards.get(rendered.content_id)
        return (
            card is not None
            and card.note_id in self._tagged
            and card.export_hash == str(rendered.hash)
            and rendered.content_id not in self._unlinked
            and str(rendered.hash) not in self._intended.get(rendered.content_id, ())
            and all(sound.file in self._media for sound in rendered.sounds)
            and not (self._options.force or self._options.recordings)
        )

    def _report_step(self, step: Step, recordings: Sequence[str]) -> Outcome | None:
        parts = [*step.write, *recordings]
        made: Outcome | None = None
        if step.note_id is None:
            deck = step.deck(self._options)
            detail = f"in deck {deck}"
            if folded(deck) in self._missing_decks:
                detail += ", which is missing: create it in Anki, or run with --create-deck"
            made = outcome(step.rendered, "created", detail)
        elif step.adopted:
            detail = ", ".join([f"note {step.note_id}", *parts])
            made = outcome(step.rendered, "adopted", detail)
        elif parts:
            made = outcome(step.rendered, "updated", f"{', '.join(parts)} of note {step.note_id}")
        elif step.needed and not step.kept:
            made = outcome(step.rendered, "updated", f"the record of note {step.note_id}")
        elif not step.kept:
            self._skip(1)
        if made:
            self.report.add(made)
        return made

    def process_removed(self) -> None:
        """Process notes of deleted contents, and marked notes whose content is back."""
        notes = {
            card.note_id: card.content_id
            for card in self._all_cards
            if card.note_id and card.content_id is not None
        }
        notes |= {
            note.id: number
            for number, some in self._unlinked.items()
            for note in some
            if has_tag(note.tags, self._origin.tag)
        }
        if (deleted := self._intended.keys() - self._existing) and not self._options.dry_run:
            with self._manager.get_postgres_session() as session:
                pending_writes.forget(session, deleted)
        marked = removed.process(
            self._anki,
            notes,
            existing=self._existing,
            quarantined=contents.in_quarantine(self._session),
            skipped={card.note_id for card in self._all_cards if has_tag(card.tags, SKIP)},
            options=self._options,
            report=self.report,
            before_write=self._origin.require_same,
        )
        if not self._options.dry_run:
            with self._manager.get_sqlite_session() as session:
                cards.mark(session, self._all_cards, marked)

    def _skip(self, contents: int) -> None:
        self.report.counts["skipped"] += contents
