"""Notes whose content is not there any more: told, marked or suspended, never deleted."""

from collections.abc import Collection, Mapping

from pipeline.anki.notes import REMOVED, Anki
from pipeline.anki.outcomes import Options, Outcome, Report

_TOLD = {"report": "left as it is", "tag": f"tagged {REMOVED}", "suspend": "suspended"}


def see_to(
    anki: Anki,
    notes: Mapping[int, int],
    *,
    there: Collection[int],
    waiting: Collection[int],
    options: Options,
    report: Report,
) -> None:
    """Look after notes whose content is gone, and after marked ones whose content is back.

    Args:
        anki: open.
        notes: id -> id of the content that it is of.
        there: the contents that there are.
        waiting: contents that the source has and the target could not take.
        options: what is to be done.
        report: where it is told.
    """
    marked = set(anki.find(REMOVED))
    for number, content_id in sorted(notes.items()):
        if content_id in there:
            if number in marked:
                _restore(anki, number, content_id, options=options, report=report)
        elif content_id in waiting:
            detail = f"note {number}: its content waits in quarantine"
            report.add(Outcome(content_id, "", "waiting", detail))
        elif number in marked:
            detail = f"note {number}: marked {REMOVED} before"
            report.add(Outcome(content_id, "", "removed", detail))
        else:
            _mark(anki, number, content_id, options=options, report=report)


def _mark(anki: Anki, number: int, content_id: int, *, options: Options, report: Report) -> None:
    if not options.dry_run and options.removed == "suspend":
        anki.suspend([number])
    if not options.dry_run and options.removed != "report":
        # The mark comes last: who has it is not looked at again.
        anki.tag([number], REMOVED)
    detail = f"note {number}: {_TOLD[options.removed]}"
    report.add(Outcome(content_id, "", "removed", detail))


def _restore(anki: Anki, number: int, content_id: int, *, options: Options, report: Report) -> None:
    if not options.dry_run:
        anki.untag([number], REMOVED)
    detail = f"note {number}: its content is back; what was suspended stays so"
    report.add(Outcome(content_id, "", "restored", detail))
