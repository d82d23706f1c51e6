"""Write the steps of a sync to Anki, read them back, and save what Anki confirmed in the cards.

Recordings come before the notes that play them, and cards come last. If other programs can write
to Anki, everything that was written is read again at the end of the run: an editor that was open
during a write puts the text before back, after the first look. What was taken back is written
again by the next run.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from pipeline.anki import cards, contents
from pipeline.anki.cards import Exported
from pipeline.anki.contents import Sound
from pipeline.anki.decisions import Step, outcome
from pipeline.anki.ledger import pending_writes
from pipeline.anki.outcomes import Options, Outcome, Report
from pipeline.anki.rendering import ExportHash, digest
from pipeline.anki.store.decks import folded, place
from pipeline.anki.store.notes import CONTENT_TAGS, Anki, Note, Refusal, has_tag, tagged_contents
from pipeline.application.manager import HybridDatabaseManager

Confirmed = tuple[Step, Note]


@dataclass(frozen=True)
class _Written:
    """A confirmed step that is read again, without its texts.

    Attributes:
        wrote: digests of the written fields: name -> digest.
        was: their digests before.
        tags: that the note has to have.
        sounds: recordings that were stored for the note.
        previous: the export hash before.
        reported: the outcome of the step.
    """

    content_id: int
    note_id: int
    wrote: Mapping[str, str]
    was: Mapping[str, str]
    tags: tuple[str, ...]
    sounds: tuple[Sound, ...]
    previous: str | None
    reported: Outcome | None

    def taken_back(self, note: Note, media: Mapping[str, str | None]) -> list[str]:
        """What is not as it was written, and no edit of the learner."""
        fields = [
            name
            for name, before in self.was.items()
            if self.wrote[name] != digest(note.fields.get(name, "")) == before
        ]
        tags = [f"the tag {tag}" for tag in self.tags if not has_tag(note.tags, tag)]
        files = [sound.file for sound in self.sounds if media[sound.file] not in (None, sound.md5)]
        return [*fields, *tags, *files]

    def edited(self, note: Note) -> list[str]:
        """Fields that a learner changed after the write."""
        now = {name: digest(note.fields.get(name, "")) for name in self.wrote}
        return [
            name for name, text in self.wrote.items() if now[name] not in (text, self.was.get(name))
        ]


class Exporter:
    """Writes steps, and remembers what this run has written."""

    def __init__(
        self,
        manager: HybridDatabaseManager,
        session: Session,
        anki: Anki,
        options: Options,
        report: Report,
        *,
        tagged: Collection[int],
    ) -> None:
        """Prepare; ``tagged`` are the notes with the tag of a content."""
        self._manager, self._session, self._anki = manager, session, anki
        self._options, self._report = options, report
        self._tagged = set(tagged)
        self._replaced: set[Sound] = set()
        self._settled: dict[int, str | None] = {}
        self._written: list[_Written] = []
        self._last_write = 0.0

    def sounds_to_store(self, steps: Iterable[Step]) -> set[Sound]:
        """Recordings that are missing in Anki, or have different bytes there."""
        wanted = {sound.file: sound for step in steps for sound in step.rendered.sounds}
        existing = self._anki.media({name: sound.size for name, sound in wanted.items()})
        to_store = {sound for name, sound in wanted.items() if existing.get(name) != sound.md5}
        self._replaced |= {sound for sound in to_store if sound.file in existing}
        return to_store

    def execute(self, steps: Sequence[Step], sounds: Collection[Sound]) -> list[Confirmed]:
        """Write steps; returns those that Anki has confirmed, with their notes."""
        failed = self._store(sounds)
        playable = [step for step in steps if self._has_media(step, failed)]
        self._record([step for step in playable if step.write])
        created = self._create([step for step in playable if step.note_id is None])
        confirmed = [
            *self._place(created),
            *self._write([step for step in playable if step.note_id is not None]),
        ]
        self._save([(step, note.id) for step, note in confirmed if step.needed])
        self._last_write = time.monotonic()
        for step, _ in confirmed:
            hashes = (step.card.export_hash if step.card else None, *step.found.intended)
            others = [text for text in hashes if text and text != str(step.hash)]
            if step.write or step.found.intended:
                self._settled[step.id] = others[0] if others else None
        return confirmed

    def remember(
        self, step: Step, note_id: int, sounds: Collection[Sound], reported: Outcome | None
    ) -> None:
        """Remember a confirmed step, to read it again."""
        if not (step.needed or sounds):
            return
        self._written.append(
            _Written(
                step.id,
                note_id,
                {name: digest(text) for name, text in step.write.items()},
                step.was,
                step.tags if step.writes or step.note is None else (),
                tuple(sounds),
                step.card.export_hash if step.card else None,
                reported,
            )
        )

    def settle(self) -> None:
        """Read again what this run has written, once, and settle it in ledger and cards."""
        reset: dict[int, str | None] = {}
        if self._written and self._anki.settle_seconds is not None:
            time.sleep(max(0.0, self._last_write + self._anki.settle_seconds - time.monotonic()))
            notes = self._anki.notes({each.note_id for each in self._written})
            media = self._stored_media()
            for each in self._written:
                if self._is_taken_back(each, notes.get(each.note_id), media):
                    reset[each.note_id] = each.previous
                    self._settled.pop(each.content_id, None)
        if reset:
            with self._manager.get_sqlite_session() as sqlite:
                cards.reset(sqlite, reset)
        if self._settled:
            with self._manager.get_postgres_session() as session:
                pending_writes.prepare(session)
                pending_writes.settle(session, self._settled)
        self._written.clear()
        self._settled.clear()

    def _stored_media(self) -> dict[str, str | None]:
        """Digests of stored recordings; None if a new one exists, empty if one is gone."""
        sounds = {sound for each in self._written for sound in each.sounds}
        # A new file may go, but only a file that was there before can come back with other bytes.
        replaced, new = sounds & self._replaced, sounds - self._replaced
        digests = self._anki.media({sound.file: sound.size for sound in replaced})
        names = self._anki.media_names() if new else ()
        found: dict[str, str | None] = {
            sound.file: digests.get(sound.file, "") for sound in replaced
        }
        return found | {sound.file: None if sound.file in names else "" for sound in new}

    def _is_taken_back(
        self, each: _Written, note: Note | None, media: Mapping[str, str | None]
    ) -> bool:
        """Report what became of a write; returns whether it has to be repeated."""
        number, title = each.content_id, each.reported.title if each.reported else ""
        if note is None:
            detail = (
                f"note {each.note_id} was deleted in Anki after it was written;"
                f" --force --only {number} recreates it"
            )
            self._correct(each, Outcome(number, title, "missing", detail))
            return False
        if edited := each.edited(note):
            detail = f"{', '.join(edited)} of note {note.id}: edited in Anki after it was written"
            self._report.add(Outcome(number, title, "kept", detail))
        back = each.taken_back(note, media)
        if back:
            detail = (
                f"Anki put back what {', '.join(back)} of note {note.id} was before the write, as"
                " an open editor does; the next run writes it again"
            )
            self._correct(each, Outcome(number, title, "failed", detail))
        return bool(back)

    def _correct(self, each: _Written, now: Outcome) -> None:
        if each.reported:
            self._report.replace(each.reported, now)
        else:
            self._report.add(now)

    def _save(self, confirmed: Sequence[tuple[Step, int]]) -> None:
        """Save the exports that Anki has confirmed in the cards."""
        if not confirmed:
            return
        with self._manager.get_postgres_session() as session:
            # No content may be deleted before its card is saved.
            existing = contents.lock_existing(session, {step.id for step, _ in confirmed})
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

    def _record(self, steps: Sequence[Step]) -> None:
        """Record exports in the ledger before they are written, with the exports before."""
        if not steps:
            return
        count = len(self._options.fields)
        before = {
            step.id: step.card.export_hash
            for step in steps
            if step.card and ExportHash.parse(step.card.export_hash, fields=count)
        }
        exports = {step.id: str(step.hash) for step in steps}
        with self._manager.get_postgres_session() as session:
            pending_writes.prepare(session)
            pending_writes.record(
                session, [*exports.items(), *((id_, text) for id_, text in before.items() if text)]
            )

    def _store(self, sounds: Collection[Sound]) -> set[Sound]:
        """Store recordings and read them back; returns those that differ."""
        self._anki.store(self._counted_files(sounds))
        stored = self._anki.media({sound.file: sound.size for sound in sounds})
        return {sound for sound in sounds if stored.get(sound.file) != sound.md5}

    def _counted_files(self, sounds: Collection[Sound]) -> Iterator[tuple[str, bytes]]:
        for sound, data in contents.recordings(self._session, sounds):
            yield sound.file, data
            self._report.media_files += 1
            self._report.media_bytes += len(data)

    def _has_media(self, step: Step, failed: Collection[Sound]) -> bool:
        names = ", ".join(sound.file for sound in step.rendered.sounds if sound in failed)
        if names:
            self._fail(step, f"Anki did not store {names} correctly")
        return not names

    def _create(self, steps: Sequence[Step]) -> list[Confirmed]:
        """Create notes; returns the confirmed steps."""
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

    def _place(self, created: Sequence[Confirmed]) -> list[Confirmed]:
        """Put new notes into their decks; returns the steps whose notes are there."""
        notes = {note.id: note for _, note in created}
        decks = {note.id: step.deck(self._options) for step, note in created}
        wrong = place(self._anki, notes, decks) if decks else {}
        for step, note in created:
            if note.id in wrong:
                deck = f"is in deck {wrong[note.id]} instead of {decks[note.id]}"
                self._fail(step, f"note {note.id} {deck}; the next run tries again")
        return [(step, note) for step, note in created if note.id not in wrong]

    def _in_default_deck(self, adopted: Sequence[Confirmed]) -> list[Confirmed]:
        """Adopted notes of an interrupted run that Anki put into its default deck."""
        found = [(step, note) for step, note in adopted if step.adopted and step.found.intended]
        if not found:
            return []
        decks = self._anki.decks_of({card for _, note in found for card in note.cards})
        default = folded(self._anki.default_deck())
        return [
            (step, note)
            for step, note in found
            if any(folded(decks.get(card, "")) == default for card in note.cards)
        ]

    def _write(self, steps: Sequence[Step]) -> list[Confirmed]:
        """Write fields and tags of notes; returns the confirmed steps."""
        known = [(step, step.note) for step in steps if step.note]
        changed = [(step, note.id) for step, note in known if step.writes]
        writes = {number: step.write for step, number in changed if step.write}
        refused = self._anki.write(writes) if writes else {}
        if tags := {number: " ".join(step.lacking) for step, number in changed if step.lacking}:
            self._anki.tag(tags)
        confirmed = self._confirm([(step, refused.get(number, number)) for step, number in changed])
        astray = self._in_default_deck(confirmed)
        lost = {note.id for _, note in astray} - {note.id for _, note in self._place(astray)}
        done = [(step, note) for step, note in confirmed if note.id not in lost]
        return [*done, *((step, note) for step, note in known if not step.writes)]

    def _confirm(self, found: Sequence[tuple[Step, int | Refusal]]) -> list[Confirmed]:
        """Read notes back; returns the steps whose notes are correct."""
        numbers = {number for _, number in found if isinstance(number, int)}
        notes = self._anki.notes(numbers) if numbers else {}
        confirmed = []
        for step, number in found:
            note = notes.get(number) if isinstance(number, int) else None
            if note is None:
                why = f" ({number.why})" if isinstance(number, Refusal) else ""
                action = f"change note {step.note_id}" if step.note_id else "create the note"
                self._fail(step, f"Anki did not {action}{why}")
                continue
            differ = [
                name
                for name, text in step.write.items()
                if digest(note.fields.get(name, "")) != digest(text)
            ]
            if differ:
                detail = f"Anki did not store {', '.join(differ)} of note {note.id}"
                self._fail(step, f"{detail}; close Anki's browser and run again")
            elif not all(has_tag(note.tags, tag) for tag in step.tags):
                self._fail(step, f"Anki did not store the tag of note {note.id}")
            else:
                confirmed.append((step, note))
        return confirmed

    def _fail(self, step: Step, detail: str) -> None:
        self._report.add(outcome(step.rendered, "failed", detail))
