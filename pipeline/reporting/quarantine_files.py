"""Export quarantine to a file for manual correction and read it back: CSV or JSON, by suffix."""

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
    """Write records; returns their number.

    Raises:
        OverrideError: the file exists, its suffix is neither .csv nor .json, or it cannot be
            written.
    """
    suffix, written = _suffix(path), list(records)
    try:
        # The values are protected by privileges in the databases, so the file is private.
        path.touch(mode=0o600, exist_ok=False)
        if suffix == ".json":
            path.write_text(json.dumps(written, ensure_ascii=False, indent=1), encoding="utf-8")
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                writer.writeheader()
                writer.writerows(written)
    except FileExistsError:
        raise OverrideError(
            f"{path} already exists and may contain corrections",
            remedy="Choose another file, or remove this one",
        ) from None
    except OSError as error:
        raise OverrideError(
            f"{path} cannot be written ({error.strerror})", remedy="Choose another file"
        ) from error
    return len(written)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read records back.

    Raises:
        OverrideError: the file cannot be read, or does not have the format of an export.
    """
    again = "Export quarantine again, and edit the new file"
    try:
        # newline="" preserves line ends within values.
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
        if _suffix(path) == ".json":
            records = json.loads(text)
        else:
            records = list(csv.DictReader(io.StringIO(text, newline="")))
    except OSError as error:
        raise OverrideError(
            f"{path} cannot be read ({error.strerror})", remedy="Use a file that an export wrote"
        ) from error
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise OverrideError(
            f"{path} does not have the format of an export ({error})", remedy=again
        ) from error
    needed = {"table", "row_id", "column", "storage", "value"}
    for number, record in enumerate(records if isinstance(records, list) else [None], start=1):
        if not isinstance(record, dict) or not needed <= record.keys():
            raise OverrideError(
                f"{path}: record {number} lacks one of {', '.join(sorted(needed))}", remedy=again
            )
        yield record


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in (".csv", ".json"):
        raise OverrideError(
            f"{path} ends neither in .csv nor in .json",
            remedy="Use a file whose name ends in .csv or .json",
        )
    return path.suffix.lower()
