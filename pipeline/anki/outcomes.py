"""What a sync with Anki is to do, and what it did: values, told to people elsewhere."""

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
    "removed",
    "waiting",
    "restored",
    "failed",
]
ACTIONS: tuple[Action, ...] = get_args(Action)
CONFIRMED: tuple[Action, ...] = ("created", "updated", "adopted")
"""What Anki has taken, and the cards know."""


@dataclass(frozen=True)
class Options:
    """What a sync is to do.

    Attributes:
        deck: where notes go whose content has no card yet.
        note_type: of new notes.
        fields: names of its fields for front and back.
        ids: only these contents; None for all.
        dry_run: change nothing, tell what would be.
        force: write what rendering gives now, also over a learner's edits, and make notes again
            that were deleted in Anki.
        removed: notes of contents that are not there any more are only reported, get the tag
            ``sync::removed``, or get it and are suspended.
        create_decks: make decks that Anki does not have.
        recordings: compare the bytes of all recordings, not only of those whose content changed.
        removed_share: of all notes no larger share is marked or suspended in one run.
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


@dataclass(frozen=True)
class Outcome:
    """What became of a content, or would.

    Attributes:
        content_id: which.
        title: what people call it; empty where it is not there any more.
        action: what happened.
        detail: what exactly, and why.
    """

    content_id: int
    title: str
    action: Action
    detail: str


@dataclass
class Report:
    """What a sync did, or would do.

    Attributes:
        outcomes: of the contents that needed something.
        counts: action -> contents; those that needed nothing were skipped.
        media_files: recordings that were stored, or would be.
        media_bytes: the size of those that were.
        seconds: how long it took.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    counts: Counter[Action] = field(default_factory=Counter)
    media_files: int = 0
    media_bytes: int = 0
    seconds: float = 0.0

    def add(self, *outcomes: Outcome) -> None:
        """Note what became of contents."""
        self.outcomes += outcomes
        self.counts.update(outcome.action for outcome in outcomes)
