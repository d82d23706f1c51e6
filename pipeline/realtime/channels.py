"""Who may join which private channel of Supabase's Realtime: policies on ``realtime.messages``.

``space:ID`` is heard by the active members of that space, who may also show their presence and that
they are typing there. ``user:ID`` is heard by that user, and nobody speaks there but the database.
Where the target has no ``realtime.messages`` there is nothing to do.

Realtime decides when somebody joins, by a row without an event, and does not ask again for each
message. So members can broadcast any event to their space; who listens takes what a broadcast says
for a hint, and reads the feed.
"""

from dataclasses import dataclass

from pipeline.declared.events import FLEETING
from pipeline.postgres import access
from pipeline.postgres.target import Target
from pipeline.realtime.functions import Function

LISTENER = "authenticated"
"""The role of who is signed in."""

_FLEETING = ", ".join(f"'{event}'" for event in FLEETING)

# Better Auth's ids are text, so auth.uid(), which is a uuid, cannot be asked.
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
    """A policy on ``realtime.messages``; conditions as PostgreSQL shows them."""

    name: str
    command: str
    role: str
    using: str | None = None
    check: str | None = None
    permissive: str = "PERMISSIVE"

    @property
    def ddl(self) -> str:
        """The statement that makes it."""
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


def is_there(target: Target) -> bool:
    """Whether the target has Supabase's Realtime."""
    return bool(
        target.value(
            "SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n"
            " ON n.oid = c.relnamespace WHERE (n.nspname, c.relname) = ('realtime', 'messages'))"
        )
    )


def inspect(target: Target) -> list[Policy]:
    """The policies that there are, those of others included."""
    found = target.rows(
        "SELECT policyname::text, cmd, array_to_string(roles, ', '), qual, with_check, permissive"
        " FROM pg_policies WHERE (schemaname, tablename) = ('realtime', 'messages') ORDER BY 1"
    )
    return [Policy(*row) for row in found]


def apply(target: Target) -> bool:
    """Make functions and policies as declared, in a transaction; False where there is no Realtime.

    The feed is there. Policies of others stay.
    """
    if not is_there(target) or LISTENER not in access.roles(target):
        return False
    target.run(*(function.ddl for function in FUNCTIONS))
    # Only by a policy can they be called: the schema is closed to who is signed in.
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
    """Whether policies are asked at all."""
    return bool(
        target.value(
            "SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass('realtime.messages')"
        )
    )
