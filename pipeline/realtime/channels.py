"""Access to private channels of Supabase Realtime: policies on ``realtime.messages``.

Active members of a space may join ``space:ID`` and send presence and typing events there. Only that
user may join ``user:ID``, and only the database sends to it. Without ``realtime.messages`` in the
target there is nothing to do.

Realtime checks the policies when a client joins, by a row without an event, and not again for each
message. So members can broadcast any event to their space; subscribers treat a broadcast as a hint
and read the feed.
"""

from dataclasses import dataclass

from pipeline.declared.events import FLEETING
from pipeline.postgres import access
from pipeline.postgres.target import Target
from pipeline.realtime.sql_function import Function

LISTENER = "authenticated"
"""The role of signed-in users."""

_FLEETING = ", ".join(f"'{event}'" for event in FLEETING)

# Better Auth's ids are text, so auth.uid(), which returns a uuid, cannot be used.
_MAY_HEAR = Function(
    "feed.may_hear(text,text)",
    "feed.may_hear(topic text, extension text)",
    "boolean",
    """
SELECT extension IN ('broadcast', 'presence') AND CASE
  WHEN topic ~ '^space:[0-9]{1,18}$' THEN EXISTS (
    SELECT FROM public.space_members AS m JOIN public.users AS u ON u.id = m.user_id
      WHERE m.space_id = substr(topic, 7)::bigint AND m.status = 'active' AND u.auth_provider_id
        = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  WHEN topic ~ '^user:[0-9]{1,18}$' THEN EXISTS (
    SELECT FROM public.users AS u WHERE u.id = substr(topic, 6)::bigint AND u.auth_provider_id
      = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  ELSE false END
""",
    language="sql",
)
_MAY_SPEAK = Function(
    "feed.may_speak(text,text,text)",
    "feed.may_speak(topic text, extension text, event text)",
    "boolean",
    f"""
SELECT topic LIKE 'space:%' AND feed.may_hear(topic, extension)
  AND (event IS NULL OR event IN ({_FLEETING}))
""",
    language="sql",
)
FUNCTIONS = (_MAY_HEAR, _MAY_SPEAK)


@dataclass(frozen=True)
class Policy:
    """A policy on ``realtime.messages``; conditions in the format of ``pg_policies``."""

    name: str
    command: str
    role: str
    using: str | None = None
    check: str | None = None
    permissive: str = "PERMISSIVE"

    @property
    def ddl(self) -> str:
        """The statement that creates it."""
        using = f" USING ({self.using})" if self.using else ""
        check = f" WITH CHECK ({self.check})" if self.check else ""
        return (
            f'CREATE POLICY "{self.name}" ON realtime.messages FOR {self.command} TO {self.role}'
            f"{using}{check}"
        )


POLICIES = (
    Policy("feed: hear", "SELECT", LISTENER, using="feed.may_hear(realtime.topic(), extension)"),
    Policy(
        "feed: speak",
        "INSERT",
        LISTENER,
        check="feed.may_speak(realtime.topic(), extension, event)",
    ),
)


def exists(target: Target) -> bool:
    """Whether the target has Supabase Realtime."""
    return bool(
        target.value(
            "SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n"
            " ON n.oid = c.relnamespace WHERE (n.nspname, c.relname) = ('realtime', 'messages'))"
        )
    )


def inspect(target: Target) -> list[Policy]:
    """All existing policies, including those of others."""
    found = target.rows(
        "SELECT policyname::text, cmd, array_to_string(roles, ', '), qual, with_check, permissive"
        " FROM pg_policies WHERE (schemaname, tablename) = ('realtime', 'messages') ORDER BY 1"
    )
    return [Policy(*row) for row in found]


def apply(target: Target) -> bool:
    """Create functions and policies as declared, in a transaction; False without Realtime.

    The feed must exist. Policies of others are kept.
    """
    if not exists(target) or LISTENER not in access.roles(target):
        return False
    target.run(*(function.ddl for function in FUNCTIONS))
    # Only policies can call them: signed-in users have no right on the schema.
    names = ", ".join(function.signature for function in FUNCTIONS)
    target.run(
        f"REVOKE ALL ON FUNCTION {names} FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION {names} TO {LISTENER}",
    )
    present = {policy.name: policy for policy in inspect(target)}
    for policy in POLICIES:
        if present.get(policy.name) == policy:
            continue
        if policy.name in present:
            target.run(f'DROP POLICY "{policy.name}" ON realtime.messages')
        target.run(policy.ddl)
    return True


def secured(target: Target) -> bool:
    """Whether row level security is on, so that policies apply."""
    return bool(
        target.value(
            "SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass('realtime.messages')"
        )
    )
