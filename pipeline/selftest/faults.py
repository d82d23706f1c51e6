"""Faults planted in a committed target, and harmless differences planted in the source."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

_BANGKOK = timezone(timedelta(hours=7))


@dataclass(frozen=True)
class Fault:
    """A fault that a migration can cause.

    Attributes:
        sql: plants it in the target.
        caught_by: exactly the checks that must fail.
    """

    name: str
    sql: str
    caught_by: frozenset[str]


@dataclass(frozen=True)
class Harmless:
    """A difference in representation that does not change the meaning.

    ``rewrite`` maps each value of the column in the source to its new form.
    """

    name: str
    table: str
    column: str
    rewrite: Callable[[str], str]


def _fault(name: str, sql: str, *caught_by: str) -> Fault:
    return Fault(name, sql, frozenset(caught_by))


FAULTS = (
    _fault(
        "the last row is missing",
        "DELETE FROM rankings WHERE id = (SELECT max(id) FROM rankings)",
        *("conservation", "keys", "witness"),
    ),
    _fault(
        "one bit of one BLOB is flipped",
        "UPDATE fragment_assets SET asset_data = set_bit(asset_data, 1001, 1 - get_bit(asset_data,"
        " 1001)) WHERE id = (SELECT max(id) FROM fragment_assets)",
        *("digests", "witness"),
    ),
    _fault(
        "two columns are swapped",
        "UPDATE content_fragments SET native_text = body_text, body_text = native_text"
        " WHERE id = (SELECT min(id) FROM content_fragments)",
        *("digests", "witness"),
    ),
    _fault(
        "one timestamp is off by an hour",
        "UPDATE learning_content SET created_at = created_at + interval '1 hour'"
        " WHERE id = (SELECT max(id) FROM learning_content)",
        *("digests", "witness"),
    ),
    _fault(
        "a rank is rounded in the wrong direction",
        "UPDATE rankings AS r SET rank_score = rank_score - sign(c.kept_as::numeric"
        " - c.original::numeric) * 0.01 FROM migration.conversions AS c WHERE r.id = ("
        "SELECT min(source_key::integer) FROM migration.conversions WHERE table_name = 'rankings')"
        " AND c.table_name = 'rankings' AND c.source_key = r.id::text",
        *("digests", "witness"),
    ),
    _fault(
        "a row is duplicated under another id",
        "INSERT INTO rankings SELECT (jsonb_populate_record(r, jsonb_build_object('id',"
        " (SELECT max(id) + 1 FROM rankings)))).* FROM rankings AS r ORDER BY id LIMIT 1",
        *("conservation", "keys", "sequences", "witness"),
    ),
    _fault(
        "a foreign key references the wrong row",
        "UPDATE rankings SET fragment_id = (SELECT max(id) FROM content_fragments)"
        " WHERE id = (SELECT min(id) FROM rankings)",
        *("digests", "witness"),
    ),
    _fault(
        "a number in a JSON document is changed",
        "UPDATE learning_content SET content_metadata = jsonb_set(content_metadata,"
        " '{original_card_id}', to_jsonb((content_metadata->>'original_card_id')::integer + 1))"
        " WHERE id = (SELECT min(id) FROM learning_content WHERE content_metadata ?"
        " 'original_card_id')",
        *("digests", "witness"),
    ),
    _fault(
        "a text has a trailing space",
        "UPDATE content_fragments SET native_text = native_text || ' '"
        " WHERE id = (SELECT max(id) FROM content_fragments)",
        *("digests", "witness"),
    ),
    _fault(
        "a NULL became an empty string",
        "UPDATE content_fragments SET extra = '' WHERE id ="
        " (SELECT min(id) FROM content_fragments WHERE extra IS NULL)",
        *("digests", "witness"),
    ),
    _fault("an index is missing", "DROP INDEX idx_rankings_fragment", "schema"),
    _fault(
        "a sequence is behind the largest id",
        "ALTER SEQUENCE rankings_id_seq RESTART WITH 1",
        "sequences",
    ),
    _fault(
        "a sequence assigns the id of a deleted row",
        "ALTER SEQUENCE learning_content_id_seq RESTART WITH 9000",
        "sequences",
    ),
    _fault(
        "a quarantined row is lost",
        "DELETE FROM migration.quarantine WHERE ctid = (SELECT min(ctid) FROM migration.quarantine"
        " WHERE table_name = 'content_fragments')",
        *("conservation", "keys", "quarantine", "witness"),
    ),
    _fault(
        "a parent is deleted while triggers are off",
        "SET LOCAL session_replication_role = replica;"
        " DELETE FROM fragment_assets WHERE id = (SELECT min(asset_id) FROM rankings)",
        *("conservation", "keys", "foreign_keys", "witness"),
    ),
    _fault(
        "a foreign key constraint is missing",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_asset_id_fkey",
        *("foreign_keys", "schema"),
    ),
    _fault(
        "a CHECK constraint is weaker than declared",
        "ALTER TABLE rankings DROP CONSTRAINT rankings_rank_score_check,"
        " ADD CONSTRAINT rankings_rank_score_check CHECK (rank_score >= 0)",
        "schema",
    ),
    _fault(
        "a column allows NULL",
        "ALTER TABLE content_fragments ALTER COLUMN native_text DROP NOT NULL",
        "schema",
    ),
)


def _reversed(text: str) -> str:
    value = json.loads(text)
    if isinstance(value, dict):
        value = dict(reversed(value.items()))
    return json.dumps(value, indent=2)


def _in_bangkok(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).astimezone(_BANGKOK).isoformat()  # noqa: UP017


HARMLESS = (
    Harmless("JSON keys in a different order", "learning_content", "content_metadata", _reversed),
    Harmless("equal times in a different zone", "learning_content", "created_at", _in_bangkok),
)
