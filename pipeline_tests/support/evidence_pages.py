"""A page of evidence, read as a browser reads it."""

from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.orchestration.common.evidence import (
    BlobSizes,
    CheckEvidence,
    RunEvidence,
    TableEvidence,
)
from pipeline.reporting import evidence_page

RUN = RunEvidence("run-1", "migrate", "/data/source.db", "PostgreSQL postgres at localhost")


HOSTILE = "\"'><script src=//evil.example></script><img src=https://evil.example onerror=x> ${7*7}"


VOID = {"meta", "input", "br", "img", "link", "base"}


@dataclass
class Element:
    """An element of a page; ``content`` holds texts and elements."""

    tag: str
    attributes: dict[str, str]
    content: list[Any] = field(default_factory=list)

    def all(self, tag: str = "", **having: str) -> "list[Element]":
        """Elements below this one, in the page's order."""
        found = []
        for child in self.content:
            if isinstance(child, Element):
                classes = child.attributes.get("class", "").split()
                if tag in ("", child.tag) and having.get("of", "") in ("", *classes):
                    found.append(child)
                found += child.all(tag, **having)
        return found

    @property
    def text(self) -> str:
        """The text as it stands in the page."""
        return "".join(c.text if isinstance(c, Element) else c for c in self.content)

    @property
    def words(self) -> str:
        """The text with every run of blanks as one."""
        return " ".join(self.text.split())


class Page(HTMLParser):
    """A page, read as a browser reads it."""

    def __init__(self, html: str) -> None:
        """Read it; an element that is not closed is a mistake."""
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(html)
        self.close()
        assert self._open == [self.root], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].content.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add an element without content."""
        self._open[-1].content.append(Element(tag, {n: v or "" for n, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """Close the element that was opened last."""
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        """Add text."""
        self._open[-1].content.append(data)


def page(*tables: TableEvidence, run: RunEvidence = RUN) -> Element:
    return Page(evidence_page.render(replace(run, tables=list(tables)))).root


def heading(root: Element) -> str:
    (title,) = root.all("h1")
    return title.words


def part(table: str = "rankings", **given: Any) -> TableEvidence:
    return TableEvidence(table, "2026-01-02T03:04:05.678901+00:00", **given)


def counted(source: int, moved: int, quarantined: int, excluded: int = 0) -> TableEvidence:
    """A table that moved, of which only rows are known."""
    return part(
        moved={
            "strategy": "filled",
            "source_rows": source,
            "source_bytes": 10,
            "moved": moved,
            "quarantined": quarantined,
            "excluded": excluded,
            "written": moved,
            "deleted": 0,
        }
    )


def cells(table: Element) -> list[list[str]]:
    return [
        [cell.words for cell in row.content if isinstance(cell, Element)] for row in table.all("tr")
    ]


def read_back(folder: Path) -> RunEvidence:
    return TypeAdapter(RunEvidence).validate_json((folder / "evidence.json").read_bytes())


def hostile(text: str) -> RunEvidence:
    """A run that has a text in every place that a text can have."""
    offender = {
        "finding": text,
        "heading": text,
        "table": text,
        "one " + text: text,
        "two": None,
        "three": [text],
    }
    known = {
        "finding": "value differs",
        "heading": text,
        "key": text,
        "column": text,
        "source": text,
        "target": 1,
    }
    examples = {
        "finding": "lossy",
        "heading": text,
        "column": text,
        "values": 2,
        "examples": [[text, text, text]],
    }
    figures = {text: 1, "said": text, "digests": {text: text}, "more " + text: {text: text}}
    checks = [
        CheckEvidence(text, text, False, False, text, figures, [text], [offender, known, examples]),
        CheckEvidence(text, text, False, True, text, {}, [], []),
    ]
    moved = counted(4, 2, 1, 1).moved
    assert moved is not None
    return RunEvidence(
        text,
        text,
        text,
        text,
        [
            TableEvidence(
                text,
                text,
                {**moved, "strategy": text},
                {text: 1.0, "load": 2.0},
                [BlobSizes(text, 1, 9, {3: 1})],
                checks,
                text,
            )
        ],
    )
