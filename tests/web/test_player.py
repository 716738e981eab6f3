"""The demo player of `tapedeck up`, and a failover as the dashboard shows it."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.terminal import Terminal, eventually
from tests.web.browser import Browser

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path_factory.mktemp("up"))
    terminal.up("--ephemeral")
    yield terminal
    terminal.close()


def address(stack: Terminal, what: str) -> str:
    """The address that the screen of `tapedeck up` gives for `player`, `dashboard` or `API`."""
    found = re.search(rf"{what}\s+(http://127\.0\.0\.1:\d+)/", stack.screen)
    assert found is not None, stack.screen
    return found[1]


def press(browser: Browser, name: str) -> None:
    browser.until(lambda: browser.find(f"#{name}").is_enabled())
    browser.find(f"#{name}").click()


def played(browser: Browser, tracks: int) -> bool:
    return browser.text("#kept").startswith(f"✓ Place kept: {tracks} track")


def order(browser: Browser, what: str, server: str) -> None:
    css = f'button[aria-label="{what} {server}"]'
    browser.until(lambda: browser.all(css) and browser.find(css).is_enabled())
    browser.find(css).click()


def shown(browser: Browser, button: str) -> None:
    browser.until(lambda: browser.all(f'button[aria-label="{button}"]'))


def test_the_place_is_kept_when_a_lookup_node_and_the_primary_are_killed(
    browser: Browser, stack: Terminal
) -> None:
    browser.open(address(stack, "player"))
    # The servers come in after the buttons, and move them while the pointer is on its way.
    browser.until(lambda: browser.all("#servers li"))
    press(browser, "play")
    browser.until(lambda: played(browser, 1))
    press(browser, "next")
    browser.until(lambda: played(browser, 2))
    assert len(browser.all("#played li")) == 2
    # Kill the node with the hint to this place.
    browser.until(lambda: "holds the hint" in browser.text("#servers"))
    (owner,) = [s for s in browser.all("#servers li") if "holds the hint" in s.text]
    name = owner.text.splitlines()[0]
    order(browser, "Kill", name)
    shown(browser, f"Start {name}")
    press(browser, "next")
    browser.until(lambda: played(browser, 3))
    # Kill the primary.
    order(browser, "Kill", "mysql1")
    press(browser, "next")
    browser.until(lambda: played(browser, 4))
    assert browser.faults() == []
    browser.look(dark=True)
    assert browser.faults() == []
    browser.resize(320, 800)
    assert browser.overflows() == []
    # A page that is opened again has the same listener.
    browser.open(address(stack, "player"))
    press(browser, "play")
    browser.until(lambda: played(browser, 4))
    assert eventually(lambda: "mysql2 is the primary now" in stack.screen)
    for server in (name, "mysql1"):
        order(browser, "Start", server)
        shown(browser, f"Kill {server}")


def test_the_page_of_a_mix_plays_it_and_goes_on_where_it_was(
    browser: Browser, stack: Terminal
) -> None:
    page = f"{address(stack, 'API')}/shellac-sam/hot-fives-at-midnight"
    browser.open(page)
    assert browser.text("h1") == "Hot Fives at Midnight"
    assert browser.faults() == []
    press(browser, "play")
    browser.until(lambda: "West End Blues" in browser.text("#track"))
    press(browser, "next")
    browser.until(lambda: "West End Blues" not in browser.text("#track"))
    here = browser.text("#track")
    browser.open(page)
    press(browser, "play")
    browser.until(lambda: browser.text("#track") == here)
    browser.resize(320, 800)
    assert browser.overflows() == []


def test_a_failover_is_shown_with_its_consequences(browser: Browser, stack: Terminal) -> None:
    ports = stack.ports
    browser.open(address(stack, "dashboard"))
    browser.until(lambda: browser.text("#headline") == "All is well")
    before = browser.text(".host b")
    other = next(f"127.0.0.1:{p}" for p in ports[5:] if not before.endswith(str(p)))
    name = next(n for n, p in zip(("mysql1", "mysql2"), ports[5:], strict=True) if str(p) in before)
    urllib.request.urlopen(_order(stack, f"kill/{name}")).close()
    browser.until(lambda: f"The primary is now {other}" in browser.text("#events"))
    browser.until(lambda: browser.text(".host b") == other)
    browser.until(lambda: browser.text("#headline") == "Degraded, and serving")
    assert "not redundant" in browser.text("#parts")
    assert "no answer" in browser.text("#hosts")
    assert browser.all(".chart .flag.note")
    urllib.request.urlopen(_order(stack, f"start/{name}")).close()
    browser.until(lambda: browser.text("#headline") == "All is well")
    browser.until(lambda: browser.all(".host .badge[data-level=ok]")[1].text.endswith("standby"))


def _order(stack: Terminal, what: str) -> urllib.request.Request:
    return urllib.request.Request(
        f"{address(stack, 'player')}/stack/{what}",
        method="POST",
        headers={"X-Tapedeck-Demo": "player"},
    )


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        # A form of another site cannot send the player's header.
        ("/stack/kill/lookup1", "POST", {"Origin": "https://elsewhere.example"}),
        ("/listener", "POST", {}),
        # Another host name with this address (DNS rebinding).
        ("/stack", "GET", {"Host": "elsewhere.example"}),
        ("/stack/kill/lookup1", "POST", {"Host": "elsewhere.example", "X-Tapedeck-Demo": "player"}),
    ],
)
def test_other_sites_in_the_browser_can_do_nothing(
    stack: Terminal, path: str, method: str, headers: dict[str, str]
) -> None:
    request = urllib.request.Request(
        address(stack, "player") + path, method=method, headers=headers
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403
    refused.value.close()


@pytest.mark.parametrize("what", ["kill/gateway", "kill/..%2fup", "promote/mysql1"])
def test_only_servers_of_the_stack_can_be_killed(stack: Terminal, what: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(_order(stack, what))
    assert refused.value.code == 404
    refused.value.close()


def test_a_taken_port_that_was_asked_for_is_named(tmp_path: Path, stack: Terminal) -> None:
    port = address(stack, "player").rpartition(":")[2]
    other = Terminal(tmp_path)
    ran = other.run("up", *other.options, "--ephemeral", "--player-port", port)
    assert ran.returncode == 1
    assert f"port {port} (player) is taken: choose another with --player-port" in ran.stderr
