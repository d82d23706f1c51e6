"""Quarantine as a file that a person can mend: CSV or JSON, by the file's name."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.core.errors import OverrideError
from pipeline.move.ledger.overrides import FIELDS

csv.field_size_limit(2**31 - 1)  # a BLOB is one field


def write(path: Path, records: Iterable[dict[str, str]]) -> int:
    """Write records; returns how many.

    Raises:
        OverrideError: the file exists, is named neither .csv nor .json, or cannot be written.
    """
    form, written = _form(path), list(records)
    try:
        # They hold what the databases guard by their own rights.
        path.touch(mode=0o600, exist_ok=False)
        if form == ".json":
            path.write_text(json.dumps(written, ensure_ascii=False, indent=1), encoding="utf-8")
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(written)
    except FileExistsError:
        raise OverrideError(
            f"{path} is there already, and may hold what somebody mended",
            remedy="Name another file, or remove it",
        ) from None
    except OSError as error:
        raise OverrideError(
            f"{path} cannot be written ({error.strerror})", remedy="Name another"
        ) from error
    return len(written)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read records back.

    Raises:
        OverrideError: the file is missing, or not of the form that ``write`` gives it.
    """
    again = "Export quarantine again, and mend that file"
    try:
        # Line ends within values stay as they are.
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
        if _form(path) == ".json":
            records = json.loads(text)
        else:
            records = list(csv.DictReader(io.StringIO(text, newline="")))
    except OSError as error:
        raise OverrideError(
            f"{path} cannot be read ({error.strerror})", remedy="Name the file"
        ) from error
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise OverrideError(f"{path} is not as it was exported ({error})", remedy=again) from error
    needed = {"table", "row_id", "column", "storage", "value"}
    for number, record in enumerate(records if isinstance(records, list) else [None], start=1):
        if not isinstance(record, dict) or not needed <= record.keys():
            raise OverrideError(
                f"{path}: record {number} lacks one of {', '.join(sorted(needed))}", remedy=again
            )
        yield record


def _form(path: Path) -> str:
    if path.suffix.lower() not in (".csv", ".json"):
        raise OverrideError(f"{path} is named neither .csv nor .json", remedy="Name it so")
    return path.suffix.lower()
