"""Check whether a connection to PostgreSQL is encrypted and the server's certificate checked."""

from typing import Any

from sqlalchemy.engine import URL

from pipeline.doctor.diagnostics import Diagnostic, Place, State

_VERIFYING_SSLMODES = ("verify-ca", "verify-full")


def examine_encryption(
    cursor: Any, url: URL, *, place: Place, setting: str, unencrypted: State = "error"
) -> Diagnostic:
    """Check an open connection.

    Args:
        cursor: of the connection.
        url: the server.
        place: the database, in the result.
        setting: the setting that holds the URL, for the remedy.
        unencrypted: the state of a connection that is not encrypted.
    """
    cursor.execute(
        "SELECT ssl, inet_server_addr() IS NULL OR inet_server_addr() << '127.0.0.0/8'"
        " OR inet_server_addr() = '::1' FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    )
    ssl, local = cursor.fetchone()
    if ssl and url.query.get("sslmode") in _VERIFYING_SSLMODES:
        detail = "encrypted, and the certificate is checked"
        return Diagnostic(place, "encryption", "ok", detail)
    if local:
        detail = "not needed: the server is on this machine"
        return Diagnostic(place, "encryption", "ok", detail)
    if not ssl:
        remedy = f"Add ?sslmode=verify-full&sslrootcert=FILE to {setting}"
        return Diagnostic(
            place, "encryption", unencrypted, "the connection is not encrypted", remedy
        )
    remedy = "Add ?sslmode=verify-full&sslrootcert=FILE with the project's certificate"
    detail = "encrypted, but the server's certificate is not checked"
    return Diagnostic(place, "encryption", "warning", detail, remedy)
