"""A headless Chromium, Debian's, driven by selenium; the tests that need it are skipped where it is not installed."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

SECONDS = 30


class Browser:
    """A page in a browser, and what a reader does with it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, selection: str = "", width: int = 1280, dark: bool = False) -> "Browser":
        """A fresh page, until all of it is drawn; fails if it reports an error meanwhile."""
        self.driver.get("about:blank")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.errors()
        self.driver.get_log("performance")
        self.driver.get(page.as_uri() + selection)
        end = time.monotonic() + SECONDS
        while not self.js("return document.documentElement.dataset.ready"):
            assert time.monotonic() < end, "the page was not drawn"
            time.sleep(0.02)
        assert self.errors() == []
        return self

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """What was asked for since the page was opened, the page itself apart."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("file:", "data:", "about:", "blob:"))]

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        return list(self.js(script, selector))

    def said(self) -> str:
        """What a screen reader says of what has the focus."""
        return str(self.js("return document.activeElement.getAttribute('aria-label')"))

    def number(self, name: str) -> float:
        """A number of the chosen pair, as exact as the page has it."""
        return float(self.js("return document.querySelector(`[data-value='${arguments[0]}']`).dataset.exact", name))

    def picture(self, path: Path) -> bytes:
        self.driver.get_screenshot_as_file(str(path))
        return path.read_bytes()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("chromium and chromedriver (Debian: chromium, chromium-driver) are not installed")
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
