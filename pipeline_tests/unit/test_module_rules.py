"""The house: imports run one way, and rooms and modules stay small."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.config.settings import PROJECT

FLOORS = (
    ("core", "declared"),
    ("mapping", "migrations"),
    ("postgres", "sqlite"),
    ("config", "move", "realtime"),
    ("application", "backup", "copy", "cutover", "doctor", "selftest"),
    ("anki", "scaffold"),
    ("reporting",),
    ("orchestration",),
    ("cli",),
)
"""Rooms from the ground up; a room imports from lower floors only."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MOST_LINES, MOST_MODULES = 350, 12

RUNS_JOBS = "cli/commands/job_runs.py"
ROOT = PROJECT / "pipeline"
MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}


def imported(path: Path) -> Iterator[str]:
    """Modules of the project that a module imports, as paths below ``pipeline``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("pipeline."):
            parts = str(node.module).split(".")[1:]
            for name in node.names:
                ways = ([*parts, name.name], parts)
                yield next(found for way in ways if (found := module_of(way)) is not None)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("pipeline."):
                    yield str(module_of(name.name.split(".")[1:]))


def module_of(parts: Sequence[str]) -> str | None:
    """The file of a module or package."""
    ways = ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"]))
    return next((way for way in ways if way in MODULES), None)


def folder(module: str) -> str:
    return module.rpartition("/")[0]


def test_every_room_has_its_floor() -> None:
    rooms = {module.partition("/")[0] for module in MODULES if "/" in module}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_lower_floors_only(module: str) -> None:
    room = module.partition("/")[0]
    if room not in FLOOR:
        assert module in ("__init__.py", "__main__.py")
        return
    others = {other.partition("/")[0] for other in imported(MODULES[module])} - {room}
    assert {other for other in others if FLOOR[other] >= FLOOR[room]} == set()


def test_no_folder_imports_from_one_that_imports_from_it() -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        arrows[folder(module)] |= {folder(other) for other in imported(path)} - {folder(module)}
    done: set[str] = set()

    def visit(place: str, above: tuple[str, ...]) -> None:
        assert place not in above, f"{' imports from '.join([*above, place])}"
        if place not in done:
            for other in sorted(arrows[place]):
                visit(other, (*above, place))
            done.add(place)

    for place in sorted(arrows):
        visit(place, ())


def test_dagster_is_imported_by_its_room_and_by_what_runs_jobs() -> None:
    users = {
        module
        for module, path in MODULES.items()
        if re.search(r"^\s*(?:import|from) dagster", path.read_text(), re.MULTILINE)
    }
    assert {user for user in users if not user.startswith("orchestration/")} == {RUNS_JOBS}


def test_rooms_and_modules_stay_small() -> None:
    long = {name for name, path in MODULES.items() if path.read_text().count("\n") > MOST_LINES}
    assert long == set()
    full = Counter(folder(name) for name in MODULES if not name.endswith("__init__.py"))
    assert {place: number for place, number in full.items() if number > MOST_MODULES} == {}
