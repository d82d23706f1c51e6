"""How many connections a run opens, and how many the server still lets this user open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.quoting import quoted
from pipeline.core.server_errors import CONNECTIONS_OF_A_RUN

_LIMITS = """
WITH me AS (SELECT oid, rolname, rolconnlimit, rolsuper FROM pg_roles WHERE rolname = session_user)
SELECT 'role', rolname::text, rolconnlimit,
       (SELECT count(*) FROM pg_stat_activity WHERE usesysid = me.oid)
FROM me WHERE rolconnlimit >= 0 AND NOT rolsuper
UNION ALL
SELECT 'database', d.datname::text, datconnlimit, numbackends
FROM pg_database AS d JOIN pg_stat_database AS s ON s.datid = d.oid, me
WHERE d.datname = current_database() AND datconnlimit >= 0 AND NOT rolsuper
UNION ALL
SELECT 'server', '', current_setting('max_connections')::int - (
         SELECT sum(setting::int) FROM pg_settings WHERE name IN
         ('superuser_reserved_connections', 'reserved_connections')),
       (SELECT sum(numbackends) FROM pg_stat_database)
"""
AS_JSON = (
    "(SELECT json_agg(json_build_array(kind, name, most, used))"
    f" FROM ({_LIMITS}) AS limits (kind, name, most, used))"
)
"""An SQL expression for the argument of ``tightest_of``."""
_REMEDIES = {
    "role": "run ALTER ROLE {name} CONNECTION LIMIT {needed}",
    "database": "run ALTER DATABASE {name} CONNECTION LIMIT {needed}",
    "server": "raise max_connections",
}


@dataclass(frozen=True)
class Limit:
    """A limit of connections: of the role, the database or the server.

    Attributes:
        of: the object that has the limit, for messages.
        most: connections that it allows.
        free: unused connections; the querying connection counts as unused.
        needed: connections that a run opens.
        remedy: what to do if these are too few.
    """

    of: str
    most: int
    free: int
    needed: int
    remedy: str

    @property
    def enough(self) -> bool:
        """Whether a run can open all connections that it needs."""
        return self.free >= self.needed

    @property
    def detail(self) -> str:
        """The figures, for messages."""
        return (
            f"{self.of} allows {self.most:,} connections, {self.free:,} are free; a run needs"
            f" {self.needed}"
        )


def tightest(
    ask: Callable[[str], Sequence[Sequence[Any]]], *, needed: int = CONNECTIONS_OF_A_RUN
) -> Limit:
    """The limit that leaves the fewest connections; the querying one is closed before a run."""
    return tightest_of(ask(_LIMITS), needed=needed)


def tightest_of(rows: Sequence[Sequence[Any]], *, needed: int) -> Limit:
    """The limit that leaves the fewest connections, of limits that a query has found."""
    return min((_limit(*row, needed=needed) for row in rows), key=lambda limit: limit.free)


def _limit(kind: str, name: str, most: int, used: int, *, needed: int) -> Limit:
    free = int(most) - int(used) + 1
    remedy = _REMEDIES[kind].format(name=quoted(name), needed=int(used) - 1 + needed)
    of = f"{kind} {name}" if name else f"the {kind}"
    return Limit(of, int(most), max(free, 0), needed, f"End other sessions, or {remedy}")
