"""A real browser, and how it is started."""

import os
import shutil
from dataclasses import dataclass

import pytest

LONELY = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--lang=en-US",
)
"""Options of a browser that shows no window and calls nobody but the page's own server."""


@dataclass(frozen=True)
class Programs:
    """Where the browser is, and what drives it."""

    browser: str
    driver: str


@pytest.fixture(scope="module")
def programs() -> Programs:
    """The browser and its driver; without them these tests are skipped, but not in CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        lacking = f"no {'chromedriver' if browser else 'Chromium'} is installed"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(f"{lacking}, and REQUIRE_BROWSER is set")
        pytest.skip(lacking)
    return Programs(browser, driver)
