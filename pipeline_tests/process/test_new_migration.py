"""A migration of one's own: written from a file, found, moved, and compared with a changed file."""

import ast
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pipeline.config.settings import PROJECT, libpq
from pipeline.core.errors import SettingsError
from pipeline.migrations import registry
from pipeline_tests.support import commands
from pipeline_tests.support.commands import Ran, pipeline
from pipeline_tests.support.targets import new_database, query

STOCK = """
CREATE TABLE categories (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  parent_id INTEGER REFERENCES categories(id) ON DELETE SET NULL
);
CREATE TABLE suppliers (
  code TEXT PRIMARY KEY,
  name VARCHAR(80) NOT NULL,
  email TEXT UNIQUE,
  api_token TEXT,
  since DATE
);
CREATE TABLE items (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  sku TEXT NOT NULL,
  name TEXT NOT NULL,
  category_id INTEGER REFERENCES categories(id),
  supplier TEXT REFERENCES suppliers(code) ON UPDATE CASCADE,
  price DECIMAL(10,2) NOT NULL DEFAULT 0 CHECK (price >= 0),
  active BOOLEAN DEFAULT 1,
  created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
  photo BLOB,
  tags JSON,
  updated_at INTEGER,
  cents INTEGER GENERATED ALWAYS AS (CAST(price * 100 AS INTEGER)) STORED,
  label TEXT GENERATED ALWAYS AS (sku || ': ' || name) VIRTUAL,
  UNIQUE (sku, supplier)
);
CREATE INDEX items_lower ON items (lower(name));
CREATE INDEX items_active ON items (category_id) WHERE active = 1;
CREATE TABLE movements (
  id INTEGER PRIMARY KEY,
  item_id INTEGER NOT NULL REFERENCES items(id),
  amount INTEGER,
  note TEXT DEFAULT 'from:stock'
);
CREATE TABLE item_tags (
  item_id INTEGER REFERENCES items(id) ON DELETE CASCADE, tag TEXT, PRIMARY KEY (item_id, tag)
);
CREATE TABLE log (at TEXT, message TEXT);
INSERT INTO categories VALUES (1, 'Screws', NULL), (2, 'Wood screws', 1);
INSERT INTO suppliers VALUES ('ACME', 'Acme Ltd', 'a@acme.test', 'very s3cret', '2020-01-02');
INSERT INTO items (sku, name, category_id, supplier, price, photo, tags, updated_at) VALUES
  ('A1', 'Bolt M4', 1, 'ACME', 1.25, x'0102', '["a"]', 1700000000),
  ('A2', 'Nut: M4', 2, NULL, 0.05, NULL, NULL, 1700000100);
INSERT INTO movements VALUES (1, 1, 5, 'in'), (2, 99, 5, 'lost');
INSERT INTO item_tags VALUES (1, 'x'), (1, 'y');
INSERT INTO log VALUES ('2024-01-01', 'hi'), ('2024-01-01', 'hi');
"""


class Stock:
    """A file of somebody's own, a folder for migrations, and a target."""

    def __init__(self, folder: Path, url: URL) -> None:
        """Create the file."""
        self.file, self.migrations = folder / "stock.db", folder / "migrations"
        self.module, self.url = self.migrations / "stock.py", libpq(url)
        self.migrations.mkdir()
        self.execute(STOCK)
        self.settings = {
            "MIGRATIONS_FOLDER": str(self.migrations),
            "DATABASE_URL": self.url,
            "PIPELINE_HOME": str(folder / "home"),
        }

    def execute(self, script: str) -> None:
        """Change the file."""
        with closing(sqlite3.connect(self.file)) as source, source:
            source.executescript(script)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        """Rows of the file."""
        with closing(sqlite3.connect(self.file)) as source:
            return source.execute(sql).fetchall()

    def __call__(self, *arguments: str, code: int = 0, **more: str) -> Ran:
        """Run a command that ends so."""
        ran = pipeline(*arguments, **{**self.settings, **more})
        assert ran.code == code, ran.out + ran.err
        return ran

    def new(self, *arguments: str, code: int) -> str:
        """What ``pipeline new stock`` prints."""
        ran = self("new", "stock", *arguments, code=code)
        return ran.out + ran.err


@pytest.fixture
def stock(server: URL, dagster_tables: str, tmp_path: Path) -> Iterator[Stock]:
    """Somebody's own file, without a migration."""
    with new_database(server, "stock", template=dagster_tables) as url:
        yield Stock(tmp_path, url)


def test_a_module_is_written_from_a_file_and_moves_verifies_and_follows_it(stock: Stock) -> None:
    said = stock.new("--from", f"sqlite:///{stock.file}", code=1)
    assert "census  6 tables, 11 rows" in said
    assert "item_tags: it has a primary key of 2 columns (item_id, tag)" in said
    assert "log: it has no primary key" in said
    text = stock.module.read_text()
    ast.parse(text)
    assert max(len(line) for line in text.splitlines() if "source=" not in line) <= 100
    # What waits for a person's word, and what nobody should read.
    assert "Add stock to MIGRATIONS, read it, then run pipeline plan stock" in said
    stock.settings["MIGRATIONS"] = "stock"
    comments = " ".join(text.replace("#", "").split())
    assert 'For that, declare EpochMoment("seconds").' in comments
    assert "foreign key (item_id) to items, because 1 row has no row there" in comments
    assert "s3cret" not in text
    assert 'sa.Column("api_token", sa.Text, info=ColumnRules(secret=True).info)' in text

    assert "proven" in stock("migrate", "stock").out
    assert query(stock.url, "SELECT * FROM categories ORDER BY id") == [
        (1, "Screws", None),
        (2, "Wood screws", 1),
    ]
    assert query(stock.url, "SELECT count(*) FROM movements") == [(2,)]
    assert query(stock.url, "SELECT id, label FROM items ORDER BY id") == [
        (1, "A1: Bolt M4"),
        (2, "A2: Nut: M4"),
    ]
    with pytest.raises(Exception, match="items_check"):
        query(stock.url, "UPDATE items SET price = -1")
    assert query(stock.url, "INSERT INTO movements (item_id) VALUES (1) RETURNING id, note") == [
        (3, "from:stock")
    ]
    query(stock.url, "DELETE FROM movements WHERE id = 3")

    # No column tells when a row was changed, so every value is compared.
    stock.execute(
        "UPDATE items SET name = 'Bolt M5', photo = x'0103' WHERE id = 1;"
        "DELETE FROM movements WHERE id = 2; INSERT INTO categories VALUES (3, 'Nails', NULL);"
        "UPDATE suppliers SET since = '2021-01-02'"
    )
    assert "proven" in stock("sync", "stock", MAX_DELETE_SHARE="1").out
    assert query(stock.url, "SELECT label, photo::text FROM items WHERE id = 1") == [
        ("A1: Bolt M5", r"\x0103")
    ]
    assert query(stock.url, "SELECT since::text FROM suppliers") == [("2021-01-02",)]
    assert "proven" in stock("verify", "stock").out


def test_tables_of_a_copy_are_taken_over_and_go_to_the_target_and_back(stock: Stock) -> None:
    stock.execute("DROP TABLE item_tags; DROP TABLE log; DELETE FROM movements WHERE id = 2")
    source = f"sqlite:///{stock.file}"
    stock("copy", source, stock.url)
    stock.new("--from", source, code=0)
    stock.settings |= {"MIGRATIONS": "stock", "MAX_DELETE_SHARE": "1"}
    moved = stock("migrate", "stock").out
    assert "nothing has changed in 4 tables" in moved
    refused = " ".join(stock("copy", source, stock.url, code=2).err.split())
    assert "was written by a migration" in refused
    stock("track", "on", "stock")
    stock("sync", "stock")
    # The foreign key of items would hold back the deletion of its parent.
    stock.execute(
        "UPDATE items SET price = 2.5 WHERE id = 1;"
        "UPDATE items SET category_id = 1 WHERE id = 2; DELETE FROM categories WHERE id = 2"
    )
    assert "proven" in stock("sync", "stock").out
    assert query(stock.url, "SELECT cents FROM items WHERE id = 1") == [(250,)]
    for command in ("plan", "backup"):
        stock(command, "stock")
    assert "the migration stock is live" in stock("cutover", "live", "stock").out
    query(
        stock.url,
        "INSERT INTO categories (name, parent_id) VALUES ('Pins', 1);"
        "UPDATE items SET name = 'Bolt M6', price = 3.75, category_id = 3 WHERE id = 1;"
        "UPDATE suppliers SET code = 'ACME2'; DELETE FROM movements",
    )
    stock("rollback", "stock")
    assert stock.rows("SELECT * FROM categories ORDER BY id") == [
        (1, "Screws", None),
        (3, "Pins", 1),
    ]
    assert stock.rows("SELECT id, supplier, cents, label, category_id FROM items") == [
        (1, "ACME2", 375, "A1: Bolt M6", 3),
        (2, None, 5, "A2: Nut: M4", 1),
    ]
    assert stock.rows("SELECT count(*) FROM movements") == [(0,)]
    assert "proven" in stock("verify", "stock").out


def test_a_changed_file_is_compared_and_edits_are_kept(stock: Stock) -> None:
    stock.execute("DROP TABLE item_tags; DROP TABLE log")
    source = ("--from", f"sqlite:///{stock.file}")
    stock.new(*source, "--stays", "movements", code=0)
    edited = stock.module.read_text().replace(
        'sa.Column("updated_at", sa.BigInteger)', 'sa.Column("updated_at", sa.Integer)'
    )
    assert "sa.Integer)" in edited
    stock.module.write_text(edited)
    assert "fits the source" in stock.new(code=0)

    # Names are matched as in a move.
    stock.execute("ALTER TABLE suppliers RENAME COLUMN since TO begun")
    names = '{"suppliers.since": "begun"}'
    assert "fits the source" in stock("new", "stock", code=0, POLICY_SOURCE_NAMES=names).out
    stock.execute("ALTER TABLE suppliers RENAME COLUMN begun TO since")

    stock.execute(
        "ALTER TABLE items ADD COLUMN weight REAL; ALTER TABLE suppliers DROP COLUMN since;"
        "CREATE TABLE shelves (id INTEGER PRIMARY KEY, label TEXT);"
        "UPDATE items SET updated_at = 1 << 40 WHERE id = 1"
    )
    said = stock.new(code=1)
    assert stock.module.read_text() == edited
    for line in (
        "shelves is not declared",
        "items.weight is not declared",
        'sa.Column("weight", sa.Double),',
        "suppliers.since is declared, but the source has no such column",
        "items.updated_at has 1 value that does not fit its type integer",
    ):
        assert line in said
    assert "movements" not in said


def test_odd_names_are_declared_or_named(stock: Stock) -> None:
    stock.file.unlink()
    stock.execute(
        "CREATE TABLE metadata (id INTEGER PRIMARY KEY, ctid TEXT, \"a b\" TEXT DEFAULT 'it''s :x',"
        ' "quo""te" TEXT CHECK ("quo""te" <> \':b\'), "ชื่อ" INT, "class" TEXT);'
        "INSERT INTO metadata VALUES (1, 'c', 'a', 'q', 5, 'k');"
        'CREATE TABLE "order details" (id INTEGER PRIMARY KEY);'
        "CREATE TABLE type (id INTEGER PRIMARY KEY);"
        "CREATE TABLE odd (ctid INTEGER PRIMARY KEY)"
    )
    said = stock.new("--from", f"sqlite:///{stock.file}", code=1)
    for name in ("order details", "type"):
        assert f"{name}: it has a name after which Dagster cannot name a step" in said
    assert "odd: it has a primary key that needs another name in PostgreSQL" in said
    stock.settings["MIGRATIONS"] = "stock"
    assert "proven" in stock("migrate", "stock").out
    query(stock.url, "INSERT INTO metadata (id) VALUES (2)")
    assert query(stock.url, 'SELECT ctid_, "a b", "quo""te", "ชื่อ", "class" FROM metadata') == [
        ("c", "a", "q", 5, "k"),
        (None, "it's :x", None, None, None),
    ]
    with pytest.raises(Exception, match="metadata_check"):
        query(stock.url, 'UPDATE metadata SET "quo""te" = \':b\'')


REFUSED = {
    "no source": (("new", "stock"), "No source is named. Add --from sqlite:///PATH."),
    "a name that is none": (("new", "My-Stock", "--from", "sqlite:///a"), "cannot be the name"),
    "a name that is taken": (("new", "spaces", "--from", "sqlite:///a"), "Choose another name"),
    "no file": (("new", "stock", "--from", "sqlite:////no/such.db"), "/no/such.db"),
    "a table that is not there": (
        ("new", "stock", "--from", "sqlite:///{file}", "--stays", "nothing"),
        "nothing, which the source does not have",
    ),
}


@pytest.mark.parametrize(("arguments", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_refused_in_a_sentence(
    stock: Stock, arguments: tuple[str, ...], why: str
) -> None:
    ran = stock(*(each.format(file=stock.file) for each in arguments), code=2)
    assert why in " ".join((ran.out + ran.err).split())
    assert not list(stock.migrations.iterdir())


def test_a_folder_beside_the_settings_is_found_and_takes_the_place_of_the_examples(
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT / "pipeline", project / "pipeline")
    environment = commands.environment()
    del environment["MIGRATIONS"]
    show = (
        "from pipeline.config import settings\n"
        "loaded = settings.load()\n"
        "print([each.name for each in loaded.enabled], loaded.registry.names)"
    )

    def run(*command: str, **more: str) -> str:
        return subprocess.run(
            [sys.executable, *command],
            cwd=project,
            env=environment | more,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert run("-c", show) == "['content', 'spaces'] ['content', 'spaces']"
    (project / "migrations").mkdir()
    # Another program's; to import it would have effects.
    (project / "migrations" / "env.py").write_text("raise SystemExit('imported')")
    assert run("-c", show) == "['content', 'spaces'] ['content', 'spaces']"
    with closing(sqlite3.connect(project / "stock.db")) as source:
        source.executescript("CREATE TABLE rankings (id INTEGER PRIMARY KEY, name TEXT)")
    made = run("-m", "pipeline", "new", "stock", "--from", "sqlite:///stock.db")
    assert made.startswith(f"source  {project / 'stock.db'}")
    assert 'source="sqlite:///stock.db"' in (project / "migrations" / "stock.py").read_text()
    # The example with a table of that name is no migration here, unless it is asked for.
    assert run("-c", show) == "['stock'] ['spaces', 'stock']"
    assert run("-c", show, SPACES_DATABASE_URL="sqlite:///x") == (
        "['spaces', 'stock'] ['spaces', 'stock']"
    )
    assert run("-c", show, MIGRATIONS="stock,spaces").startswith("['stock', 'spaces']")


def test_an_installed_package_offers_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(
        "import sqlalchemy as sa\n"
        "from pipeline.migrations.declaration import Migration\n"
        "metadata = sa.MetaData()\n"
        'sa.Table("shops", metadata, sa.Column("id", sa.Integer, primary_key=True))\n'
        'SHOP = Migration("shop", metadata, setting="SHOP_URL", source="sqlite:///shop.db")\n'
    )
    information = tmp_path / "shop-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    offered = information / "entry_points.txt"
    offered.write_text(f"[{registry.GROUP}]\nshop = shop:SHOP\n")
    monkeypatch.syspath_prepend(tmp_path)
    wanted = frozenset({"test of entry points"})
    assert registry.find(wanted=wanted).names == ["content", "spaces", "shop"]
    offered.write_text(f"[{registry.GROUP}]\nshop = shop:metadata\n")
    with pytest.raises(SettingsError, match="is no migration"):
        registry.find(wanted=wanted | {"again"})
