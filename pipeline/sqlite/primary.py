"""Writing of a database on Turso: one request, which is one transaction.

Statements are first tried on the copy and then sent in one batch over Turso's client protocol
(Hrana over HTTP, ``/v2/pipeline``). Each statement runs only if the previous one succeeded, COMMIT
only if all did; so either all take effect or none. Triggers on Turso fire for every writer.
"""

import base64
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.core.errors import SourceError
from pipeline.sqlite import opening
from pipeline.sqlite.catalog.faults import unreadable
from pipeline.sqlite.origin import TOKEN, Remote
from pipeline.sqlite.replica import Lost
from pipeline.sqlite.snapshot import BUSY_SECONDS

if TYPE_CHECKING:
    import httpx

REQUEST_BYTES = 64 * 2**20
"""The largest size of a transaction, which is one request."""

_SECONDS = 120.0
_WRITES = ("CREATE", "DROP", "INSERT", "UPDATE", "DELETE", "REPLACE")


@dataclass(frozen=True)
class Primary:
    """A database on Turso that can be written.

    Attributes:
        refresh: updates the copy.
    """

    origin: Remote
    refresh: Callable[[], object]

    @contextmanager
    def writing(self, file: Path, *, why: str) -> Iterator[sqlite3.Connection]:
        """Run a transaction on the primary and then update the copy; an exception rolls back.

        ``why`` is the reason in messages.

        Raises:
            SourceError: the primary rejected the transaction; it did not change.
            Transient: the primary did not respond; whether it committed is unknown.
        """
        self.refresh()
        try:
            opened = opening.connect(
                file, "rw", timeout=BUSY_SECONDS, isolation_level=None, factory=_Trial
            )
            with closing(cast(_Trial, opened)) as trial:
                trial.execute("BEGIN IMMEDIATE")
                try:
                    yield trial
                finally:
                    trial.execute("ROLLBACK")
        except opening.UNREADABLE as error:
            raise unreadable(file, error) from error
        if trial.writes:
            self._send(trial.writes, why=why)
            self.refresh()

    def _send(self, writes: list[dict[str, Any]], *, why: str) -> None:
        # It takes a tenth of a second to import, and few commands write to Turso.
        import httpx

        shown = self.origin.shown
        token = self.origin.token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        body = {"baton": None, "requests": [{"type": "batch", "batch": {"steps": _steps(writes)}}]}
        client = httpx.Client(timeout=_SECONDS, headers=headers)
        with client:
            request = client.build_request("POST", f"{self.origin.url}/v2/pipeline", json=body)
            if len(request.content) > REQUEST_BYTES:
                raise SourceError(
                    f"The transaction for {why} has {len(request.content) / 2**20:,.0f} MiB, more"
                    f" than the limit of {REQUEST_BYTES / 2**20:.0f} MiB per request to {shown}",
                    remedy="Write the larger rows there manually first, then run again",
                )
            try:
                answer = client.send(request)
            except httpx.HTTPError as error:
                raise Lost(
                    f"{shown} did not respond to a write ({type(error).__name__}), so it is unknown"
                    f" whether {why} took effect",
                    remedy="Run again; existing rows are not written twice",
                ) from None
        _require_done(answer, shown, why)


def _steps(writes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A batch whose steps each require the previous one; the last step rolls back on failure."""
    # A row may come before its parent.
    plain = [{"sql": sql} for sql in ("PRAGMA foreign_keys = OFF", "BEGIN IMMEDIATE")]
    steps: list[dict[str, Any]] = []
    for statement in (*plain, *writes, {"sql": "COMMIT"}):
        step: dict[str, Any] = {"stmt": {**statement, "want_rows": False}}
        if steps:
            step["condition"] = _ok(len(steps) - 1)
        steps.append(step)
    not_done = {"type": "not", "cond": _ok(len(steps) - 1)}
    undo = {"type": "and", "conds": [_ok(1), not_done]}
    return [*steps, {"stmt": {"sql": "ROLLBACK", "want_rows": False}, "condition": undo}]


def _ok(step: int) -> dict[str, Any]:
    return {"type": "ok", "step": step}


def _require_done(answer: "httpx.Response", shown: str, why: str) -> None:
    """Reject a response that does not confirm the COMMIT."""
    if answer.status_code in (401, 403):
        raise SourceError(
            f"{shown} does not accept the token for writing, which {why} requires",
            remedy=f"Create a token that is not read-only, and set {TOKEN} to it",
        )
    if answer.status_code != HTTPStatus.OK:
        kind = Lost if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR else SourceError
        raise kind(
            f"{shown} rejected the write for {why} (HTTP {answer.status_code})",
            remedy="Wait a few minutes and run again",
        )
    try:
        result = answer.json()["results"][0]
        if result["type"] != "ok":
            errors = [str(result["error"]["message"])]
            committed = False
        else:
            batch = result["response"]["result"]
            errors = [str(error["message"]) for error in batch["step_errors"] if error]
            committed = batch["step_results"][-2] is not None
    except (ValueError, LookupError, TypeError):
        errors, committed = ["its response cannot be parsed"], False
    if committed and not errors:
        return
    locked = any(word in " ".join(errors).lower() for word in ("locked", "busy"))
    raise (Lost if locked else SourceError)(
        f"{shown} rejected the write for {why}: {errors[0] if errors else 'nothing was committed'}",
        remedy="Nothing was changed there; fix the cause and run again",
    )


class _Trial(sqlite3.Connection):
    """A connection that records its writes in the form of the protocol."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.writes: list[dict[str, Any]] = []

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        cursor = super().execute(sql, parameters)
        if sql.lstrip().upper().startswith(_WRITES):
            args = [_value(each) for each in parameters]
            self.writes.append({"sql": sql, "args": args} if args else {"sql": sql})
        return cursor

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        for each in parameters:
            self.execute(sql, each)
        return self.cursor()


def _value(value: Any) -> dict[str, Any]:
    """A value in the form of the protocol, with its storage class."""
    match value:
        case None:
            return {"type": "null"}
        case int():
            return {"type": "integer", "value": str(value)}
        case float() if math.isfinite(value):
            return {"type": "float", "value": value}
        case str():
            return {"type": "text", "value": value}
        case bytes():
            return {"type": "blob", "base64": base64.b64encode(value).decode()}
    raise SourceError(
        f"The number {value} cannot be written to a database on Turso",
        remedy="Change it in the target, then run again",
    )
