"""Write a database on Turso where it is: one request, which is one transaction.

Statements are tried on the file that follows it, then sent together, over the protocol that its own
clients speak (Hrana over HTTP, ``/v2/pipeline``). Each runs only if the one before it did, COMMIT
only if all did; so they all take effect, or none. Triggers hold there whoever writes.
"""

import base64
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from pipeline.core.errors import SourceError
from pipeline.sqlite import opening
from pipeline.sqlite.origin import TOKEN, Remote
from pipeline.sqlite.replica import Lost
from pipeline.sqlite.snapshot import BUSY_SECONDS, unreadable

REQUEST_BYTES = 64 * 2**20
"""What is written at once may be so large; it is one request."""

_SECONDS = 120.0
_WRITES = ("CREATE", "DROP", "INSERT", "UPDATE", "DELETE", "REPLACE")


@dataclass(frozen=True)
class Primary:
    """A database on Turso that is written.

    Attributes:
        origin: the server.
        refresh: lets the file follow.
    """

    origin: Remote
    refresh: Callable[[], object]

    @contextmanager
    def writing(self, file: Path, *, why: str) -> Iterator[sqlite3.Connection]:
        """One transaction at the primary, and then the file follows; an exception undoes it.

        Args:
            file: follows the primary.
            why: what needs that, for people.

        Raises:
            SourceError: the primary refuses it; it is as it was.
            Transient: it did not answer; whether it wrote is not known.
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
        shown = self.origin.shown
        token = self.origin.token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        body = {"baton": None, "requests": [{"type": "batch", "batch": {"steps": _steps(writes)}}]}
        client = httpx.Client(timeout=_SECONDS, headers=headers)
        with client:
            request = client.build_request("POST", f"{self.origin.url}/v2/pipeline", json=body)
            if len(request.content) > REQUEST_BYTES:
                raise SourceError(
                    f"What {why} writes to {shown} has {len(request.content) / 2**20:,.0f} MiB,"
                    f" more than the {REQUEST_BYTES / 2**20:.0f} of one request",
                    remedy="Write the larger rows there by hand first, then run again",
                )
            try:
                answer = client.send(request)
            except httpx.HTTPError as error:
                raise Lost(
                    f"{shown} did not answer while it was written ({type(error).__name__}), so"
                    f" whether {why} took effect is not known",
                    remedy="Run again: what is there already is not written twice",
                ) from None
        _require_done(answer, shown, why)


def _steps(writes: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A batch in which each step needs the one before it; the last one undoes what did not end."""
    # Rows come in an order in which they need not have their parents yet.
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


def _require_done(answer: httpx.Response, shown: str, why: str) -> None:
    """Refuse an answer that does not say that COMMIT was executed."""
    if answer.status_code in (401, 403):
        raise SourceError(
            f"{shown} refuses the token for writing, which {why} needs",
            remedy=f"Make one that is not read-only, and set it as {TOKEN}",
        )
    if answer.status_code != httpx.codes.OK:
        kind = Lost if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR else SourceError
        raise kind(
            f"{shown} did not take what {why} writes (HTTP {answer.status_code})",
            remedy="Run again in a while",
        )
    try:
        result = answer.json()["results"][0]
        if result["type"] != "ok":
            said = [str(result["error"]["message"])]
            done = False
        else:
            batch = result["response"]["result"]
            said = [str(error["message"]) for error in batch["step_errors"] if error]
            done = batch["step_results"][-2] is not None
    except (ValueError, LookupError, TypeError):
        said, done = ["its answer is not understood"], False
    if done and not said:
        return
    locked = any(word in " ".join(said).lower() for word in ("locked", "busy"))
    raise (Lost if locked else SourceError)(
        f"{shown} did not take what {why} writes: {said[0] if said else 'nothing was committed'}",
        remedy="Nothing was changed there; run again once that is mended",
    )


class _Trial(sqlite3.Connection):
    """A connection that remembers what it wrote, as it is sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.writes: list[dict[str, Any]] = []

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        done = super().execute(sql, parameters)
        if sql.lstrip().upper().startswith(_WRITES):
            args = [_value(each) for each in parameters]
            self.writes.append({"sql": sql, "args": args} if args else {"sql": sql})
        return done

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        for each in parameters:
            self.execute(sql, each)
        return self.cursor()


def _value(value: Any) -> dict[str, Any]:
    """A value as the protocol writes it, with its storage class."""
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
        f"The number {value} cannot be sent to a database on Turso",
        remedy="Change it in the target, then run again",
    )
