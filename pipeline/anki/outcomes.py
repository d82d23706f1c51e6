"""Options and results of a sync with Anki, as values."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

Removed = Literal["report", "tag", "suspend"]
Action = Literal[
    "created",
    "updated",
    "adopted",
    "skipped",
    "switched off",
    "kept",
    "missing",
    "duplicate",
    "foreign",
    "removed",
    "waiting",
    "restored",
    "failed",
]
ACTIONS: tuple[Action, ...] = get_args(Action)
CONFIRMED: tuple[Action, ...] = ("created", "updated", "adopted")
"""Actions that Anki has confirmed and the cards record."""


@dataclass(frozen=True)
class Options:
    """Options of a sync.

    Attributes:
        deck: for notes of contents without a card.
        note_type: of new notes.
        fields: names of its fields for front and back.
        ids: only these contents; None for all.
        dry_run: change nothing and report what would change.
        force: overwrite a learner's edits, and recreate notes that were deleted in Anki.
        removed: notes of deleted contents are only reported, tagged ``sync::removed``, or tagged
            and suspended.
        create_decks: create missing decks.
        recordings: compare the bytes of all recordings, not only those of changed contents.
        removed_share: the largest share of all notes that one run may mark or suspend.
        accept_profile: the open profile is the right one although it has another name, lacks most
            notes, or has notes that would be adopted.
    """

    deck: str
    note_type: str = "Basic"
    fields: tuple[str, ...] = ("Front", "Back")
    ids: frozenset[int] | None = None
    dry_run: bool = False
    force: bool = False
    removed: Removed = "report"
    create_decks: bool = False
    recordings: bool = False
    removed_share: float = 1.0
    accept_profile: bool = False


@dataclass(frozen=True)
class Outcome:
    """What happened, or would happen, to a content; the title of a deleted content is empty."""

    content_id: int
    title: str
    action: Action
    detail: str


@dataclass
class Report:
    """What a sync did, or would do.

    Attributes:
        outcomes: of all contents that were not skipped.
        counts: contents by action, including skipped ones.
        media_files: recordings that were stored, or would be.
        media_bytes: size of the stored recordings.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    counts: Counter[Action] = field(default_factory=Counter)
    media_files: int = 0
    media_bytes: int = 0
    seconds: float = 0.0

    def add(self, *outcomes: Outcome) -> None:
        """Add outcomes and count their actions."""
        self.outcomes += outcomes
        self.counts.update(outcome.action for outcome in outcomes)

    def replace(self, old: Outcome, new: Outcome) -> None:
        """Correct an outcome."""
        self.outcomes[self.outcomes.index(old)] = new
        self.counts[old.action] -= 1
        self.counts[new.action] += 1
