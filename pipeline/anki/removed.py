"""Notes whose content was deleted: they are reported, marked or suspended, never deleted."""

from collections.abc import Callable, Collection, Mapping

from pipeline.anki.outcomes import Options, Outcome, Report
from pipeline.anki.store.errors import AnkiError
from pipeline.anki.store.notes import REMOVED, SKIP, SUSPENDED, Anki, has_tag

_DETAILS = {"report": "left unchanged", "tag": f"tagged {REMOVED}", "suspend": "suspended"}


def process(
    anki: Anki,
    notes: Mapping[int, int],
    *,
    existing: Collection[int],
    quarantined: Collection[int],
    skipped: Collection[int | None],
    options: Options,
    report: Report,
    before_write: Callable[[], None],
) -> set[int]:
    """Process notes whose content was deleted, and marked notes whose content is back.

    Args:
        anki: an open Anki.
        notes: note id -> content id; some notes may no longer exist.
        existing: ids of all contents.
        quarantined: ids of quarantined contents.
        skipped: notes that must not be changed.
        options: of the sync.
        report: receives the outcomes.
        before_write: is called before notes are changed; it may refuse.

    Returns:
        The notes that are marked now, or would be.

    Raises:
        AnkiError: the share of notes to mark exceeds the limit; no note was marked.
    """
    marked = set(anki.find(REMOVED))
    suspending = options.removed == "suspend"
    done = set(anki.find(SUSPENDED)) if suspending and marked else marked
    back = {number: notes[number] for number in sorted(marked) if notes.get(number) in existing}
    if back:
        before_write()
    _restore(anki, back, options=options, report=report)
    # Only notes of deleted contents are read.
    deleted = anki.notes(
        {number for number, content_id in notes.items() if content_id not in existing}
    )
    to_mark, still_marked = [], set()
    for number, note in sorted(deleted.items()):
        content_id = notes[number]
        if content_id in quarantined:
            detail = f"note {number}: its content is in quarantine"
            report.add(Outcome(content_id, "", "waiting", detail))
        elif number in skipped or has_tag(note.tags, SKIP):
            detail = f"note {number}: it has the tag {SKIP}; its content was deleted"
            report.add(Outcome(content_id, "", "switched off", detail))
        elif number in done:
            still_marked.add(number)
            detail = f"note {number}: already marked {REMOVED}"
            report.add(Outcome(content_id, "", "removed", detail))
        else:
            to_mark.append(number)
            detail = f"note {number}: {_DETAILS[options.removed]}"
            report.add(Outcome(content_id, "", "removed", detail))
    if options.removed == "report":
        return still_marked
    if to_mark:
        before_write()
    if to_mark and not options.dry_run:
        _mark(anki, to_mark, total=len(notes), options=options)
    return still_marked | set(to_mark)


def _mark(anki: Anki, numbers: Collection[int], *, total: int, options: Options) -> None:
    if len(numbers) > options.removed_share * total:
        raise AnkiError(
            f"The contents of {len(numbers)} of {total} notes were deleted, more than"
            f" MAX_DELETE_SHARE ({options.removed_share:g}) allows; no note was marked",
            remedy="Check that this is the right target; if it is, raise MAX_DELETE_SHARE",
        )
    if options.removed == "suspend":
        anki.suspend(numbers)
    # Tags come last, because tagged notes are not processed again.
    anki.tag(dict.fromkeys(numbers, REMOVED))
    if options.removed == "suspend":
        anki.tag(dict.fromkeys(numbers, SUSPENDED))


def _restore(anki: Anki, back: Mapping[int, int], *, options: Options, report: Report) -> None:
    """Remove the marks of notes whose content is back: note id -> content id."""
    if back and not options.dry_run:
        anki.untag(list(back), (SUSPENDED, REMOVED))
    for number, content_id in back.items():
        detail = f"note {number}: its content is back; suspended cards stay suspended"
        report.add(Outcome(content_id, "", "restored", detail))
