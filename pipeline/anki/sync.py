"""Update notes in Anki from the contents in PostgreSQL; cards in SQLite record the exports.

Every content is rendered, and its digest is compared with the card's; equal contents are skipped.
For the others, the note is read. A field that is unchanged since its export is overwritten; a field
that the learner edited is left unchanged and reported. Written notes are read back, and only
confirmed exports are saved in SQLite. A tag on each note names its content, so a note whose card
was never saved, because an answer was lost or a run ended, is found and adopted. Notes are never
deleted. A second run changes nothing.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

from sqlalchemy.orm import Session

from pipeline.anki import cards, contents, pending_writes, removed
from pipeline.anki.cards import Exported
from pipeline.anki.contents import Sound
from pipeline.anki.decisions import Step, decide, outcome
from pipeline.anki.outcomes import Action, Options, Outcome, Report
from pipeline.anki.rendering import Rendered, Renderer, digest
from pipeline.anki.store.notes import (
    CONTENT_TAGS,
    SKIP,
    Anki,
    Note,
    Refusal,
    content_tag,
    has_tag,
    make_ready,
    tagged_contents,
)
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
        AnkiError: Anki refuses the run, or lacks a deck, a note type or a field.
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
        self._unlinked = self._read_unlinked()
        self._intended = pending_writes.read(session)

    def _read_unlinked(self) -> dict[int, list[Note]]:
        """Notes with a content's tag that belong to no card, by content."""
        known = {card.note_id for card in self._all_cards}
        found: dict[int, list[Note]] = {}
        for _, note in sorted(self._anki.notes(self._tagged - known).items()):
            for content_id in tagged_contents(note.tags)[:1]:
                found.setdefault(content_id, []).append(note)
        return found

    def prepare(self) -> None:
        """Make sure that the decks, the note type and the fields exist, before any write."""
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

    def select_changed(self, rendered: Sequence[Rendered]) -> list[Rendered]:
        """The contents that are not up to date in Anki, as far as the cards show."""
        changed = [each for each in rendered if not self._is_unchanged(each)]
        self._skip(len(rendered) - len(changed))
        return changed

    def update(self, changed: Sequence[Rendered]) -> None:
        """Update the notes of a batch of contents."""
        known = [card for each in changed if (card := self._cards.get(each.content_id))]
        notes = self._anki.notes({card.note_id for card in known if card.note_id is not None})
        steps = []
        for each in changed:
            card = self._cards.get(each.content_id)
            note = notes.get(card.note_id) if card and card.note_id is not None else None
            unlinked = self._unlinked.get(each.content_id, [])
            intended = self._intended.get(each.content_id, [])
            step, outcomes = decide(each, card, note, unlinked, intended, self._options)
            self.report.add(*outcomes)
            steps += [step] if step else []
        to_store = self._sounds_to_store(steps)
        if self._options.dry_run:
            self.report.media_files += len(to_store)
        else:
            steps = self._execute(steps, to_store)
        for step in steps:
            self._report_step(step, {sound.file for sound in to_store & {*step.rendered.sounds}})

    def _is_unchanged(self, rendered: Rendered) -> bool:
        card = self._cards.get(rendered.content_id)
        return (
            card is not None
            and card.note_id in self._tagged
            and card.export_hash == str(rendered.hash)
            and rendered.content_id not in self._unlinked
            and all(sound.file in self._media for sound in rendered.sounds)
            and not (self._options.force or self._options.recordings)
        )

    def _sounds_to_store(self, steps: Iterable[Step]) -> set[Sound]:
        """Recordings that are missing in Anki, or have different bytes there."""
        wanted = {sound.file: sound for step in steps for sound in step.rendered.sounds}
        existing = self._anki.media({name: sound.size for name, sound in wanted.items()})
        return {sound for name, sound in wanted.items() if existing.get(name) != sound.md5}

    def _execute(self, steps: Sequence[Step], sounds: Collection[Sound]) -> list[Step]:
        """Store recordings before notes that play them, and save cards last.

        Returns:
            The steps that Anki has confirmed.
        """
        failed = self._store(sounds)
        playable = [step for step in steps if self._has_media(step, failed)]
        self._record_intents([step for step in playable if step.write])
        created = self._create([step for step in playable if step.note_id is None])
        written = self._write([step for step in playable if step.note_id is not None])
        confirmed = [*created, *written]
        self._save([(step, number) for step, number in confirmed if step.needed])
        return [step for step, _ in confirmed]

    def _save(self, confirmed: Sequence[tuple[Step, int]]) -> None:
        """Save the exports that Anki has confirmed in the cards."""
        if not confirmed:
            return
        ids = {step.id for step, _ in confirmed}
        with self._manager.get_postgres_session() as session:
            # No content may be deleted before its card is saved.
            existing = contents.lock_existing(session, ids)
            exported = [
                Exported(
                    step.card.id if step.card else None,
                    step.id,
                    number,
                    step.deck(self._options),
                    str(step.hash),
                )
                for step, number in confirmed
                if step.id in existing
            ]
            with self._manager.get_sqlite_session() as sqlite:
                cards.save(sqlite, exported)
            if known := ids & self._intended.keys():
                pending_writes.forget(session, known)
        for number in known:
            del self._intended[number]

    def _record_intents(self, steps: Sequence[Step]) -> None:
        """Record exports in the ledger before they are written."""
        if not steps:
            return
        with self._manager.get_postgres_session() as session:
            pending_writes.prepare(session)
            pending_writes.record(session, {step.id: str(step.hash) for step in steps})
        for step in steps:
            self._intended.setdefault(step.id, []).append(str(step.hash))

    def _store(self, sounds: Collection[Sound]) -> set[Sound]:
        """Store recordings and read them back; returns those that differ."""
        self._anki.store(self._counted_files(sounds))
        stored = self._anki.media({sound.file: sound.size for sound in sounds})
        return {sound for sound in sounds if stored.get(sound.file) != sound.md5}

    def _counted_files(self, sounds: Collection[Sound]) -> Iterator[tuple[str, bytes]]:
        for sound, data in contents.recordings(self._session, sounds):
            yield sound.file, data
            self.report.media_files += 1
            self.report.media_bytes += len(data)

    def _has_media(self, step: Step, failed: Collection[Sound]) -> bool:
        names = ", ".join(sound.file for sound in step.rendered.sounds if sound in failed)
        if names:
            self._add_outcome(step, "failed", f"Anki did not store {names} correctly")
        return not names

    def _create(self, steps: Sequence[Step]) -> list[tuple[Step, int]]:
        """Create notes; returns the confirmed steps with note ids."""
        if not steps:
            return []
        answers = self._anki.add([step.new_note(self._options) for step in steps])
        self._tagged.update(each for each in answers if isinstance(each, int))
        # A note may exist although the answer has no id.
        exists = self._find_new() if any(isinstance(each, Refusal) for each in answers) else {}
        return self._confirm(
            [
                (step, exists.get(step.id, answer) if isinstance(answer, Refusal) else answer)
                for step, answer in zip(steps, answers, strict=True)
            ]
        )

    def _find_new(self) -> dict[int, int]:
        """Notes that got a content's tag since the sync began: content id -> note id."""
        found = self._anki.notes(set(self._anki.find(f"{CONTENT_TAGS}*")) - self._tagged)
        return {
            content_id: note.id
            for _, note in sorted(found.items(), reverse=True)
            for content_id in tagged_contents(note.tags)
        }

    def _write(self, steps: Sequence[Step]) -> list[tuple[Step, int]]:
        """Write fields and tags of notes; returns the confirmed steps with note ids."""
        changes = {step.note_id: step.write for step in steps if step.note_id and step.write}
        refused = self._anki.write(changes) if changes else {}
        if untagged := {s.note_id: content_tag(s.id) for s in steps if s.note_id and not s.tagged}:
            self._anki.tag(untagged)
        found = [(step, step.note_id) for step in steps if step.note_id]
        changed = [
            (step, refused.get(number, number))
            for step, number in found
            if step.write or not step.tagged
        ]
        others = [(step, number) for step, number in found if not step.write and step.tagged]
        return [*self._confirm(changed), *others]

    def _confirm(self, found: Sequence[tuple[Step, int | Refusal]]) -> list[tuple[Step, int]]:
        """Read notes back; returns the steps whose notes are correct."""
        notes = self._anki.notes({number for _, number in found if isinstance(number, int)})
        confirmed = []
        for step, number in found:
            note = notes.get(number) if isinstance(number, int) else None
            if note is None:
                why = f" ({number.why})" if isinstance(number, Refusal) else ""
                action = f"change note {step.note_id}" if step.note_id else "create the note"
                self._add_outcome(step, "failed", f"Anki did not {action}{why}")
                continue
            differ = [n for n, text in step.write.items() if digest(note.fields[n]) != digest(text)]
            if differ:
                detail = f"Anki did not store {', '.join(differ)} of note {note.id}"
                self._add_outcome(step, "failed", f"{detail}; close Anki's browser and run again")
            elif not has_tag(note.tags, content_tag(step.id)):
                self._add_outcome(step, "failed", f"Anki did not store the tag of note {note.id}")
            else:
                confirmed.append((step, note.id))
        return confirmed

    def _report_step(self, step: Step, recordings: Collection[str]) -> None:
        parts = [*step.write, *sorted(recordings)]
        if step.note_id is None:
            self._add_outcome(step, "created", f"in deck {step.deck(self._options)}")
        elif step.adopted:
            self._add_outcome(step, "adopted", ", ".join([f"note {step.note_id}", *parts]))
        elif parts:
            self._add_outcome(step, "updated", f"{', '.join(parts)} of note {step.note_id}")
        elif step.needed and not step.kept:
            self._add_outcome(step, "updated", f"the record of note {step.note_id}")
        elif not step.kept:
            self._skip(1)

    def process_removed(self) -> None:
        """Process notes of deleted contents, and marked notes whose content is back."""
        notes = {
            card.note_id: card.content_id
            for card in self._all_cards
            if card.note_id and card.content_id is not None
        }
        notes |= {note.id: number for number, some in self._unlinked.items() for note in some}
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
        )
        if not self._options.dry_run:
            with self._manager.get_sqlite_session() as session:
                cards.mark(session, self._all_cards, marked)

    def _skip(self, contents: int) -> None:
        self.report.counts["skipped"] += contents

    def _add_outcome(self, step: Step, action: Action, detail: str) -> None:
        self.report.add(outcome(step.rendered, action, detail))
