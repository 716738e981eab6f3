"""A real Chromium, and what tests do with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import axe_core_python
from selenium import webdriver
from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from stack.bootstrap import is_there

SECONDS = 20.0
"""How long tests wait for something: long enough on a busy machine."""
_ARGUMENTS = (
    # Chromium refuses its sandbox to root; there is no GPU and little shared memory.
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    # It sends requests only to the pages under test.
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-default-browser-check"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()


class Browser:
    """A Chromium with one window.

    Args:
        profile: the folder of its profile, which no other browser uses.
    """

    def __init__(self, profile: Path) -> None:
        assert is_there("chromium"), "chromium is missing: python3 stack/bootstrap.py --test"
        options = Options()
        options.binary_location = "/usr/bin/chromium"
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = Service("/usr/bin/chromedriver")
        self.driver = webdriver.Chrome(options=options, service=service)
        self.fresh()

    def fresh(self) -> None:
        """Reset the window: an empty page, large, light colours, an empty console."""
        self.driver.get("about:blank")
        self.look(dark=False)
        self.resize(1440, 1000)
        self.console()

    def close(self) -> None:
        """End Chromium."""
        self.driver.quit()

    def look(self, *, dark: bool) -> None:
        """Set whether the visitor's system prefers dark colours."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def resize(self, width: int, height: int) -> None:
        """Set the window's size in CSS pixels; one narrower than 600 is a telephone's."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def open(self, url: str) -> None:
        """Load a page."""
        self.driver.get(url)

    def console(self) -> list[str]:
        """The console's messages since the last call: errors, refused loads, CSP violations."""
        driver: Any = self.driver
        return [str(line["message"]) for line in driver.get_log("browser")]

    def find(self, css: str) -> WebElement:
        """The first element that a selector matches."""
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        """Every element that a selector matches."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """The text of the first matching element; empty if there is no such element."""
        found = self.all(css)
        return found[0].text if found else ""

    def run(self, script: str, *args: Any) -> Any:
        """Run JavaScript; return what it returns."""
        return self.driver.execute_script(script, *args)

    def until(self, sees: Callable[[], Any], seconds: float = SECONDS) -> float:
        """Wait until `sees()` is true; return the seconds that it took."""
        began = time.monotonic()
        while True:
            try:
                if sees():
                    return time.monotonic() - began
            except (NoSuchElementException, StaleElementReferenceException):
                pass  # not drawn yet, or drawn anew
            if time.monotonic() - began > seconds:
                shown = self.text("body")
                raise AssertionError(f"not seen within {seconds:g} s. The page says:\n{shown}")
            time.sleep(0.03)

    def faults(self) -> list[str]:
        """The violations that axe-core finds, of WCAG 2.1 A and AA and of its best practices."""
        self.run(_AXE)
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa',"
            " 'best-practice']}).then(r => done(r.violations));"
        )
        return [
            f"{fault['id']}: {node['html'][:160]} {node['failureSummary']}"
            for fault in found
            for node in fault["nodes"]
        ]

    def overflows(self) -> list[str]:
        """The elements that reach beyond the right edge of the window, unless they scroll."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll('body *')].filter(e => {"
            " const r = e.getBoundingClientRect();"
            " return r.width && r.right > document.documentElement.clientWidth + 1"
            "  && !e.closest('.scroll') && !e.closest('.skip');"
            "}).map(e => e.outerHTML.slice(0, 120))"
        )
        return found
