"""Compare cards, notes and recordings with the contents, independently of a sync."""

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy.orm import Session

from pipeline.anki import cards, contents, outcomes
from pipeline.anki.cards import Card
from pipeline.anki.findings import (
    AllNotesMissing,
    CardWithoutContent,
    ExportOutdated,
    NotConfirmed,
    NoteEdited,
    NoteMissing,
    NoteReverted,
    NoteUntagged,
    Problem,
    RecordingWrong,
    SeveralCards,
)
from pipeline.anki.ledger import pending_writes
from pipeline.anki.outcomes import Report
from pipeline.anki.rendering import ExportHash, Renderer, digest, sound_files
from pipeline.anki.store.notes import REMOVED, SKIP, Anki, Note, content_tag, has_tag
from pipeline.application.manager import HybridDatabaseManager
from pipeline.core.findings import OFFENDERS, CheckResult, Finding

CONFIRMED = "confirmed"
CARD_CHECKS = ("content_exists", "one_card", "export_hash")
NOTE_CHECKS = ("note_exists", "edited", "recordings")

_SWITCHED_OFF = f"the tag {SKIP} keeps the note as it is"
_NOT_OURS = "it is no recording of a content"


def of_cards(
    manager: HybridDatabaseManager, renderer: Renderer, fields: Sequence[str]
) -> list[CheckResult]:
    """Compare the cards in SQLite with the contents in PostgreSQL.

    Raises:
        PipelineError: a database does not answer, or a template cannot be used.
    """
    with manager.get_sqlite_session() as session:
        found = cards.read(session)
    with manager.get_postgres_session(snapshot=True) as session:
        existing = contents.ids(session)
        return [
            _content_exists(found, existing, contents.in_quarantine(session)),
            _one_card(found, existing),
            _export_hash(found, session, renderer, fields),
        ]


def of_notes(
    manager: HybridDatabaseManager,
    anki: Anki,
    fields: Sequence[str],
    *,
    sample: int | None = None,
    seed: int = 0,
) -> list[CheckResult]:
    """Compare the notes in Anki and their recordings with cards and contents.

    Args:
        manager: both databases.
        anki: an open Anki.
        fields: names of a note's fields.
        sample: the number of recordings whose bytes are compared, None for all; the existence of
            every recording is checked.
        seed: selects the sample.

    Raises:
        PipelineError: a database or Anki does not answer.
    """
    with manager.get_sqlite_session() as session:
        exported = [card for card in cards.read(session) if card.note_id is not None]
    off = {card.note_id for card in exported if has_tag(card.tags, SKIP)}
    notes = anki.notes({card.note_id for card in exported if card.note_id is not None})
    with manager.get_postgres_session(snapshot=True) as session:
        existing, earlier = contents.ids(session), pending_writes.read(session)
        off |= {note.id for note in notes.values() if has_tag(note.tags, SKIP)}
        compared = _recordings(notes, off, session, anki, sample=sample, seed=seed)
    expected = [card for card in exported if card.content_id in existing]
    lost = expected and not any(card.note_id in notes for card in expected)
    profile = anki.profile() if lost else None
    where = f"{anki.shown}, profile {profile}" if profile else anki.shown
    all_missing = [AllNotesMissing(len(expected), where)] if lost else []
    return [
        _note_exists(exported, notes, off, all_missing),
        _edited(exported, notes, fields, earlier),
        compared,
    ]


def confirmed(report: Report, *, dry_run: bool) -> CheckResult:
    """Whether Anki confirmed everything that a sync wrote, or would have written."""
    failed = [
        NotConfirmed(outcome.content_id, outcome.detail)
        for outcome in report.outcomes
        if outcome.action == "failed"
    ]
    written = sum(report.counts[action] for action in outcomes.CONFIRMED)
    return result(CONFIRMED, failed, {"intended" if dry_run else "written": written})


def result(
    name: str, findings: Collection[Finding], figures: Mapping[str, int], *, blocking: bool = True
) -> CheckResult:
    """The result of a check: it lists some offenders and counts all."""
    offenders = {"offenders_in_all": len(findings)} if findings else {}
    return CheckResult(
        name, not findings, blocking, tuple(findings)[:OFFENDERS], {**figures, **offenders}
    )


def _content_exists(
    found: Sequence[Card], existing: Collection[int], quarantined: Collection[int]
) -> CheckResult:
    # Cards without a content, and cards of marked notes, are not reported.
    without = [
        (card, content)
        for card in found
        if (content := card.content_id) is not None and content not in existing
    ]
    unmarked = [
        CardWithoutContent(card.id, content, content in quarantined, has_tag(card.tags, SKIP))
        for card, content in without
        if not has_tag(card.tags, REMOVED)
    ]
    # No sync marks a card that is switched off.
    deleted = [finding for finding in unmarked if not (finding.waits or finding.switched_off)]
    figures = {
        "cards": len(found),
        "waiting_in_quarantine": sum(finding.waits for finding in unmarked),
        "marked_removed": len(without) - len(unmarked),
    }
    # Contents in quarantine are not lost; they come last.
    ordered = sorted(unmarked, key=lambda finding: finding.waits)
    return result("content_exists", ordered, figures, blocking=bool(deleted))


def _one_card(found: Sequence[Card], existing: Collection[int]) -> CheckResult:
    by_content = defaultdict(list)
    for card in found:
        if card.content_id in existing:
            by_content[card.content_id].append(card.id)
    several = [
        SeveralCards(content, tuple(ids))
        for content, ids in sorted(by_content.items())
        if content is not None and len(ids) > 1
    ]
    figures = {"contents": len(existing), "without_card": len(existing) - len(by_content)}
    return result("one_card", several, figures)


def _export_hash(
    found: Sequence[Card], session: Session, renderer: Renderer, fields: Sequence[str]
) -> CheckResult:
    all_cards = cards.by_content(found)
    exported = {number: card for number, card in all_cards.items() if card.note_id is not None}
    names = (*fields, "recordings")
    outdated: list[Finding] = []
    compared = 0
    for content in contents.read(session, exported.keys()):
        card, now = exported[content.id], renderer.render(content).hash
        before = ExportHash.parse(card.export_hash, fields=len(fields))
        pairs = zip(
            names,
            (*now.fields, now.media),
            (*before.fields, before.media) if before else [None] * len(names),
            strict=True,
        )
        compared += 1
        if parts := tuple(name for name, new, old in pairs if new != old):
            outdated.append(ExportOutdated(card.id, content.id, parts))
    # A field kept because of the learner's edits is not an error.
    return result("export_hash", outdated, {"compared": compared}, blocking=False)


def _note_exists(
    exported: Sequence[Card],
    notes: Mapping[int, Note],
    off: Collection[int | None],
    all_missing: Sequence[Finding],
) -> CheckResult:
    figures = {"cards": len(exported), "notes": len(notes)}
    if all_missing:
        return result("note_exists", all_missing, figures)
    wrong: list[Finding] = []
    for card in exported:
        note = notes.get(card.note_id or 0)
        if note is None:
            wrong.append(NoteMissing(card.id, card.note_id or 0))
        elif card.content_id is not None and not has_tag(note.tags, content_tag(card.content_id)):
            tag, kept = content_tag(card.content_id), note.id in off
            wrong.append(NoteUntagged(card.id, note.id, tag, kept))
    untagged = any(isinstance(each, NoteUntagged) and not each.switched_off for each in wrong)
    # A note that the learner deleted is reported, but is not an error.
    return result("note_exists", wrong, figures, blocking=untagged or not wrong)


def _edited(
    exported: Sequence[Card],
    notes: Mapping[int, Note],
    fields: Sequence[str],
    earlier: Mapping[int, Sequence[str]],
) -> CheckResult:
    wrong: list[Finding] = []
    compared = 0
    for card in exported:
        note = notes.get(card.note_id or 0)
        known = ExportHash.parse(card.export_hash, fields=len(fields))
        if note is None or known is None:
            continue
        compared += 1
        now = [digest(note.fields.get(name, "")) for name in fields]
        content = card.content_id or 0
        before = [ExportHash.parse(text, fields=len(fields)) for text in earlier.get(content, ())]
        old = [{each.fields[at] for each in before if each} for at in range(len(fields))]
        differ = [at for at, text in enumerate(now) if text != known.fields[at]]
        if reverted := tuple(fields[at] for at in differ if now[at] in old[at]):
            wrong.append(NoteReverted(card.id, note.id, content, reverted))
        if edited := tuple(fields[at] for at in differ if now[at] not in old[at]):
            wrong.append(NoteEdited(card.id, note.id, edited))
    return result("edited", wrong, {"compared": compared}, blocking=False)


def _recordings(
    notes: Mapping[int, Note],
    off: Collection[int | None],
    session: Session,
    anki: Anki,
    *,
    sample: int | None,
    seed: int,
) -> CheckResult:
    plays = [
        (note.id, name)
        for note in notes.values()
        for name in sorted({name for text in note.fields.values() for name in sound_files(text)})
    ]
    names = sorted({name for _, name in plays})
    existing = anki.media_names()
    missing = [name for name in names if name not in existing]
    if sample is not None and len(names) > sample:
        names = sorted(random.Random(seed).sample(names, sample))  # noqa: S311
    recorded = contents.recorded(session, {*names, *missing})
    wanted = {name: recorded[name].md5 for name in names if name in recorded}
    actual = anki.media({name: recorded[name].size for name in wanted})
    wrong = []
    for note, name in plays:
        if name not in existing or actual.get(name) != wanted.get(name):
            why = _SWITCHED_OFF if note in off else "" if name in recorded else _NOT_OURS
            problem: Problem = "different" if name in existing else "missing"
            wrong.append(RecordingWrong(note, name, problem, why))
    # What no sync can store again is reported, but is not an error.
    failed = any(not finding.kept for finding in wrong)
    ordered = sorted(wrong, key=lambda finding: bool(finding.kept))
    files = len({name for _, name in plays})
    figures = {"files": files, "compared": len(wanted)}
    return result("recordings", ordered, figures, blocking=failed or not wrong)
