"""Decide what the note of a content needs, without changing anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.anki.cards import Card
from pipeline.anki.outcomes import Action, Options, Outcome
from pipeline.anki.rendering import UNKNOWN, ExportHash, Rendered, digest
from pipeline.anki.store.notes import (
    OWN_TAGS,
    SKIP,
    SUCCESS,
    NewNote,
    Note,
    content_tag,
    has_tag,
    source_tags,
    tagged_contents,
)


@dataclass(frozen=True)
class Situation:
    """What is known of a content before a step.

    Attributes:
        card: of the content.
        note: of the card; None if it does not exist in Anki.
        unlinked: notes with the content's tag that belong to no card, and to no other source.
        intended: export hashes of earlier runs that a note may have.
        source: the tag of this source's notes.
    """

    card: Card | None
    note: Note | None
    unlinked: Sequence[Note]
    intended: Sequence[str]
    source: str

    @property
    def exported(self) -> list[str]:
        """Export hashes that the note may have."""
        return [*([self.card.export_hash or ""] if self.card else []), *self.intended]


@dataclass(frozen=True)
class Step:
    """The planned changes for a content.

    Attributes:
        note: its note, None to create one.
        adopted: whether the note was found by its tag, not through the card.
        write: fields to write: name -> HTML.
        was: digests of these fields before: name -> digest.
        kept: names of fields with a learner's edits, which are not overwritten.
        tagged: whether the note already has the tag of the content.
        hash: the export hash after the step.
    """

    rendered: Rendered
    found: Situation
    note: Note | None
    adopted: bool
    write: Mapping[str, str]
    was: Mapping[str, str]
    kept: tuple[str, ...]
    tagged: bool
    hash: ExportHash

    @property
    def card(self) -> Card | None:
        """The card of the content."""
        return self.found.card

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that identify the note, which it has after the step."""
        return content_tag(self.id), self.found.source

    @property
    def lacking(self) -> tuple[str, ...]:
        """The tags that an existing note lacks."""
        return tuple(tag for tag in self.tags if self.note and not has_tag(self.note.tags, tag))

    @property
    def note_id(self) -> int | None:
        """The id of an existing note."""
        return self.note.id if self.note else None

    @property
    def writes(self) -> bool:
        """Whether the note itself is written."""
        return bool(self.write) or not self.tagged or self.adopted

    @property
    def id(self) -> int:
        """The id of the content."""
        return self.rendered.content_id

    @property
    def needed(self) -> bool:
        """Whether anything other than recordings must change."""
        recorded = self.card is not None and self.card.export_hash == str(self.hash)
        known = self.note_id is not None and self.tagged and not self.adopted
        return bool(self.write) or not known or not recorded

    def deck(self, options: Options) -> str:
        """The deck of a new note."""
        return self.card.deck if self.card else options.deck

    def new_note(self, options: Options) -> NewNote:
        """The note to create, with the learner's tags of the card."""
        tags = self.card.tags if self.card else ()
        learners = [
            "_".join(tag.split()) for tag in tags if not tag.lower().startswith(OWN_TAGS) and tag
        ]
        return NewNote(
            self.deck(options),
            options.note_type,
            self.write,
            (content_tag(self.id), SUCCESS, self.found.source, *learners),
        )


def outcome(rendered: Rendered, action: Action, detail: str) -> Outcome:
    """An outcome of a content."""
    return Outcome(rendered.content_id, rendered.title, action, detail)


def decide(
    rendered: Rendered, found: Situation, options: Options
) -> tuple[Step | None, list[Outcome]]:
    """Decide what a changed content needs.

    Returns:
        The step, None if there is nothing to do, and outcomes that are reported in any case.
    """
    card, note = found.card, found.note
    ours = [each for each in found.unlinked if _is_ours(each, rendered, found, options.fields)]
    others = [each for each in found.unlinked if each not in ours]
    adopted = note is None and bool(ours)
    if adopted:
        note, *ours = ours
    outcomes = [
        outcome(rendered, "duplicate", f"note {copy.id} has the same tag; delete one of them")
        for copy in ours
    ] + [_stranger(rendered, each, has_note=note is not None) for each in others]
    if has_tag((*(card.tags if card else ()), *(note.tags if note else ())), SKIP):
        return None, [
            *outcomes,
            outcome(rendered, "switched off", f"the note or its card has the tag {SKIP}"),
        ]
    if note is not None:
        step, more = _decide_note(rendered, found, note, options, adopted=adopted)
        return step, [*outcomes, *more]
    if card and card.note_id is not None and not options.force:
        detail = (
            f"note {card.note_id} is not in Anki; --force --only {card.content_id} recreates it"
        )
        return None, [*outcomes, outcome(rendered, "missing", detail)]
    write = dict(zip(options.fields, rendered.fields, strict=True))
    created = Step(rendered, found, None, False, write, {}, (), True, rendered.hash)
    return created, outcomes


def _is_ours(note: Note, rendered: Rendered, found: Situation, fields: Sequence[str]) -> bool:
    """Whether this source made a note that belongs to no card: its tag or its fields say so."""
    if has_tag(note.tags, found.source):
        return True
    texts = [note.fields.get(name, "") for name in fields]
    now = tuple(map(digest, texts))
    exported = [ExportHash.parse(text, fields=len(now)) for text in found.exported]
    return now == rendered.hash.fields or any(
        text and same == old
        for each in exported
        if each
        for text, same, old in zip(texts, now, each.fields, strict=True)
    )


def _stranger(rendered: Rendered, note: Note, *, has_note: bool) -> Outcome:
    """The outcome for a note that has the content's tag and was not exported from here."""
    if has_note:
        detail = f"note {note.id} has the same tag, but was not exported from here; untag it"
        return outcome(rendered, "duplicate", detail)
    tag = content_tag(rendered.content_id)
    detail = f"note {note.id} has the tag {tag}, but was not exported from here; it is not changed"
    return outcome(rendered, "foreign", detail)


def _decide_note(
    rendered: Rendered, found: Situation, note: Note, options: Options, *, adopted: bool
) -> tuple[Step | None, list[Outcome]]:
    """Decide what an existing note needs."""
    labels = source_tags(note.tags)
    if labels and not has_tag(labels, found.source):
        detail = f"note {note.id} has the tag {labels[0]} of another source; it is not changed"
        return None, [outcome(rendered, "foreign", detail)]
    tagged = has_tag(note.tags, content_tag(rendered.content_id))
    others = tagged_contents(note.tags)
    if others and not tagged:
        detail = f"note {note.id} has the tag of content {others[0]}"
        return None, [outcome(rendered, "failed", detail)]
    lacking = [name for name in options.fields if name not in note.fields]
    if lacking:
        detail = f"note {note.id}, of type {note.note_type}, has no field {', '.join(lacking)}"
        return None, [outcome(rendered, "failed", detail)]
    count = len(options.fields)
    before = ExportHash.parse(found.card.export_hash, fields=count) if found.card else None
    ours = [ExportHash.parse(text, fields=count) for text in found.exported]
    write: dict[str, str] = {}
    was: dict[str, str] = {}
    digests: list[str] = []
    kept: list[Outcome] = []
    names: list[str] = []
    for index, name in enumerate(options.fields):
        now, wanted = digest(note.fields[name]), rendered.hash.fields[index]
        known = before.fields[index] if before else UNKNOWN
        if now == wanted or now in [each.fields[index] for each in ours if each] or options.force:
            digests.append(wanted)
            if now != wanted:
                write[name], was[name] = rendered.fields[index], now
        else:
            digests.append(known)
            names.append(name)
            why = "the learner edited it" if known != UNKNOWN else "its last export is unknown"
            kept.append(outcome(rendered, "kept", f"{name} of note {note.id}: {why}"))
    exported = ExportHash(tuple(digests), rendered.hash.media)
    step = Step(rendered, found, note, adopted, write, was, tuple(names), tagged, exported)
    return step, kept
