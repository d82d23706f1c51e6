"""Notes in Anki follow the contents in PostgreSQL; cards in SQLite remember what was exported.

Every content is rendered and its digest held against the card's: who is equal costs nothing more.
Of the others the note is looked at. A field that Anki still has as it was exported is written; one
that differs is the learner's, is left alone and reported. What was written is read back, and only
what Anki confirmed is kept in SQLite. A tag on the note says of which content it is, so that a note
whose card was never written, because an answer was lost or a run was ended, is found and adopted.
Notes are never deleted. Running it again changes nothing.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

from sqlalchemy.orm import Session

from pipeline.anki import cards, contents, intents, removed
from pipeline.anki.cards import Exported
from pipeline.anki.contents import Sound
from pipeline.anki.outcomes import Action, Options, Outcome, Report
from pipeline.anki.rendering import Rendered, Renderer, digest
from pipeline.anki.steps import Step, decide, outcome
from pipeline.anki.store.notes import (
    CONTENT_TAGS,
    SKIP,
    Anki,
    Note,
    Refusal,
    contents_of,
    has_tag,
    make_ready,
    tag_of,
)
from pipeline.application.manager import HybridDatabaseManager

_AT_ONCE = 100
"""So many contents are written, read back and kept together."""


def sync(
    manager: HybridDatabaseManager,
    anki: Anki,
    renderer: Renderer,
    options: Options,
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Report:
    """Let the notes follow the contents.

    Args:
        manager: both databases.
        anki: open.
        renderer: makes notes of contents.
        options: what is to be done.
        on_progress: told how many contents of how many were looked at.

    Raises:
        AnkiGone: Anki does not answer any more; what it confirmed is kept.
        AnkiError: Anki refuses as a whole, or lacks a deck, a note type or a field.
        RenderError: a template cannot be used.
        Refused: a card cannot be written as Anki has confirmed it.
        SourceError: the SQLite file cannot be read or written.
        TargetError: PostgreSQL does not answer.
    """
    started = time.perf_counter()
    with manager.get_postgres_session(snapshot=True) as session:
        run = _Run(manager, session, anki, options)
        run.make_ready()
        rendered = map(renderer.render, contents.read(session, options.ids))
        done = 0
        while some := list(islice(rendered, _AT_ONCE)):
            run.follow(some)
            done += len(some)
            on_progress(done, len(run.wanted))
        if options.ids is None:
            run.see_to_removed()
    run.report.seconds = time.perf_counter() - started
    return run.report


class _Run:
    """One sync under way."""

    def __init__(
        self, manager: HybridDatabaseManager, session: Session, anki: Anki, options: Options
    ) -> None:
        self.report = Report()
        self._manager, self._session, self._anki, self._options = manager, session, anki, options
        self._there = contents.ids(session)
        self.wanted = self._there if options.ids is None else self._there & options.ids
        for number in sorted((options.ids or frozenset()) - self._there):
            self.report.add(Outcome(number, "", "failed", "PostgreSQL has no such content"))
        with manager.get_sqlite_session() as sqlite:
            self._all_cards = cards.read(sqlite)
        self._cards = cards.by_content(self._all_cards)
        self._tagged = set(anki.find(f"{CONTENT_TAGS}*"))
        self._media = anki.media_names()
        self._strays = self._read_strays()
        self._intended = intents.read(session)

    def _read_strays(self) -> dict[int, list[Note]]:
        """Notes that say of which content they are, and that no card names."""
        known = {card.note_id for card in self._all_cards}
        found: dict[int, list[Note]] = {}
        for _, note in sorted(self._anki.notes(self._tagged - known).items()):
            for content_id in contents_of(note.tags)[:1]:
                found.setdefault(content_id, []).append(note)
        return found

    def make_ready(self) -> None:
        """See that everything is there that new notes need, before anything is written."""
        options = self._options
        decks = {options.deck}
        for content_id in self.wanted:
            card = self._cards.get(content_id)
            if card and (card.note_id is None or options.force) and not has_tag(card.tags, SKIP):
                decks.add(card.deck)
        make_ready(
            self._anki,
            decks=decks,
            note_type=options.note_type,
            fields=options.fields,
            create_decks=options.create_decks,
            dry_run=options.dry_run,
        )

    def follow(self, rendered: Sequence[Rendered]) -> None:
        """Let the notes of some contents follow."""
        changed = [each for each in rendered if not self._is_as_exported(each)]
        self._skip(len(rendered) - len(changed))
        if not changed:
            return
        known = [card for each in changed if (card := self._cards.get(each.content_id))]
        notes = self._anki.notes({card.note_id for card in known if card.note_id is not None})
        steps = []
        for each in changed:
            card = self._cards.get(each.content_id)
            note = notes.get(card.note_id) if card and card.note_id is not None else None
            strays = self._strays.get(each.content_id, [])
            intended = self._intended.get(each.content_id, [])
            step, told = decide(each, card, note, strays, intended, self._options)
            self.report.add(*told)
            steps += [step] if step else []
        lacking = self._lacking(steps)
        if self._options.dry_run:
            self.report.media_files += len(lacking)
        else:
            steps = self._carry_out(steps, lacking)
        for step in steps:
            self._tell(step, {sound.file for sound in lacking & {*step.rendered.sounds}})

    def _is_as_exported(self, rendered: Rendered) -> bool:
        card = self._cards.get(rendered.content_id)
        return (
            card is not None
            and card.note_id in self._tagged
            and card.export_hash == str(rendered.hash)
            and rendered.content_id not in self._strays
            and all(sound.file in self._media for sound in rendered.sounds)
            and not (self._options.force or self._options.recordings)
        )

    def _lacking(self, steps: Iterable[Step]) -> set[Sound]:
        """Recordings that Anki does not have, or has otherwise."""
        wanted = {sound.file: sound for step in steps for sound in step.rendered.sounds}
        there = self._anki.media(wanted)
        return {sound for name, sound in wanted.items() if there.get(name) != sound.md5}

    def _carry_out(self, steps: Sequence[Step], lacking: Collection[Sound]) -> list[Step]:
        """Recordings first, so that no note plays what is not there; cards last.

        Returns:
            The steps that Anki has confirmed.
        """
        wrong = self._store(lacking)
        sound = [step for step in steps if self._has_media(step, wrong)]
        self._intend([step for step in sound if step.write])
        made = self._make([step for step in sound if step.note_id is None])
        written = self._write([step for step in sound if step.note_id is not None])
        confirmed = [*made, *written]
        self._keep([(step, number) for step, number in confirmed if step.needed])
        return [step for step, _ in confirmed]

    def _keep(self, confirmed: Sequence[tuple[Step, int]]) -> None:
        """Let the cards know what Anki has confirmed."""
        if not confirmed:
            return
        ids = {step.id for step, _ in confirmed}
        with self._manager.get_postgres_session() as session:
            # Nobody may delete a content before its card is there.
            there = contents.held(session, ids)
            exported = [
                Exported(
                    step.card.id if step.card else None,
                    step.id,
                    number,
                    step.deck(self._options),
                    str(step.hash),
                )
                for step, number in confirmed
                if step.id in there
            ]
            with self._manager.get_sqlite_session() as sqlite:
                cards.save(sqlite, exported)
            if known := ids & self._intended.keys():
                intents.forget(session, known)
        for number in known:
            del self._intended[number]

    def _intend(self, steps: Sequence[Step]) -> None:
        """Note what is about to be written, before it is."""
        if not steps:
            return
        with self._manager.get_postgres_session() as session:
            intents.prepare(session)
            intents.keep(session, {step.id: str(step.hash) for step in steps})
        for step in steps:
            self._intended.setdefault(step.id, []).append(str(step.hash))

    def _store(self, lacking: Collection[Sound]) -> set[Sound]:
        """Store recordings; those that Anki then has not as they were stored."""
        for sound, data in contents.recordings(self._session, lacking):
            self._anki.store(sound.file, data)
            self.report.media_files += 1
            self.report.media_bytes += len(data)
        stored = self._anki.media([sound.file for sound in lacking])
        return {sound for sound in lacking if stored.get(sound.file) != sound.md5}

    def _has_media(self, step: Step, wrong: Collection[Sound]) -> bool:
        names = ", ".join(sound.file for sound in step.rendered.sounds if sound in wrong)
        if names:
            self._note(step, "failed", f"{names} is not in Anki as it was stored")
        return not names

    def _make(self, steps: Sequence[Step]) -> list[tuple[Step, int]]:
        """Make notes; those that Anki has, with their ids."""
        if not steps:
            return []
        answers = self._anki.add([step.new_note(self._options) for step in steps])
        found: list[tuple[Step, int | Refusal]] = []
        for step, answer in zip(steps, answers, strict=True):
            # An answer without an id may hide a note that was made.
            hidden = self._anki.find(tag_of(step.id)) if isinstance(answer, Refusal) else []
            found.append((step, hidden[0] if hidden else answer))
        return self._confirmed(found)

    def _write(self, steps: Sequence[Step]) -> list[tuple[Step, int]]:
        """Write fields and tags of notes; those that Anki has."""
        changes = {step.note_id: step.write for step in steps if step.note_id and step.write}
        refused = self._anki.write(changes) if changes else {}
        if untagged := {s.note_id: tag_of(s.id) for s in steps if s.note_id and not s.tagged}:
            self._anki.tag(untagged)
        found = [(step, step.note_id) for step in steps if step.note_id]
        touched = [
            (step, refused.get(number, number))
            for step, number in found
            if step.write or not step.tagged
        ]
        others = [(step, number) for step, number in found if not step.write and step.tagged]
        return [*self._confirmed(touched), *others]

    def _confirmed(self, found: Sequence[tuple[Step, int | Refusal]]) -> list[tuple[Step, int]]:
        """Read notes back; those that are as they should be."""
        notes = self._anki.notes({number for _, number in found if isinstance(number, int)})
        confirmed = []
        for step, number in found:
            note = notes.get(number) if isinstance(number, int) else None
            if note is None:
                why = f" ({number.why})" if isinstance(number, Refusal) else ""
                what = f"change note {step.note_id}" if step.note_id else "make the note"
                self._note(step, "failed", f"Anki did not {what}{why}")
                continue
            differ = [n for n, text in step.write.items() if digest(note.fields[n]) != digest(text)]
            if differ:
                detail = f"note {note.id} does not hold the new {', '.join(differ)}"
                self._note(step, "failed", f"{detail}; close Anki's browser and run again")
            elif not has_tag(note.tags, tag_of(step.id)):
                self._note(step, "failed", f"note {note.id} did not take its tag")
            else:
                confirmed.append((step, note.id))
        return confirmed

    def _tell(self, step: Step, recordings: Collection[str]) -> None:
        what = [*step.write, *sorted(recordings)]
        if step.note_id is None:
            self._note(step, "created", f"in deck {step.deck(self._options)}")
        elif step.adopted:
            self._note(step, "adopted", ", ".join([f"note {step.note_id}", *what]))
        elif what:
            self._note(step, "updated", f"{', '.join(what)} of note {step.note_id}")
        elif step.needed and not step.kept:
            self._note(step, "updated", f"what is known of note {step.note_id}")
        elif not step.kept:
            self._skip(1)

    def see_to_removed(self) -> None:
        """Notes whose content is gone, and notes so marked whose content is back."""
        notes = {
            card.note_id: card.content_id
            for card in self._all_cards
            if card.note_id and card.content_id is not None
        }
        notes |= {note.id: number for number, some in self._strays.items() for note in some}
        if (gone := self._intended.keys() - self._there) and not self._options.dry_run:
            with self._manager.get_postgres_session() as session:
                intents.forget(session, gone)
        off = {card.note_id for card in self._all_cards if has_tag(card.tags, SKIP)}
        marked = removed.see_to(
            self._anki,
            notes,
            there=self._there,
            waiting=contents.in_quarantine(self._session),
            off=off,
            options=self._options,
            report=self.report,
        )
        if not self._options.dry_run:
            with self._manager.get_sqlite_session() as session:
                cards.mark(session, self._all_cards, marked)

    def _skip(self, contents: int) -> None:
        self.report.counts["skipped"] += contents

    def _note(self, step: Step, action: Action, detail: str) -> None:
        self.report.add(outcome(step.rendered, action, detail))
