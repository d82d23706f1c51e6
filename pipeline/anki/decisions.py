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
    tagged_contents,
)


@dataclass(frozen=True)
class Step:
    """The planned changes for a content.

    Attributes:
        note_id: its note, None to create one.
        adopted: whether the note was found by its tag, not through the card.
        write: fields to write: name -> HTML.
        kept: names of fields with a learner's edits, which are not overwritten.
        tagged: whether the note already has the tag of the content.
        hash: the export hash after the step.
    """

    rendered: Rendered
    card: Card | None
    note_id: int | None
    adopted: bool
    write: Mapping[str, str]
    kept: tuple[str, ...]
    tagged: bool
    hash: ExportHash

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
            (content_tag(self.id), SUCCESS, *learners),
        )


def outcome(rendered: Rendered, action: Action, detail: str) -> Outcome:
    """An outcome of a content."""
    return Outcome(rendered.content_id, rendered.title, action, detail)


def decide(
    rendered: Rendered,
    card: Card | None,
    note: Note | None,
    unlinked: Sequence[Note],
    intended: Sequence[str],
    options: Options,
) -> tuple[Step | None, list[Outcome]]:
    """Decide what a changed content needs.

    Args:
        rendered: the content as a note.
        card: of the content.
        note: of the card; None if it does not exist in Anki.
        unlinked: notes with the content's tag that belong to no card.
        intended: export hashes of earlier runs that may have been written.
        options: of the sync.

    Returns:
        The step, None if there is nothing to do, and outcomes that are reported in any case.
    """
    adopted = note is None and bool(unlinked)
    if adopted:
        note, *unlinked = unlinked
    outcomes = [
        outcome(rendered, "duplicate", f"note {copy.id} has the same tag; delete one of them")
        for copy in unlinked
    ]
    if has_tag((*(card.tags if card else ()), *(note.tags if note else ())), SKIP):
        return None, [
            *outcomes,
            outcome(rendered, "switched off", f"the note or its card has the tag {SKIP}"),
        ]
    if note is not None:
        step, more = _decide_note(rendered, card, note, intended, options, adopted=adopted)
        return step, [*outcomes, *more]
    if card and card.note_id is not None and not options.force:
        detail = (
            f"note {card.note_id} is not in Anki; --force --only {card.content_id} recreates it"
        )
        return None, [*outcomes, outcome(rendered, "missing", detail)]
    write = dict(zip(options.fields, rendered.fields, strict=True))
    return Step(rendered, card, None, False, write, (), True, rendered.hash), outcomes


def _decide_note(
    rendered: Rendered,
    card: Card | None,
    note: Note,
    intended: Sequence[str],
    options: Options,
    *,
    adopted: bool,
) -> tuple[Step | None, list[Outcome]]:
    """Decide what an existing note needs."""
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
    before = ExportHash.parse(card.export_hash, fields=count) if card else None
    ours = [before, *(ExportHash.parse(text, fields=count) for text in intended)]
    write: dict[str, str] = {}
    digests: list[str] = []
    kept: list[Outcome] = []
    names: list[str] = []
    for index, name in enumerate(options.fields):
        now, wanted = digest(note.fields[name]), rendered.hash.fields[index]
        known = before.fields[index] if before else UNKNOWN
        if now == wanted or now in [each.fields[index] for each in ours if each] or options.force:
            digests.append(wanted)
            if now != wanted:
                write[name] = rendered.fields[index]
        else:
            digests.append(known)
            names.append(name)
            why = "the learner edited it" if known != UNKNOWN else "its last export is unknown"
            kept.append(outcome(rendered, "kept", f"{name} of note {note.id}: {why}"))
    exported = ExportHash(tuple(digests), rendered.hash.media)
    step = Step(rendered, card, note.id, adopted, write, tuple(names), tagged, exported)
    return step, kept
