"""A headless Chromium, as a visitor of a page has it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

from tests.support.tools import tool
from tests.support.waiting import holds_within

SEVERE = "SEVERE"


@contextmanager
def chromium() -> Iterator[WebDriver]:
    """A browser without a window; the test is skipped where Debian's Chromium is not installed."""
    binary, driver = tool("chromium"), tool("chromedriver", "chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--window-size=1500,1200")
    if os.geteuid() == 0:
        # Chromium refuses to run as root with its sandbox.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as browser:
        yield browser


def errors_of(browser: WebDriver) -> list[str]:
    """What the console has told as errors since this was last asked."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == SEVERE]


def paste(browser: WebDriver, text: str) -> None:
    """Insert a text where the cursor is, at once."""
    browser.execute_cdp_cmd("Input.insertText", {"text": text})


def until(seconds: float, holds: Callable[[], bool], what: str) -> None:
    """Waits for a page to become so; what is replaced while it is read counts as not yet so."""

    def held() -> bool:
        try:
            return holds()
        except WebDriverException:
            return False

    assert holds_within(seconds, held, 0.1), what
