"""Notes whose content is not there any more: told, marked or suspended, never deleted."""

from collections.abc import Collection, Mapping

from pipeline.anki.outcomes import Options, Outcome, Report
from pipeline.anki.store.errors import AnkiError
from pipeline.anki.store.notes import REMOVED, SKIP, SUSPENDED, Anki, has_tag

_TOLD = {"report": "left as it is", "tag": f"tagged {REMOVED}", "suspend": "suspended"}


def see_to(
    anki: Anki,
    notes: Mapping[int, int],
    *,
    there: Collection[int],
    waiting: Collection[int],
    off: Collection[int | None],
    options: Options,
    report: Report,
) -> set[int]:
    """Look after notes whose content is gone, and after marked ones whose content is back.

    Args:
        anki: open.
        notes: id -> id of the content that it is of; Anki may have lost some of them.
        there: the contents that there are.
        waiting: contents that the source has and the target could not take.
        off: notes that are to be left as they are.
        options: what is to be done.
        report: where it is told.

    Returns:
        the notes that are marked now, or would be.

    Raises:
        AnkiError: a larger share of the notes would be marked than may be; none was.
    """
    marked = set(anki.find(REMOVED))
    suspending = options.removed == "suspend"
    done = set(anki.find(SUSPENDED)) if suspending and marked else marked
    for number in sorted(marked):
        if notes.get(number) in there:
            _restore(anki, number, notes[number], options=options, report=report)
    # The contents of a whole collection may be gone: only then are many notes looked at.
    gone = anki.notes({number for number, content_id in notes.items() if content_id not in there})
    to_mark, bearing = [], set()
    for number, note in sorted(gone.items()):
        content_id = notes[number]
        if content_id in waiting:
            detail = f"note {number}: its content waits in quarantine"
            report.add(Outcome(content_id, "", "waiting", detail))
        elif number in off or has_tag(note.tags, SKIP):
            detail = f"note {number}: it has the tag {SKIP}; its content is gone"
            report.add(Outcome(content_id, "", "switched off", detail))
        elif number in done:
            bearing.add(number)
            detail = f"note {number}: marked {REMOVED} before"
            report.add(Outcome(content_id, "", "removed", detail))
        else:
            to_mark.append(number)
            detail = f"note {number}: {_TOLD[options.removed]}"
            report.add(Outcome(content_id, "", "removed", detail))
    if options.removed == "report":
        return bearing
    if to_mark and not options.dry_run:
        _mark(anki, to_mark, of=len(notes), options=options)
    return bearing | set(to_mark)


def _mark(anki: Anki, numbers: Collection[int], *, of: int, options: Options) -> None:
    if len(numbers) > options.removed_share * of:
        raise AnkiError(
            f"The contents of {len(numbers)} of {of} notes are gone, more than a share of"
            f" {options.removed_share:g}; no note was marked",
            remedy="See whether this is the right target, or raise MAX_DELETE_SHARE",
        )
    if options.removed == "suspend":
        anki.suspend(numbers)
    # The marks come last: who has them is not looked at again.
    anki.tag(dict.fromkeys(numbers, REMOVED))
    if options.removed == "suspend":
        anki.tag(dict.fromkeys(numbers, SUSPENDED))


def _restore(anki: Anki, number: int, content_id: int, *, options: Options, report: Report) -> None:
    if not options.dry_run:
        for tag in (SUSPENDED, REMOVED):
            anki.untag([number], tag)
    detail = f"note {number}: its content is back; what was suspended stays so"
    report.add(Outcome(content_id, "", "restored", detail))
