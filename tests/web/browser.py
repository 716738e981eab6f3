"""A real Chromium, and the words in which the tests say what somebody sees in it."""

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
"""Within this everything a test waits for has happened, also on a busy machine."""
_ARGUMENTS = (
    # Chromium refuses its sandbox to root; there is no GPU and little shared memory.
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    # It talks to the pages under test and to nobody else.
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-default-browser-check"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()


class Browser:
    """One Chromium with one window.

    Args:
        profile: a folder of its own.
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
        """As a new window: large, light, nothing logged."""
        self.driver.get("about:blank")
        self.look(dark=False)
        self.resize(1440, 1000)
        self.console()

    def close(self) -> None:
        """End it."""
        self.driver.quit()

    def look(self, *, dark: bool) -> None:
        """What the visitor's system prefers."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def resize(self, width: int, height: int) -> None:
        """The window in CSS pixels; a narrow one is a telephone's."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def open(self, url: str) -> None:
        """Go there."""
        self.driver.get(url)

    def console(self) -> list[str]:
        """What the console said since it was asked last: errors, refused loads, CSP violations."""
        driver: Any = self.driver
        return [str(line["message"]) for line in driver.get_log("browser")]

    def find(self, css: str) -> WebElement:
        """The first element."""
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        """Every element."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """What is written there; empty where nothing is."""
        found = self.all(css)
        return found[0].text if found else ""

    def run(self, script: str, *args: Any) -> Any:
        """The value of JavaScript (which says `return`)."""
        return self.driver.execute_script(script, *args)

    def until(self, sees: Callable[[], Any], seconds: float = SECONDS) -> float:
        """Wait until `sees()`; the seconds that it took."""
        began = time.monotonic()
        while True:
            try:
                if sees():
                    return time.monotonic() - began
            except (NoSuchElementException, StaleElementReferenceException):
                pass  # not drawn yet, or drawn anew
            if time.monotonic() - began > seconds:
                shown = self.text("body")
                raise AssertionError(f"not seen in {seconds} s. The page says:\n{shown}")
            time.sleep(0.03)

    def faults(self) -> list[str]:
        """What axe-core finds against WCAG 2.1 A and AA."""
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
        """What reaches beyond the right edge of the window."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll('body *')].filter(e => {"
            " const r = e.getBoundingClientRect();"
            " return r.width && r.right > document.documentElement.clientWidth + 1"
            "  && !e.closest('.scroll') && !e.closest('.skip');"
            "}).map(e => e.outerHTML.slice(0, 120))"
        )
        return found
