"""What the note of a content needs, decided from what is known and without touching anything."""

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
    contents_of,
    has_tag,
    tag_of,
)


@dataclass(frozen=True)
class Step:
    """What is to be done for a content.

    Attributes:
        rendered: the content as it should be.
        card: its card, if it has one.
        note_id: its note, None to make one.
        adopted: whether the card did not know the note.
        write: fields that are written: name -> HTML.
        kept: names of fields that are left to the learner.
        tagged: whether the note says already of which content it is.
        hash: what is exported then.
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
        """Of the content."""
        return self.rendered.content_id

    @property
    def needed(self) -> bool:
        """Whether anything but recordings is to be done."""
        as_kept = self.card is not None and self.card.export_hash == str(self.hash)
        known = self.note_id is not None and self.tagged and not self.adopted
        return bool(self.write) or not known or not as_kept

    def deck(self, options: Options) -> str:
        """Where a new note goes."""
        return self.card.deck if self.card else options.deck

    def new_note(self, options: Options) -> NewNote:
        """The note that is to be made; tags that the learner gave to the card go along."""
        tags = self.card.tags if self.card else ()
        learners = [
            "_".join(tag.split()) for tag in tags if not tag.lower().startswith(OWN_TAGS) and tag
        ]
        return NewNote(
            self.deck(options), options.note_type, self.write, (tag_of(self.id), SUCCESS, *learners)
        )


def outcome(rendered: Rendered, action: Action, detail: str) -> Outcome:
    """What became of a content."""
    return Outcome(rendered.content_id, rendered.title, action, detail)


def decide(
    rendered: Rendered,
    card: Card | None,
    note: Note | None,
    strays: Sequence[Note],
    intended: Sequence[str],
    options: Options,
) -> tuple[Step | None, list[Outcome]]:
    """What a content needs that is not as it was exported.

    Args:
        rendered: the content as it should be.
        card: its card, if it has one.
        note: the note that the card names, if Anki has it.
        strays: notes with its tag that no card names.
        intended: export hashes that were about to be written, and may have been.
        options: what is to be done.

    Returns:
        The step, None where nothing is to be done, and what is to be told whatever comes of it.
    """
    adopted = note is None and bool(strays)
    if adopted:
        note, *strays = strays
    told = [
        outcome(rendered, "duplicate", f"note {stray.id} has its tag too; delete one of them")
        for stray in strays
    ]
    if has_tag((*(card.tags if card else ()), *(note.tags if note else ())), SKIP):
        return None, [*told, outcome(rendered, "switched off", f"it has the tag {SKIP}")]
    if note is not None:
        step, more = _of_note(rendered, card, note, intended, options, adopted=adopted)
        return step, [*told, *more]
    if card and card.note_id is not None and not options.force:
        detail = (
            f"note {card.note_id} is not in Anki; --force --only {card.content_id} makes it again"
        )
        return None, [*told, outcome(rendered, "missing", detail)]
    write = dict(zip(options.fields, rendered.fields, strict=True))
    return Step(rendered, card, None, False, write, (), True, rendered.hash), told


def _of_note(
    rendered: Rendered,
    card: Card | None,
    note: Note,
    intended: Sequence[str],
    options: Options,
    *,
    adopted: bool,
) -> tuple[Step | None, list[Outcome]]:
    """What the note of a content needs."""
    tagged = has_tag(note.tags, tag_of(rendered.content_id))
    others = contents_of(note.tags)
    if others and not tagged:
        detail = f"note {note.id} says that it is of content {others[0]}"
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
    for at, name in enumerate(options.fields):
        now, wanted = digest(note.fields[name]), rendered.hash.fields[at]
        known = before.fields[at] if before else UNKNOWN
        if now == wanted or now in [each.fields[at] for each in ours if each] or options.force:
            digests.append(wanted)
            if now != wanted:
                write[name] = rendered.fields[at]
        else:
            digests.append(known)
            names.append(name)
            why = "the learner edited it" if known != UNKNOWN else "what was exported is not known"
            kept.append(outcome(rendered, "kept", f"{name} of note {note.id}: {why}"))
    exported = ExportHash(tuple(digests), rendered.hash.media)
    step = Step(rendered, card, note.id, adopted, write, tuple(names), tagged, exported)
    return step, kept
