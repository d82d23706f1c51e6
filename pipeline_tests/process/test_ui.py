"""The UI, used as a person uses it: a real browser clicks through a running `pipeline dev`."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
    WebDriverException,
)
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from pipeline.core import proof
from pipeline.core.proof import MOVE_CHECKS
from pipeline.migrations import registry
from pipeline.migrations.spaces import SPACES
from pipeline.move.proof import verification
from pipeline.orchestration.common.checks import DESCRIPTIONS
from pipeline_tests.support.attacks import SITES, WAYS, attack, other_site, posted_by_its_own_page
from pipeline_tests.support.browser import LONELY, Programs
from pipeline_tests.support.commands import environment, pipeline
from pipeline_tests.support.servers import kill_server, server_of
from pipeline_tests.support.syncs import NAMES

T = TypeVar("T")

SECONDS = 30
"""How long a page may take to show something; a run may take twice as long."""
WIDTH, HEIGHT = 1400, 2600
"""High, because long lists show no more than what fits."""
MOVING = """
return document.getAnimations().some(
  a => a.playState == "running" && a.effect.getComputedTiming().endTime != Infinity);
"""
RUN = re.compile("/runs/([0-9a-f-]{36})")
ENDED = re.compile(r"^(Success|Failure|Canceled)$", re.MULTILINE)
WARNINGS = {
    "learning_content": {"drift", "quarantine"},
    "content_fragments": {"quarantine"},
    "fragment_assets": {"quarantine"},
    "rankings": {"quarantine", "conversions"},
}
"""The checks that warn of the sample's flawed rows."""
# Empty rather than unset, so that no .env names the databases of whoever runs the tests.
SAMPLES = {"SQLITE_DATABASE_URL": "", "SPACES_DATABASE_URL": "", "DATABASE_URL": ""}


@dataclass(frozen=True)
class Served:
    """A running UI and the folder that its pipeline keeps everything in."""

    address: str
    home: Path


@dataclass(frozen=True)
class Ran:
    """A run that was launched in the browser and succeeded, and what its page says."""

    run_id: str
    text: str


@dataclass(frozen=True)
class Ui:
    """A browser, and what a person does with it."""

    browser: Chrome
    served: Served
    pictures: Path

    def open(self, path: str) -> None:
        """Go to a page by its address."""
        self.browser.get(self.served.address + path)

    def text(self) -> str:
        """What can be read on the page, without empty lines."""
        # Selenium's own way to the text of a page takes seconds where there is much of it.
        text: str = self.browser.execute_script("return document.body?.innerText ?? ''")
        return re.sub(r"\n+", "\n", text)

    def see(self, *texts: str) -> None:
        """Wait until all these texts can be read on the page."""
        self.wait(f"{texts}", lambda: all(text in self.text() for text in texts))

    def click(self, text: str) -> None:
        """Click on what bears exactly this text, once it is there and enabled."""
        self.click_on(f"//*[text()[normalize-space()='{text}']]", text)

    def click_on(self, path: str, name: str) -> None:
        """Click on the first visible and enabled one of the elements on an XPath."""
        enabled = f"{path}[not(ancestor-or-self::*[@disabled or @aria-disabled='true'])]"

        def clicked() -> bool:
            found: list[WebElement] = self.browser.find_elements(By.XPATH, enabled)
            shown = next((element for element in found if element.is_displayed()), None)
            if shown is not None:
                shown.click()
            return shown is not None

        self.wait(f"{name!r} to click on", clicked)

    def wait(self, what: str, condition: Callable[[], T], seconds: float = SECONDS) -> T:
        """Wait until a condition gives something true, and return it."""
        # Pages are drawn anew at any time, so what was found may be gone or covered when used.
        passing = (
            NoSuchElementException,
            StaleElementReferenceException,
            ElementNotInteractableException,
            ElementClickInterceptedException,
        )
        waiting = WebDriverWait(self.browser, seconds, 0.2, passing)
        try:
            return waiting.until(lambda _: condition())
        except TimeoutException:
            kept = self.keep(f"failed-{time.strftime('%H%M%S')}")
        raise AssertionError(
            f"waited {seconds} s in vain for {what} on {self.browser.current_url}; see {kept}"
        )

    def keep(self, name: str, *, width: int = WIDTH, height: int = HEIGHT, at: str = "") -> Path:
        """Save a picture of the page, scrolled to a text, and the page's text beside it."""
        self.resize(width, height)
        for element in self.browser.find_elements(By.XPATH, f"//*[text()='{at}']")[-1:]:
            self.browser.execute_script("arguments[0].scrollIntoView()", element)
        with suppress(TimeoutException):
            # What fades in is to be seen whole.
            WebDriverWait(self.browser, 2, 0.1).until(lambda it: not it.execute_script(MOVING))
        picture = self.pictures / f"{name}.png"
        self.browser.save_screenshot(str(picture))
        picture.with_suffix(".txt").write_text(f"{self.browser.current_url}\n{self.text()}\n")
        self.resize()
        return picture

    def resize(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        """Give the page a size in pixels, however large the window's frame is."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def go(self, place: str) -> None:
        """Click on a place in the list of places at the left."""
        if not self.browser.current_url.startswith(self.served.address):
            self.open("/")
        self.click_on(f"//a[normalize-space()='{place}']", place)

    def asset(self, name: str, tab: str = "Overview") -> None:
        """Go to an asset by the catalog, and to one of its tabs."""
        self.go("Catalog")
        self.see("Materialize selected")
        self.click(name)
        self.click_on(f"//*[@role='tab'][normalize-space()='{tab}']", tab)

    def job(self, name: str) -> None:
        """Go to a job by the list of jobs."""
        # Anew, because what was said of an earlier launch stays while the mouse is on it.
        self.open("/")
        self.go("Jobs")
        self.click(name)
        self.see("Description")

    def launched(self, job: str) -> Ran:
        """Follow the run of a job that was just launched to its success."""
        place = self.wait("the run's page", lambda: RUN.search(self.browser.current_url))
        outcome = self.wait("the end of the run", lambda: ENDED.search(self.text()), 2 * SECONDS)[1]
        self.see(f"{job} @", "Process for run exited")
        assert outcome == "Success", f"{job} ended as {outcome}; see {self.keep(f'failed-{job}')}"
        return Ran(place[1], self.text())


@pytest.fixture(scope="module")
def served(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A running `pipeline dev` on a sample and a server of its own; both are ended."""
    # Short, because a Unix socket's path has room for about a hundred letters.
    folder = Path(tempfile.mkdtemp(prefix=f"ui{os.getpid()}"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    log = tmp_path_factory.mktemp("dev") / "dev.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("pipeline"), "dev", "--port", str(port)],
            env=environment(
                MIGRATIONS=",".join(registry.find().names),
                PIPELINE_HOME=folder / "home",
                **SAMPLES,
            ),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 2 * SECONDS
        while not answers(f"{address}/server_info"):
            running = process.poll() is None and time.monotonic() < deadline
            assert running, f"the UI does not answer; see {log}"
            time.sleep(0.1)
        yield Served(address, folder / "home")
        process.terminate()
        assert process.wait(SECONDS) == 0, f"it did not end well; see {log}"
        assert server_of(folder / "home" / "postgres") is None, "its database server still runs"
    finally:
        end(process)
        if server_of(folder / "home" / "postgres") is not None:
            kill_server(folder / "home" / "postgres")
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    """Whether a server answers, asked without a proxy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError), direct.open(address, timeout=5) as response:
        return bool(response.status == 200)
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started; nothing, if it has ended."""
    if process.poll() is None:
        parts = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for part in parts:
            with suppress(psutil.NoSuchProcess):
                part.kill()
        process.wait()


@pytest.fixture(scope="module")
def ui(
    programs: Programs, served: Served, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ui]:
    """A fresh browser in front of the running UI."""
    folder = tmp_path_factory.mktemp("ui")
    pictures = Path(os.environ.get("UI_PICTURES") or folder)
    pictures.mkdir(parents=True, exist_ok=True)
    options = ChromeOptions()
    options.binary_location = programs.browser
    for option in (*LONELY, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        # Selenium would ask a proxy for the driver, which listens here.
        patch.setenv("no_proxy", "*")
        browser = Chrome(options, ChromeService(programs.driver))
        try:
            made = Ui(browser, served, pictures)
            made.resize()
            yield made
        finally:
            with suppress(WebDriverException):
                browser.quit()


@pytest.fixture(scope="module")
def migrated(ui: Ui) -> Ran:
    """The job `migrate`, launched in the browser."""
    ui.job("migrate")
    ui.see(f"View {len(NAMES)} assets")
    ui.click("Materialize all")
    ui.see("Launched run")
    ui.click("View")
    return ui.launched("migrate")


@pytest.fixture(scope="module")
def planned(ui: Ui) -> Ran:
    """The job `plan`, launched in the browser."""
    ui.job("plan")
    ui.see("Asset: plan")
    ui.click("Materialize")
    ui.see("Launched run")
    ui.click("View")
    return ui.launched("plan")


@pytest.fixture(scope="module")
def verified(ui: Ui, migrated: Ran) -> Ran:
    """The job `verify`, launched in the browser on what `migrate` committed."""
    ui.job("verify")
    ui.click("Launchpad")
    ui.see("No errors")
    ui.click("Launch Run")
    return ui.launched("verify")


def test_the_graph_shows_every_table_and_the_plan(ui: Ui) -> None:
    ui.open("/locations/pipeline/asset-groups/content")
    ui.see(*NAMES, "plan", "Asset Group in")


def test_plan_is_launched_and_tells_what_a_move_would_do(ui: Ui, planned: Ran) -> None:
    ui.asset("plan")
    ui.see("Latest materialization", "would move", *NAMES, "1058")
    ui.keep("plan", width=1600, height=1400, at="Metadata")


def test_migrate_is_launched_by_its_button_and_succeeds(ui: Ui, migrated: Ran) -> None:
    ui.open(f"/runs/{migrated.run_id}")
    checks = len(NAMES) * len(MOVE_CHECKS)
    ui.see(f"{len(NAMES)} assets", f"{checks} checks", f"Succeeded ({len(NAMES)})", "RUN_SUCCESS")
    ui.keep("migrate")


def test_an_asset_shows_what_its_move_did(ui: Ui, migrated: Ran) -> None:
    ui.asset("fragment_assets")
    report = ui.served.home / "reports" / migrated.run_id / "evidence.html"
    ui.see("Row count\n192", "filled", "seconds_by_phase", '"prove":', str(report))
    ui.see("preview", "13644 bytes", "asset_data is NULL")
    ui.keep("asset", width=1600, height=1400, at="Metadata")


@pytest.mark.parametrize("table", NAMES)
def test_an_asset_lists_the_checks_of_its_move(ui: Ui, migrated: Ran, table: str) -> None:
    ui.asset(table, "Checks")
    ui.see(*(outcome(table, check) for check in MOVE_CHECKS))


@pytest.mark.parametrize(
    ("check", "offending"),
    [
        ("conversions", ("rank_score", "9011", "3.14159", "3.14")),
        ("quarantine", ("assessed_by", "is NULL", "9004")),
    ],
)
def test_a_check_shows_its_offenders(
    ui: Ui, migrated: Ran, check: str, offending: tuple[str, ...]
) -> None:
    ui.asset("rankings", "Checks")
    ui.click(check)
    ui.see(DESCRIPTIONS[check], "Evaluation result\nFailed")
    ui.keep(check)
    ui.click_on("//a[starts-with(normalize-space(), '[Show ')]", "the offenders")
    ui.see(*offending, "Close")
    ui.keep(f"{check}-offenders")
    ui.click("Close")


def test_verify_is_launched_and_checks_what_is_committed(ui: Ui, verified: Ran) -> None:
    assert f"{len(NAMES) * len(verification.NAMES)} checks" in verified.text
    ui.asset("rankings", "Checks")
    ui.see(*(outcome("rankings", check) for check in verification.NAMES))
    ui.click("schema")
    ui.see(DESCRIPTIONS["schema"], "Evaluation result\nPassed")
    ui.keep("schema")


def test_the_graph_shows_what_ran(ui: Ui, planned: Ran, verified: Ran) -> None:
    ui.open("/locations/pipeline/asset-groups/content")
    every = len(proof.CHECKS)
    for table, warning in WARNINGS.items():
        passed = every - len(warning)
        ui.see(table, f"{passed} / {every} Passed")
    # Search comes with a sync, and the census with its own job; this graph has seen neither.
    ui.wait("a graph of what ran", lambda: ui.text().count("Never materialized") == 2)
    ui.keep("graph")


def test_a_run_of_a_command_is_listed_among_those_of_its_job(ui: Ui, verified: Ran) -> None:
    ran = pipeline(
        "redrive",
        MIGRATIONS=",".join(registry.find().names),
        PIPELINE_HOME=ui.served.home,
        **SAMPLES,
    )
    assert ran.code == 0, ran.err
    ui.open("/locations/pipeline/jobs/redrive/runs")
    ui.see("pipeline/command: pipeline redrive", "Success")
    ui.keep("runs")
    ui.open("/overview/activity/timeline")
    ui.see("redrive")
    # What was verified is still to be seen.
    ui.asset("rankings", "Checks")
    ui.click("schema")
    ui.see("Evaluation result\nPassed", "not checked again by later moves", verified.run_id)
    ui.keep("verified")


def test_the_second_migration_lies_in_groups_of_its_own(ui: Ui) -> None:
    ui.open("/locations/pipeline/asset-groups/spaces")
    ui.see(*SPACES.metadata.tables, "spaces_plan")
    ui.open("/locations/pipeline/asset-groups/realtime")
    ui.see("realtime", "feed_retention", "0 / 5 Passed")


def test_what_operates_lies_in_a_group_of_its_own(ui: Ui) -> None:
    ui.open("/locations/pipeline/asset-groups/operations")
    ui.see("source_backup", "target_backup", "cutover", "housekeeping", "0 / 1 Passed")
    ui.keep("operations")


def test_the_browser_was_forbidden_nothing_in_all_these_pages(ui: Ui) -> None:
    ui.open("/graphql")
    ui.wait("GraphiQL", lambda: ui.browser.find_element(By.CLASS_NAME, "graphiql-container"))
    said = [entry["message"] for entry in ui.browser.get_log("browser")]
    signs = ("Content Security Policy", "status of 4")
    assert [each for each in said if any(sign in each for sign in signs)] == []


def test_a_page_of_another_site_starts_no_run_and_hears_nothing(ui: Ui) -> None:
    launch = """mutation { launchRun(executionParams: { runConfigData: {}, selector: {
      repositoryLocationName: "pipeline", repositoryName: "__repository__", jobName: "plan" },
      executionMetadata: { tags: [{ key: "by", value: "WAY" }] } }) { __typename } }"""
    found = "{ runsOrError { ... on Runs { results { jobName tags { key value } } } } }"
    with other_site() as port:
        deeds = {strategy: launch.replace("WAY", f"stranger-{strategy}") for strategy in WAYS}
        heard = attack(ui.browser, f"http://{SITES[0]}:{port}/", ui.served.address, deeds)
    status, runs = posted_by_its_own_page(ui.browser, ui.served.address, found)
    assert (status, re.findall("stranger-[a-z_]+", runs), heard) == (200, [], False)


def test_the_report_that_an_asset_names_opens(ui: Ui, migrated: Ran) -> None:
    report = ui.served.home / "reports" / migrated.run_id / "evidence.html"
    ui.browser.get(report.as_uri())
    ui.see("Proven", migrated.run_id, *NAMES)
    ui.keep("report")


def outcome(table: str, check: str, prefix: str = "") -> str:
    """How the list of a table's checks says what became of one."""
    return f"\n{prefix}{check}\n{'Failed' if check in WARNINGS[table] else 'Succeeded'}"
