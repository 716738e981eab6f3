"""The demo player of `tapedeck up`, and a failover as the dashboard shows it."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

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


def choose(browser: Browser, mix_id: int) -> None:
    """Choose a mix, once the page has asked for all of them and nothing is awaited."""
    css = f"#mix option[value='{mix_id}']"
    browser.until(lambda: browser.all(css) and browser.find("#mix").is_enabled())
    browser.find(css).click()


def test_a_mix_that_is_played_again_after_its_end_has_its_place_kept(
    browser: Browser, stack: Terminal
) -> None:
    browser.open(address(stack, "player"))
    choose(browser, 2)
    press(browser, "play")
    browser.until(lambda: played(browser, 1))
    while browser.text("#track") != "The mix is over":
        press(browser, "next")
        browser.until(lambda: browser.find("#play").is_enabled())
    press(browser, "play")
    browser.until(lambda: "were acknowledged" in browser.text("#kept") or played(browser, 1))
    assert played(browser, 1)


def test_a_move_in_another_tab_loses_no_place(browser: Browser, stack: Terminal) -> None:
    page, driver = address(stack, "player"), browser.driver
    browser.open(page)
    choose(browser, 3)
    press(browser, "play")
    browser.until(lambda: played(browser, 1))
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    browser.open(page)
    press(browser, "play")
    browser.until(lambda: played(browser, 1))
    for tracks in (2, 3):
        press(browser, "next")
        browser.until(lambda tracks=tracks: played(browser, tracks))
    driver.close()
    driver.switch_to.window(first)
    # The first tab is behind: it moves nothing, and shows where the listener is.
    press(browser, "next")
    browser.until(lambda: len(browser.all("#played li")) == 3)
    assert played(browser, 3)


def test_a_player_used_by_keyboard_keeps_the_focus_on_its_button(
    browser: Browser, stack: Terminal
) -> None:
    browser.open(address(stack, "player"))
    choose(browser, 4)
    press(browser, "play")
    # While an answer is awaited the button is disabled, long enough to be drawn so.
    slow(browser, 300)
    try:
        for tracks in (2, 3):
            browser.until(lambda: browser.find("#next").is_enabled())
            if tracks == 2:
                browser.run("document.getElementById('next').focus()")
            browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
            browser.until(lambda tracks=tracks: played(browser, tracks))
    finally:
        slow(browser, 0)


def slow(browser: Browser, milliseconds: int, *, offline: bool = False) -> None:
    """Delay all answers to the page, or cut it off from the network."""
    conditions = {"offline": offline, "latency": milliseconds}
    browser.driver.execute_cdp_cmd("Network.enable", {})
    browser.driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {**conditions, "downloadThroughput": -1, "uploadThroughput": -1},
    )


def block(browser: Browser, *addresses: str) -> None:
    """Let requests to these addresses fail in the browser, and no others."""
    browser.driver.execute_cdp_cmd("Network.enable", {})
    browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": addresses})


def test_a_page_opened_while_the_network_fails_keeps_its_listener(
    browser: Browser, stack: Terminal
) -> None:
    page = address(stack, "player")
    browser.open(page)
    choose(browser, 5)
    kept = "return JSON.parse(localStorage.getItem('tapedeck.demo')).listener.play_token"
    token = browser.run(kept)
    block(browser, "*next_mix*")
    try:
        browser.open(page)
        browser.until(lambda: browser.all("#mix option") and browser.find("#play").is_enabled())
        assert browser.run(kept) == token
    finally:
        block(browser)


def test_play_cannot_be_pressed_before_the_mixes_are_there(
    browser: Browser, stack: Terminal
) -> None:
    block(browser, "*mix_sets*")
    try:
        browser.open(address(stack, "player"))
        browser.until(lambda: "asking again" in browser.text("#notice"))
        assert not browser.find("#play").is_enabled()
    finally:
        block(browser)
    browser.until(lambda: browser.find("#play").is_enabled())


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


def test_the_page_of_a_mix_takes_a_new_token_for_one_that_is_refused(
    browser: Browser, stack: Terminal
) -> None:
    page = f"{address(stack, 'API')}/shellac-sam/hot-fives-at-midnight"
    browser.open(page)
    browser.run("localStorage.setItem('tapedeck.listener', 'of-an-earlier-key')")
    press(browser, "play")
    browser.until(lambda: "West End Blues" in browser.text("#track"))
    assert browser.run("return localStorage.getItem('tapedeck.listener')") != "of-an-earlier-key"


def test_the_page_of_a_mix_asks_again_once_the_network_is_back(
    browser: Browser, stack: Terminal
) -> None:
    browser.open(f"{address(stack, 'API')}/shellac-sam/hot-fives-at-midnight")
    browser.run("localStorage.removeItem('tapedeck.listener')")
    press(browser, "play")
    browser.until(lambda: "West End Blues" in browser.text("#track"))
    slow(browser, 0, offline=True)
    try:
        press(browser, "next")
        browser.until(lambda: "asking again" in browser.text("#notice"))
        # Pressed twice, it moves once: the answer to the first is awaited.
        press(browser, "next")
    finally:
        slow(browser, 0)
    browser.until(lambda: "Potato Head Blues" in browser.text("#track"))
    assert "asking again" not in browser.text("#notice")


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
