"""The functions that record changed rows in the feed, one or two for each table.

One runs after each statement and records the rows of its table, and the rows of other tables that
it has moved to another space. One runs before a row is deleted or gets another key, if rows of
other tables are published where this row is; it stores what the row refers to.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from pipeline.core.quoting import literal, quoted
from pipeline.declared import events
from pipeline.declared.events import Operation, PublishedChanges
from pipeline.mapping.row_key import RowKey
from pipeline.postgres.session import CANARY, MOVING
from pipeline.realtime import topics
from pipeline.realtime.sql_function import Function
from pipeline.realtime.topics import Step, qualified

_BY_A_MOVE = f"""current_setting('{MOVING}', true) = 'on'
      AND current_setting('{CANARY}', true) IS DISTINCT FROM 'on'"""


def functions(tables: Sequence[sa.Table]) -> list[Function]:
    """All functions that record rows of these tables."""
    recording = [
        _recording(table, tables)
        for table in tables
        if events.published_changes(table) or any(topics.below(table, tables))
    ]
    return [*recording, *(_leaving(step) for step in topics.parents(tables))]


def _recording(table: sa.Table, tables: Sequence[sa.Table]) -> Function:
    """The function that records the rows that a statement changed or moved."""
    published, key = events.published_changes(table), RowKey.of(table).sql
    rows = {
        "INSERT": f'"after" AS new LEFT JOIN {qualified(table)} AS old ON false',
        "UPDATE": f'"before" AS old FULL JOIN "after" AS new ON new.{key} = old.{key}',
        "DELETE": f'"before" AS old LEFT JOIN {qualified(table)} AS new ON false',
    }
    branches = {
        operation: _insert_changes(table, published, key, source)
        for operation, source in rows.items()
        if published
    }
    moved = "".join(
        _insert_moved(each, rules, number)
        for each, number in topics.below(table, tables)
        if (rules := events.published_changes(each))
    )
    if moved:
        branches["UPDATE"] = branches.get("UPDATE", "") + moved
    cases = "".join(f"    WHEN '{operation}' THEN{sql}" for operation, sql in branches.items())
    head = f"feed.{quoted(f'note_{table.name}')}()"
    return Function(
        head,
        head,
        "trigger",
        f"""
#variable_conflict use_column
BEGIN
  IF {_BY_A_MOVE} THEN
    RETURN NULL;
  END IF;
  CASE TG_OP
{cases}  END CASE;
  RETURN NULL;
END
""",
    )


def _leaving(step: Step) -> Function:
    """The function that stores what a row refers to before it goes or gets another key."""
    head = f"feed.{quoted(f'leave_{step.parent.name}')}()"
    return Function(
        head,
        head,
        "trigger",
        f"""
BEGIN
  IF ({_BY_A_MOVE}) IS NOT TRUE THEN
    INSERT INTO feed.former (table_name, key, reference) VALUES ({literal(step.parent.name)},
      old.{quoted(step.key.name)}::text, coalesce(old.{quoted(step.next)}::text, ''));
  END IF;
  IF TG_OP = 'DELETE' THEN
    RETURN old;
  END IF;
  RETURN new;
END
""",
    )


def _insert_changes(table: sa.Table, published: PublishedChanges, key: str, rows: str) -> str:
    """The statement that records changed rows; a new topic makes a row deleted and inserted."""
    was, now = (
        "ROW(" + ", ".join(f"{side}.{quoted(column)}" for column in published.columns) + ")"
        for side in ("old", "new")
    )
    deleted = f"(SELECT {_event(published, 'DELETE')} FROM (SELECT old.*) AS new)"
    old_topic, new_topic = (topics.topic(table, published, side) for side in ("old", "new"))
    return f"""
      INSERT INTO feed.changes (topic, event, table_name, operation, key)
      SELECT c.topic, c.event, {literal(table.name)}, c.operation, c.key::text
        FROM {rows}
        CROSS JOIN LATERAL (SELECT {old_topic} AS was, {new_topic} AS now
          OFFSET 0) AS place
        CROSS JOIN LATERAL (VALUES
          (place.was, 'DELETE', old.{key}, {deleted}),
          (place.now, 'INSERT', new.{key}, {_event(published, "INSERT")}),
          (place.now, 'UPDATE', new.{key}, {_event(published, "UPDATE")})
        ) AS c (topic, operation, key, event)
        WHERE c.topic IS NOT NULL AND CASE c.operation
          WHEN 'UPDATE' THEN place.was = place.now AND {was} IS DISTINCT FROM {now}
          ELSE place.was IS DISTINCT FROM place.now END
        ORDER BY c.key, c.operation;
"""


def _insert_moved(table: sa.Table, published: PublishedChanges, number: int) -> str:
    """The statement that records rows that moved with rows that a path of theirs leads to.

    Args:
        table: the table of the recorded rows, which were not changed themselves.
        published: what is published of them.
        number: the steps from these rows to those that were updated.
    """
    steps = topics.path(table)
    to_parent, following = steps[:number], steps[number:]
    column, key = quoted(to_parent[-1].next), quoted(to_parent[-1].key.name)
    between = "".join(
        f"\n          JOIN {step.source} AS p{n} ON p{n}.{quoted(step.key.name)}"
        f" = {'new' if n == 1 else f'p{n - 1}'}.{quoted(step.column)}"
        for n, step in enumerate(to_parent[:-1], start=1)
    )
    last = "new" if number == 1 else f"p{number - 1}"
    old_topic, new_topic = (
        topics.topic_of(following, f"{side}.{column}") for side in ("gone", "come")
    )
    moved = (
        f'"before" AS gone JOIN "after" AS come ON come.{key} = gone.{key}'
        f" AND come.{column} IS DISTINCT FROM gone.{column}"
    )
    row = RowKey.of(table).sql
    return f"""
      IF EXISTS (SELECT FROM {moved}) THEN
        INSERT INTO feed.changes (topic, event, table_name, operation, key)
        SELECT c.topic, c.event, {literal(table.name)}, c.operation, c.key::text
          FROM {moved}
          CROSS JOIN {qualified(table)} AS new{between}
          CROSS JOIN LATERAL (SELECT {old_topic} AS was, {new_topic} AS now
            OFFSET 0) AS place
          CROSS JOIN LATERAL (VALUES
            (place.was, 'DELETE', new.{row}, {_event(published, "DELETE")}),
            (place.now, 'INSERT', new.{row}, {_event(published, "INSERT")})
          ) AS c (topic, operation, key, event)
          WHERE {last}.{quoted(to_parent[-1].column)} = come.{key}
            AND c.topic IS NOT NULL AND place.was IS DISTINCT FROM place.now
          ORDER BY c.key, c.operation;
      END IF;
"""


def _event(published: PublishedChanges, operation: Operation) -> str:
    cases = "".join(
        f" WHEN {rule.when} THEN {literal(rule.event)}"
        for rule in published.events
        if operation in rule.on
    )
    return f"CASE{cases} END" if cases else "NULL::text"
