"""The decks of new notes: they exist before the notes, and have the notes afterwards."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence

from pipeline.anki.store.errors import AnkiError
from pipeline.anki.store.notes import Anki, Note
from pipeline.core.errors import SettingsError


def make_ready(
    anki: Anki,
    *,
    decks: Collection[str],
    note_type: str,
    fields: Sequence[str],
    create_decks: bool,
) -> list[str]:
    """Make sure that note type and fields for new notes exist.

    Returns:
        The decks that are missing.

    Raises:
        AnkiError: the note type or one of its fields is missing; or a deck is, and
            ``create_decks`` does not permit to create it.
        SettingsError: a deck cannot have its name.
    """
    if any(not name.strip() or not _is_text(name) for name in decks):
        raise SettingsError(
            "The name of a deck is empty or no valid text",
            remedy="Correct ANKI_DECK, --deck, or deck_name of the cards",
        )
    existing = anki.field_names(note_type)
    if existing is None:
        raise AnkiError(
            f"{anki.shown} has no note type {note_type}",
            remedy="Set ANKI_NOTE_TYPE to an existing note type",
        )
    missing_fields = [name for name in fields if name not in existing]
    if missing_fields:
        raise AnkiError(
            f"The note type {note_type} of {anki.shown} has no field {', '.join(missing_fields)}",
            remedy=f"Set ANKI_FIELDS to two of {', '.join(existing)}",
        )
    known = set(map(folded, anki.decks()))
    missing = sorted({name for name in decks if folded(name) not in known})
    if missing and not create_decks:
        raise AnkiError(
            f"{anki.shown} has no deck {', '.join(missing)}",
            remedy="Create it in Anki, correct ANKI_DECK, or run with --create-deck",
        )
    return missing


def require_unfiltered(anki: Anki, decks: Collection[str]) -> None:
    """Refuse filtered decks, which only borrow cards of other decks.

    Raises:
        AnkiError: a deck is filtered.
    """
    if filtered := sorted(anki.filtered(decks)):
        raise AnkiError(
            f"The deck {', '.join(filtered)} of {anki.shown} is a filtered deck, which takes no"
            " new notes",
            remedy="Set ANKI_DECK, or the deck of the card, to another deck",
        )


def place(anki: Anki, notes: Mapping[int, Note], decks: Mapping[int, str]) -> dict[int, str]:
    """Move the cards of new notes to their decks, where Anki put them into others.

    Earlier versions of AnkiConnect may create a note in the deck that Anki used last. A deck that
    was renamed or deleted meanwhile is not created again.

    Args:
        anki: an open Anki.
        notes: the notes by id.
        decks: note id -> deck.

    Returns:
        Notes that are in another deck nevertheless: note id -> that deck.
    """
    wanted = {card: deck for number, deck in decks.items() for card in notes[number].cards}
    wrong = _misplaced(anki, wanted)
    if not wrong:
        return {}
    existing = {folded(name): name for name in anki.decks()}
    for deck in sorted({wanted[card] for card in wrong} & {*wanted.values()}):
        if folded(deck) in existing:
            cards = [card for card in wrong if wanted[card] == deck]
            anki.move(cards, existing[folded(deck)])
    left = _misplaced(anki, {card: wanted[card] for card in wrong})
    return {number: left[card] for number in decks for card in notes[number].cards if card in left}


def _misplaced(anki: Anki, wanted: Mapping[int, str]) -> dict[int, str]:
    """Cards that are in another deck: card -> that deck."""
    found = anki.decks_of(wanted)
    return {card: deck for card, deck in found.items() if folded(deck) != folded(wanted[card])}


def _is_text(name: str) -> bool:
    """Whether a name from the command line is UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def folded(name: str) -> str:
    """A deck's name as Anki compares it."""
    parts = unicodedata.normalize("NFC", name).split("::")
    shown = ("".join(letter for letter in part if letter >= " ").strip() for part in parts)
    return "::".join(part or "blank" for part in shown).lower()
