"""A unit test needs no database server and starts no process; one that asks for them fails."""

import sys
from collections.abc import Iterator

import pytest

_STARTS = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"}
)
_tests: set[str] = set()
"""The unit test that runs in this process, if one does."""


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if _tests and event in _STARTS:
        raise AssertionError(f"a unit test starts a process: {event} {arguments[:2]}")


# A hook of the interpreter stays as long as the process; other tests do not notice it.
sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Refuse to start a process while a unit test runs."""
    _tests.add(request.node.nodeid)
    yield
    _tests.clear()


def _no_server() -> None:
    pytest.fail("a unit test asks for a server; its place is engine/ or process/")


@pytest.fixture(scope="session")
def server() -> None:
    """No server."""
    _no_server()


@pytest.fixture(scope="session")
def supabase_server() -> None:
    """No server."""
    _no_server()


@pytest.fixture(scope="session")
def tursodb() -> None:
    """No server."""
    _no_server()
