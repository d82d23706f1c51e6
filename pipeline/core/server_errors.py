"""Known failures of a PostgreSQL server and of the connection to it: problem and remedy."""

import re
from dataclasses import dataclass

TRANSIENT_STATES = frozenset(
    {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300", "25P03"}
)

SESSION_STANDBY, SESSION_ENCODING, SESSION_SETTING = "PS001", "PS002", "PS003"
"""SQLSTATEs of this project, raised by ``session`` when a server's session cannot be used."""
SESSION_POOLER = "PS004"
"""Raised by ``session`` when the server session is not the connection's own."""
SESSION_REFUSALS = frozenset({SESSION_STANDBY, SESSION_ENCODING, SESSION_SETTING, SESSION_POOLER})

CONNECTIONS_OF_A_MOVE = 3
"""Two sessions for the move, and one that reads committed data."""
CONNECTIONS_OF_DAGSTER = 3
CONNECTIONS_OF_A_RUN = CONNECTIONS_OF_A_MOVE + CONNECTIONS_OF_DAGSTER
"""What a run opens if Dagster's records are in the target, too."""


@dataclass(frozen=True)
class ServerFailure:
    """A known failure.

    Attributes:
        pattern: matches the driver's text if the server sent no SQLSTATE, as while connecting;
            None for failures that always have a SQLSTATE.
        states: the SQLSTATEs of this failure.
        transient: the same call may succeed later, whatever its SQLSTATE.
    """

    pattern: str | None
    problem: str
    remedy: str
    states: frozenset[str] = frozenset()
    transient: bool = False

    def matches(self, text: str, state: str | None) -> bool:
        """Whether a driver's text and SQLSTATE describe this failure."""
        if state:
            return state in self.states
        return self.pattern is not None and re.search(self.pattern, text) is not None


def find_failure(text: str, state: str | None) -> ServerFailure | None:
    """The first known failure that a driver's text and SQLSTATE describe."""
    return next((each for each in _KNOWN if each.matches(text, state)), None)


_KNOWN = (
    ServerFailure(
        None,
        "the server is a read-only standby",
        "Set DATABASE_URL to the primary server",
        states=frozenset({SESSION_STANDBY}),
    ),
    ServerFailure(
        None,
        "the encoding of the database is not UTF8, so it cannot store every text",
        "Create a database with ENCODING 'UTF8' TEMPLATE template0 and set DATABASE_URL to it",
        states=frozenset({SESSION_ENCODING}),
    ),
    ServerFailure(
        None,
        "the server sets a parameter that moves do not support, and this user cannot change it",
        "Ask an administrator to reset it: ALTER ROLE ... RESET, ALTER DATABASE ... RESET, or"
        " postgresql.conf",
        states=frozenset({SESSION_SETTING}),
    ),
    ServerFailure(
        None,
        "a connection pooler in transaction mode answers, which gives the server's session to other"
        " clients between two transactions, so locks and settings are lost",
        "Use the direct connection, or a pooler in session mode (on Supabase port 5432)",
        states=frozenset({SESSION_POOLER}),
    ),
    ServerFailure(
        r"unsupported startup parameter",
        "a connection pooler rejects the settings of the connection request",
        "Use the direct connection; or, if the pooler is in session mode, let it ignore them"
        " (PgBouncer: ignore_startup_parameters = options)",
    ),
    ServerFailure(
        r"server does not support SSL",
        "sslmode requires encryption, which the server does not support",
        "Enable TLS on the server, or set sslmode=prefer on a trusted network",
    ),
    ServerFailure(
        r"no pg_hba\.conf entry.*no encryption|SSL connection is required",
        "the server rejects unencrypted connections of this user",
        "Add ?sslmode=require to DATABASE_URL, or allow this user and address in pg_hba.conf",
    ),
    ServerFailure(
        r"pg_hba\.conf",
        "the server rejects connections of this user from this address",
        "Allow the user, database and address in the server's pg_hba.conf, or in the network"
        " restrictions of its provider",
    ),
    ServerFailure(
        r"password authentication failed|no password supplied|role \".*\" does not exist"
        r"|is not permitted to log in|Tenant or user not found|authentication failed for user",
        "the server rejected the user or password",
        "Check the user and password in DATABASE_URL, and that the password has not expired",
        states=frozenset({"28P01", "28000"}),
    ),
    ServerFailure(
        r"database \".*\" does not exist",
        "the database does not exist",
        "Check the database name at the end of DATABASE_URL, or create the database",
        states=frozenset({"3D000"}),
    ),
    ServerFailure(
        r"is not currently accepting connections",
        "the database does not accept connections",
        "Allow them with ALTER DATABASE ... ALLOW_CONNECTIONS true, or use another database",
    ),
    ServerFailure(
        r"too many connections|too many clients|connection slots are reserved"
        r"|max clients reached|no more connections allowed",
        "no connection is free",
        f"A run needs {CONNECTIONS_OF_A_RUN}: end other sessions, or raise the limit of the role,"
        " of the database, of the server (max_connections) or of Supabase's pool (pool size)",
        states=frozenset({"53300"}),
        transient=True,
    ),
    ServerFailure(
        r"the database system is (?:starting up|shutting down|in recovery|not )",
        "the server is starting or stopping",
        "Wait until it accepts connections, then run again",
        states=frozenset({"57P03"}),
        transient=True,
    ),
    ServerFailure(
        r"in a read-only transaction",
        "the database is read-only",
        "If this is a standby, set DATABASE_URL to the primary; otherwise switch off"
        " default_transaction_read_only, which Supabase sets while the disk is nearly full",
        states=frozenset({"25006"}),
    ),
    ServerFailure(
        r"no schema has been selected",
        "schema public is missing, or this user cannot access it",
        "Create it, and grant the user USAGE and CREATE on it",
        states=frozenset({"3F000"}),
    ),
    ServerFailure(
        r"permission denied for database",
        "the user may not connect to the database",
        "Grant it: GRANT CONNECT ON DATABASE ... TO ...",
    ),
    ServerFailure(
        r"permission denied",
        "the user lacks a privilege",
        "Grant the user CREATE on the database, USAGE and CREATE on schema public, and ownership"
        " of the moved tables",
        states=frozenset({"42501"}),
    ),
    ServerFailure(
        r"No space left on device",
        "the server's disk is full",
        "Free space on the server and run again; the table was rolled back",
        states=frozenset({"53100"}),
    ),
    ServerFailure(
        r"temp_file_limit",
        "the temporary files of this user exceed the server's limit",
        "Raise temp_file_limit for this user and run again; the table was rolled back",
        states=frozenset({"53400"}),
    ),
    ServerFailure(
        r"out of (?:shared )?memory",
        "the server ran out of memory or of lock slots",
        "Raise max_locks_per_transaction if the message says shared memory, otherwise free memory,"
        " then run again; the table was rolled back",
        states=frozenset({"53200"}),
    ),
    ServerFailure(
        r"statement timeout",
        "a statement exceeded its time limit",
        "Raise statement_timeout for this user and run again",
        states=frozenset({"57014"}),
    ),
    ServerFailure(
        r"lock timeout",
        "another session holds a lock on a table",
        "Wait for that session to finish, or end it, and run again",
        states=frozenset({"55P03"}),
    ),
    ServerFailure(
        r"invalid response to SSL negotiation|expected authentication request"
        r"|unsupported frontend protocol|lost synchronization with server",
        "the server is not PostgreSQL",
        "Check the host and port in DATABASE_URL",
    ),
    ServerFailure(
        r"connection to server.* failed: server closed the connection",
        "the server closed the connection immediately",
        "Check that the host and port in DATABASE_URL belong to PostgreSQL and that it accepts"
        " connections",
        transient=True,
    ),
    ServerFailure(
        r"server closed the connection|terminating connection|SSL SYSCALL|no connection to the"
        r"|SSL connection has been closed|SSL error: unexpected eof"
        r"|could not (receive|send) data|Connection reset|Broken pipe|connection not open",
        "the connection to the server was lost",
        "Run again; the table was rolled back",
        states=frozenset({"57P01", "57P02", "08006", "08003", "08000"}),
        transient=True,
    ),
    ServerFailure(
        r"certificate verify failed|does not match host name|root certificate file",
        "the server's certificate is not trusted",
        "Set sslrootcert to the certificate authority of the server, and use the host name of the"
        " certificate in DATABASE_URL",
    ),
    ServerFailure(
        r"invalid dsn|invalid \w+ value|invalid URI|invalid connection option|percent-encoded"
        r"|invalid port number",
        "the URL cannot be used to connect",
        "Correct DATABASE_URL; the part after the question mark holds options of libpq",
    ),
    ServerFailure(
        r"could not connect|connection refused|Connection refused|could not translate|timeout "
        r"expired|failed to resolve host|No such file or directory|connection to server",
        "the server does not respond",
        "Check the host and port in DATABASE_URL and that the server is running",
        states=frozenset({"08001", "08004"}),
        transient=True,
    ),
)
