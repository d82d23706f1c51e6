"""The tables of Better Auth, for applications that authenticate users with it."""

from typing import Any

import sqlalchemy as sa

from pipeline.declared.access import Access
from pipeline.declared.columns import (
    add_index,
    created_at,
    moment,
    secret,
    text,
    text_id,
    updated_at,
)
from pipeline.declared.rules import TableRules


def declare(metadata: sa.MetaData, *, access: tuple[Access, ...]) -> None:
    """Add the tables ``user``, ``session``, ``account`` and ``verification``."""

    def table(name: str, description: str, *columns: sa.Column[Any]) -> sa.Table:
        rules = TableRules(
            description,
            changed_by="updated_at",
            stamp="updated_at",
            access=access,
            # Better Auth writes camelCase unless it is configured otherwise.
            camel_case=True,
        )
        return sa.Table(
            name, metadata, text_id(), *columns, created_at(), updated_at(), info=rules.info
        )

    def user_reference() -> sa.Column[str]:
        user = sa.ForeignKey("user.id", ondelete="CASCADE")
        return sa.Column("user_id", sa.Text, user, nullable=False)

    table(
        "user",
        "Better Auth: users who can sign in.",
        text("name"),
        text("email", unique=True),
        sa.Column("email_verified", sa.Boolean, nullable=False, server_default=sa.false()),
        text("image", nullable=True),
    )
    session = table(
        "session",
        "Better Auth: sessions of users and their expiry.",
        moment("expires_at", "When the session expires."),
        secret("token", "The token that identifies the browser.", unique=True),
        text("ip_address", nullable=True),
        text("user_agent", nullable=True),
        user_reference(),
    )
    add_index(session, "session_user", "user_id")
    account = table(
        "account",
        "Better Auth: credentials of users.",
        text("account_id"),
        text("provider_id"),
        user_reference(),
        secret("access_token", nullable=True),
        secret("refresh_token", nullable=True),
        secret("id_token", nullable=True),
        moment("access_token_expires_at", "When the access token expires."),
        moment("refresh_token_expires_at", "When the refresh token expires."),
        text("scope", nullable=True),
        secret("password", nullable=True),
    )
    add_index(account, "account_user", "user_id")
    verification = table(
        "verification",
        "Better Auth: unused codes and links.",
        text("identifier"),
        secret("value"),
        moment("expires_at", "When the code or link expires."),
    )
    add_index(verification, "verification_identifier", "identifier")
