"""What tests of backups share: a backup of a source and a target, and all that a target holds."""

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from pipeline.backup import Manifest, store
from pipeline.backup.create import BackupResult, make
from pipeline.config import environment, settings
from pipeline.config.environment import Databases
from pipeline.migrations.content import CONTENT
from pipeline_tests.support.targets import query

SHOWN = "the target"


@dataclass(frozen=True)
class Place:
    """A source, a target and the folder that backups of them go to."""

    source: Path
    target: URL
    home: Path

    @classmethod
    def at(cls, source: Path, target_url: str, folder: Path) -> "Place":
        """A place of a test."""
        return cls(source, make_url(target_url), folder / "home")

    def back_up(self, *, keep: int = 7) -> BackupResult:
        """Take a backup."""
        found = Databases(self.target, self.source, self.home / "snapshots")
        return make(self.home, found, CONTENT, keep=keep)

    def folder(self, manifest: Manifest) -> Path:
        """Where a backup is."""
        return store.place(self.home, manifest.name)


def everything(url: str) -> dict[str, object]:
    """All rows, columns, keys, indexes, sequences and rights of a database but Dagster's."""
    kinds = query(
        url,
        "SELECT format('%I.%I', nspname, relname), relkind = 'S' FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'S')"
        " AND nspname IN ('public', 'migration') ORDER BY 1",
    )
    tables = [name for name, _ in kinds]
    found: dict[str, object] = {}
    for table, counts in kinds:
        what = "(last_value, is_called)" if counts else "t"
        rows = query(url, f"SELECT {what}::text FROM {table} t ORDER BY 1")
        found[table] = [row for (row,) in rows]
    found["sequences"] = query(
        url,
        "SELECT s.*, refobjid::regclass::text, refobjsubid FROM pg_sequences s LEFT JOIN pg_depend"
        " ON objid = format('%I.%I', schemaname, sequencename)::regclass AND deptype IN ('a', 'i')"
        " ORDER BY sequencename",
    )
    found["columns"] = query(
        url,
        "SELECT attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod),"
        " attnotnull, attstorage::text, pg_get_expr(adbin, adrelid) FROM pg_attribute"
        " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = ANY(%s::regclass[]) AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attrelid::regclass::text, attname::text",
        (tables,),
    )
    found["keys"] = query(
        url,
        "SELECT conrelid::regclass::text, conname::text, convalidated, regexp_replace("
        r"pg_get_constraintdef(oid), '::(character varying|text)|[\[\]()]', '', 'g')"
        " FROM pg_constraint WHERE conrelid = ANY(%s::regclass[]) ORDER BY 1, 2",
        (tables,),
    )
    found["indexes"] = query(
        url,
        "SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index"
        " WHERE indrelid = ANY(%s::regclass[]) ORDER BY 1",
        (tables,),
    )
    found["rest"] = query(
        url,
        "SELECT relname::text, relrowsecurity, relforcerowsecurity, relpersistence::text,"
        " reloptions, obj_description(oid, 'pg_class'), col_description(oid, 1),"
        " (SELECT array_agg(a::text ORDER BY a::text) FROM aclexplode(relacl) a"
        " WHERE grantee <> relowner),"
        " (SELECT array_agg(attname || attacl::text ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = c.oid AND attacl IS NOT NULL),"
        " (SELECT array_agg(concat(pg_get_triggerdef(t.oid), tgenabled) ORDER BY tgname)"
        " FROM pg_trigger t WHERE tgrelid = c.oid AND NOT tgisinternal),"
        " (SELECT array_agg(concat(polname, polcmd, polpermissive, pg_get_expr(polqual, polrelid),"
        " pg_get_expr(polwithcheck, polrelid)) ORDER BY polname) FROM pg_policy"
        " WHERE polrelid = c.oid) FROM pg_class c WHERE oid = ANY(%s::regclass[]) ORDER BY 1",
        (tables,),
    )
    return found


def until(url: str, sql: str) -> None:
    """Wait until a query says true."""
    ends = time.monotonic() + 20
    while query(url, sql) != [(True,)]:
        assert time.monotonic() < ends, sql
        time.sleep(0.02)


def back_up() -> Manifest:
    """Take a backup without Dagster."""
    loaded = settings.load()
    found = environment.databases(loaded, CONTENT)
    return make(loaded.pipeline_home, found, CONTENT, keep=loaded.keep_backups).manifest
