"""The dashboard as a visitor sees it in a real Chromium, on real servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from selenium.webdriver.common.keys import Keys

from gateway.dashboard.history import STEP
from sharding.partitions.calendar import table
from sharding.partitions.sql import create_table
from stack.mariadb import MariaDB
from stack.process import free_port
from stack.redis import RedisServer
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix
from tests.web.browser import Browser

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]
NASTY = "<img/src=x/onerror=document.title='broken'>"


class Load:
    """Listeners who play through a gateway, one after the other, until the block ends."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._play()))
        self.statuses: list[int] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(20)

    async def _play(self) -> None:
        async with aiohttp.ClientSession(self._gateway.url) as http:
            while not self._end.is_set():
                async with http.get("/sets/new") as answer:
                    token = (await answer.json())["play_token"]
                for action in ("play", "next", "next"):
                    async with http.post(f"/sets/{token}/{action}?mix_id=3") as answer:
                        self.statuses.append(answer.status)


@pytest.fixture
def gateway(stack_config: StackConfig, tmp_path: Path) -> Iterator[Gateway]:
    document = stack_config(lookup={"server_retry_timeout": 300, "timeout": 200})
    put_mixes(document, [a_mix(3, tracks=8)])
    with Gateway(document, tmp_path) as gateway:
        asyncio.run(gateway.until("/readyz", lambda _, body: body["status"] == "ready"))
        yield gateway


def is_well(browser: Browser) -> bool:
    return browser.text("#headline") == "All is well"


def figure(browser: Browser, css: str) -> float:
    """The number in an element's text; 0 if it has none."""
    return float(re.sub(r"[^0-9.]", "", browser.text(css)) or 0)


def test_the_page_under_load_says_that_all_is_well_and_shows_the_traffic(
    browser: Browser, gateway: Gateway
) -> None:
    with Load(gateway):
        browser.open(gateway.admin)
        browser.until(lambda: is_well(browser) and browser.text("#contact") == "live")
        browser.until(lambda: figure(browser, ".chart:first-child .key b") > 5)
        browser.until(lambda: browser.all(".chart .area.c1"))
        browser.until(lambda: [n.text.count("live") for n in browser.all(".node")] == [1] * 3)
        browser.until(lambda: len(browser.all(".arc[data-level=ok]")) == 3)
        # The ring is small while every node is live; a button enlarges it.
        assert browser.find("#ring-picture").size["width"] < 150
        browser.find("#ring-more").click()
        assert browser.find("#ring-picture").size["width"] > 200
        # Nodes tell their entries and memory, MySQL the rows.
        browser.until(lambda: "KiB" in browser.text(".node") or "MiB" in browser.text(".node"))
        browser.until(lambda: len(browser.all(".day[data-kind=today]")) == 1)
        assert "is the primary" in browser.text("#parts")
        assert browser.text("#workers").splitlines()[1].startswith("1 ready")
    shares = [int(re.findall(r"(\d+) %", node.text)[0]) for node in browser.all(".node")]
    assert sum(shares) in (99, 100, 101)
    asked = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert len(asked) > 8
    assert all(address.startswith(gateway.admin + "/") for address in asked)
    assert browser.console() == []


def test_a_page_that_is_opened_later_shows_the_time_before(
    browser: Browser, gateway: Gateway
) -> None:
    with Load(gateway):
        # No page may be open meanwhile, so the test can only wait for the history's next step.
        time.sleep(STEP + 1.5)
    browser.open(gateway.admin)
    browser.until(lambda: browser.all(".chart .area.c1"))
    ago = browser.find("#moment")
    ago.send_keys(Keys.ARROW_LEFT)
    browser.until(lambda: browser.text("#moment-note").startswith("at "))
    assert figure(browser, ".chart:first-child .key b") > 5


def test_an_ejection_appears_within_two_seconds_and_its_end_too(
    browser: Browser, gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    with Load(gateway) as load:
        browser.open(gateway.admin)
        browser.until(lambda: is_well(browser) and len(browser.all(".arc[data-level=ok]")) == 3)
        lookup_servers[1].kill()
        asyncio.run(gateway.until("/ring", lambda _, ring: ring["nodes"][1]["state"] == "ejected"))
        took = browser.until(lambda: "out of the ring" in browser.text(".node:nth-child(2)"), 2)
        assert took < 2
        assert browser.text("#headline") == "Degraded, and serving"
        assert "lookup2" in browser.text("#reasons")
        assert re.search(r"since \d\d:\d\d:\d\d", browser.text("#reasons"))
        assert "lookup2 since" in browser.text("#parts")
        assert browser.find(".node:nth-child(2)").get_attribute("data-level") == "bad"
        # The ring shows that its arc is out, and which arcs of the two others have its keys.
        browser.until(lambda: len(browser.all(".arc[data-level=bad]")) == 1)
        browser.until(
            lambda: sum(bool(a.get_attribute("d")) for a in browser.all(".arc.takes")) == 2
        )
        browser.until(lambda: browser.all(".chart .band"))
        assert "Lookup node lookup2 is out of the ring" in browser.text("#events")
        # The gateway itself serves the runbook that the reason links.
        page = browser.find("#reasons a").get_attribute("href")
        assert page is not None
        with urllib.request.urlopen(page) as answer:
            assert answer.read().startswith(b"# TapedeckLookupNodeOut")
        lookup_servers[1].start()
        browser.until(lambda: is_well(browser))
        browser.until(lambda: "lasted" in browser.text("#events"))
        assert browser.all(".chart .band")
    assert set(load.statuses) == {200}
    assert browser.console() == []


def test_a_reload_is_marked_on_the_time_axis_and_a_refused_one_is_told(
    browser: Browser, gateway: Gateway
) -> None:
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser))
    gateway.document["player"] = {"skip_limit": 5}
    gateway.write_config()
    gateway.send(signal.SIGHUP)
    browser.until(lambda: "The configuration was reloaded" in browser.text("#events"))
    assert browser.all(".chart .flag.note")
    gateway.document["player"] = {"skip_limit": -5}
    gateway.write_config()
    gateway.send(signal.SIGHUP)
    browser.until(lambda: "nothing changed" in browser.text("#events"))


def test_a_reload_that_moves_keys_changes_the_ring_that_is_drawn(
    browser: Browser, gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    asyncio.run(_create(gateway, 60))
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser) and len(browser.all(".node")) == 3)
    browser.until(lambda: browser.find(".lane-group .arc"))
    before = browser.find(".lane-group .arc").get_attribute("d")
    gateway.document["lookup"]["servers"] = [server.server for server in lookup_servers[:2]]
    gateway.write_config()
    gateway.send(signal.SIGHUP)
    browser.until(lambda: "2 of 2 live · generation 2" in browser.text("#ring-note"))
    browser.until(lambda: len(browser.all(".node")) == 2)
    browser.until(lambda: browser.find(".lane-group .arc").get_attribute("d") != before)
    browser.until(lambda: "The ring is now generation 2" in browser.text("#events"))
    assert browser.all(".chart .flag.note")


async def _create(gateway: Gateway, states: int) -> None:
    headers = {**gateway.key, "If-None-Match": "*", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(gateway.url, headers=headers) as http:
        for number in range(1, states + 1):
            async with http.put(f"/states/{number * 7919}/1", data=b"{}") as answer:
                assert answer.status == 201


def test_a_listener_is_found_by_user_and_playlist(browser: Browser, gateway: Gateway) -> None:
    body = json.dumps({"note": NASTY, "position": 3})

    async def put() -> None:
        headers = {**gateway.key, "If-None-Match": "*", "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(gateway.url) as http,
            http.put("/states/4711/9", headers=headers, data=body) as answer,
        ):
            assert answer.status == 201

    asyncio.run(put())
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser))

    def look(user: str, playlist: str) -> None:
        for name, value in (("who", user), ("playlist", playlist)):
            field = browser.find(f"[name={name}]")
            field.clear()
            field.send_keys(value)
        browser.find("[name=playlist]").send_keys(Keys.ENTER)

    look("4711", "9")
    browser.until(lambda: "player_state_" in browser.text("#found"))
    found = browser.text("#found")
    assert "u:4711" in found
    assert re.search(r"lookup[123] says \d{8}", found)
    assert "The hint is right" in found
    assert "the states API" in found
    assert '"position": 3' in found
    # A stored body is shown as text, not as HTML.
    assert NASTY in found
    assert browser.run("return document.title").startswith("Tapedeck")
    assert not browser.all("#found img")
    look("4712", "9")
    browser.until(lambda: "no state in this playlist" in browser.text("#found"))
    look("9999999999999999999", "9")
    browser.until(lambda: "user_id must be a whole number" in browser.text("#found"))


def test_names_and_reasons_are_text_whatever_they_hold(
    browser: Browser, stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config(lookup={"servers": [f"127.0.0.1:{free_port()}:1 {NASTY}"]})
    with Gateway(document, tmp_path) as gateway:
        asyncio.run(_load(gateway, 8))
        browser.open(gateway.admin)
        browser.until(lambda: "out of the ring" in browser.text("#nodes"))
        browser.until(lambda: NASTY in browser.text("#reasons"))
        browser.until(lambda: NASTY in browser.text("#events"))
        assert not browser.all("main img")
        assert "broken" not in browser.run("return document.title")


async def _load(gateway: Gateway, requests: int) -> None:
    async with aiohttp.ClientSession(gateway.url, headers=gateway.key) as http:
        for number in range(1, requests + 1):
            async with http.get(f"/states/{number * 7919}/1") as answer:
                assert answer.status == 404


def test_the_token_is_asked_for_kept_in_the_tab_and_never_in_an_address(
    browser: Browser, stack_config: StackConfig, tmp_path: Path
) -> None:
    token = "correct-horse-battery-staple"
    document = stack_config(admin={"host": "0.0.0.0", "token": token})
    with Gateway(document, tmp_path) as gateway:
        browser.open(gateway.admin)
        browser.until(lambda: browser.find("#ask").is_displayed())
        assert browser.text("#headline") == "Looking"

        def give(words: str) -> None:
            browser.find("#token").send_keys(words, Keys.ENTER)

        give("wrong")
        browser.until(lambda: "refused" in browser.text("#ask-why"))
        give(token)
        browser.until(lambda: is_well(browser))
        assert not browser.find("#ask").is_displayed()
        browser.open(gateway.admin + "/?again")
        browser.until(lambda: is_well(browser))
        browser.find("[name=who]").send_keys("1")
        browser.find("[name=playlist]").send_keys("1", Keys.ENTER)
        browser.until(lambda: "no state" in browser.text("#found"))
        # The counters need the token too, which a plain link would not send.
        browser.find("#metrics").click()
        browser.until(lambda: len(browser.driver.window_handles) == 2)
        browser.driver.switch_to.window(browser.driver.window_handles[1])
        browser.until(lambda: "tapedeck_sli_requests_total" in browser.text("body"))
        browser.driver.close()
        browser.driver.switch_to.window(browser.driver.window_handles[0])
        asked = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert not any(token in address for address in [*asked, browser.driver.current_url])
        assert token not in gateway.log.read_text()


def test_several_workers_are_shown_each_and_as_a_whole(
    browser: Browser, stack_config: StackConfig, tmp_path: Path
) -> None:
    document = stack_config()
    put_mixes(document, [a_mix(3, tracks=8)])
    with Gateway(document, tmp_path, "--workers", "2") as gateway:
        asyncio.run(gateway.until("/readyz", lambda _, body: body["status"] == "ready"))
        browser.open(gateway.admin)
        with Load(gateway), Load(gateway), Load(gateway):
            browser.until(lambda: len(browser.text("#workers").splitlines()) == 4)
            browser.until(lambda: figure(browser, ".chart:first-child .key b") > 5)
            rows = [row.text.split() for row in browser.all("#workers tbody tr")]
        assert [row[0] for row in rows] == ["1", "2", "all"]
        first, second, both = (float(row[2].replace(",", "")) for row in rows)
        assert both == pytest.approx(first + second, abs=2)
        # The page names a worker that freezes, and stays live itself.
        pid = gateway.lines("worker started")[0]
        frozen = pid["worker"]
        os.kill(pid["pid"], signal.SIGSTOP)
        try:
            browser.until(lambda: f"Worker {frozen} does not answer" in browser.text("#parts"))
            assert browser.text("#contact") == "live"
        finally:
            os.kill(pid["pid"], signal.SIGCONT)
        browser.until(lambda: is_well(browser))


def test_other_gateways_are_shown_beside_this_one(
    browser: Browser, stack_config: StackConfig, tmp_path: Path
) -> None:
    token = "one-token-for-all-of-them"
    other = stack_config(admin={"host": "0.0.0.0", "token": token})
    put_mixes(other, [a_mix(3, tracks=8)])
    peers = [f"http://127.0.0.1:{port}" for port in (other["admin"]["port"], free_port())]
    this = stack_config(admin={"token": token, "peers": peers})
    with Gateway(this, tmp_path) as gateway, Gateway(other, tmp_path) as second:
        browser.open(gateway.admin)
        browser.until(lambda: len(browser.all("#gateways tbody tr")) == 4)
        browser.until(lambda: f"{other['gateway']['port']} ready" in browser.text("#gateways"))
        rows = [row.text for row in browser.all("#gateways tbody tr")]
        assert "(this one) degraded" in rows[0]
        assert f"{peers[1]} ? does not answer" in rows[2]
        assert rows[2].endswith("never")
        with Load(second):
            # The sum of all gateways has the other one's requests.
            browser.until(
                lambda: (
                    float(browser.all("#gateways tbody tr")[3].text.split()[2].replace(",", "")) > 1
                )
            )
        assert "1 of 2 not well" in browser.text("#parts")
        assert browser.faults() == []
        second.kill()
        browser.until(lambda: "2 of 2 not well" in browser.text("#parts"))
        browser.until(lambda: browser.text("#reasons").count("does not answer") == 2)
        assert not is_well(browser), "lost gateways are shown as well"


def test_a_gateway_with_an_open_page_stops_at_once_and_the_page_says_that_it_is_old(
    browser: Browser, gateway: Gateway
) -> None:
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser))
    began = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - began < 5
    browser.until(lambda: browser.text("#headline").startswith("Not known for "))
    # Nothing is green any more: each figure has its age, each part a question mark.
    assert browser.find("#verdict").get_attribute("data-level") == "unknown"
    assert browser.run("return document.title").startswith("? Not known")
    tiles = browser.all("#figures dd:nth-child(2)")
    assert tiles
    assert all(tile.text.startswith("? ") for tile in tiles)
    assert "? as it was" in browser.text(".ring-card .age")
    green = browser.run(
        "const well = getComputedStyle(document.documentElement).getPropertyValue('--ok');"
        "const probe = document.createElement('i'); probe.style.color = well;"
        "document.documentElement.append(probe);"
        "const green = getComputedStyle(probe).color; probe.remove();"
        "return [...document.querySelectorAll('main *')].filter(e => {"
        " const s = getComputedStyle(e);"
        " return [s.color, s.fill, s.borderLeftColor].includes(green);"
        "}).map(e => e.outerHTML.slice(0, 80))"
    )
    assert green == []
    gateway.start()
    browser.until(lambda: browser.text("#contact") == "live" and is_well(browser))


def test_the_verdict_comes_first_and_charts_fit_a_telephones_first_screen(
    browser: Browser, gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser) and len(browser.all(".node")) == 3)

    def places() -> list[float]:
        return [
            browser.run(f"return document.querySelector('{css}').getBoundingClientRect().top")
            for css in ("#verdict", ".events-card", ".charts-card", ".ring-card", ".days-card")
        ]

    assert places() == sorted(places())
    browser.resize(390, 844)
    assert places() == sorted(places())
    lookup_servers[2].kill()
    asyncio.run(_load(gateway, 40))
    browser.until(lambda: browser.text("#headline") == "Degraded, and serving")
    # The first chart is whole on a telephone's first screen, also with a fault.
    chart = browser.run("return document.querySelector('.plot').getBoundingClientRect().bottom")
    assert chart < 844


def test_latency_is_drawn_on_a_logarithmic_scale_with_the_objective_over_the_chosen_time(
    browser: Browser, gateway: Gateway
) -> None:
    with Load(gateway):
        browser.open(gateway.admin)
        browser.until(lambda: figure(browser, ".chart:nth-child(3) .key b") > 0)
        latency = ".chart:nth-child(3) "
        # In one call, because the chart is drawn anew each second.
        ticks = browser.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)",
            f"{latency}.tick",
        )
        assert "objective 250 ms" in ticks
        assert {"10 ms", "100 ms", "1 s"} <= set(ticks)
        browser.until(lambda: browser.text("#classes").count("100 %") >= 2)
        for seconds in ("300", "3600"):
            browser.run("document.querySelector(`[value='${arguments[0]}']`).click()", seconds)
            assert browser.find("#moment").get_attribute("min") == f"-{seconds}"
    assert "None in the time that is shown" in browser.text("#routes")


def test_without_commits_the_page_does_not_say_that_listeners_are_served(
    browser: Browser, gateway: Gateway, mysql: MariaDB
) -> None:
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser))
    with Load(gateway), mysql.connect() as holder, holder.cursor() as cursor:
        browser.run(
            "window.said = [];"
            "new MutationObserver(() => window.said.push(headline.textContent))"
            ".observe(headline, {childList: true, characterData: true, subtree: true});"
        )
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        browser.until(lambda: browser.text("#headline") == "Not serving")
        assert browser.find("#verdict").get_attribute("data-level") == "bad"
        assert "Changes do not commit: MySQL waits for a lock" in browser.text("#reasons")
        assert "commits nothing" in browser.text("#parts")
        assert browser.text("#figures").splitlines()[-1].endswith("s ago")
        assert "Degraded, and serving" not in browser.run("return window.said")
        # The listeners whose requests wait are told 503 in the end, and counted.
        browser.until(lambda: " 503" in browser.text("#routes"))
        browser.until(lambda: "Listeners hit\n1" in browser.text("#figures"))
        cursor.execute("UNLOCK TABLES")
    browser.until(lambda: browser.text("#headline") != "Not serving")


def test_what_is_not_known_is_a_question_mark_with_its_age_and_never_green(
    browser: Browser, stack_config: StackConfig, tmp_path: Path, mysql: MariaDB, database: str
) -> None:
    # The heartbeat's table has other columns: MySQL answers, but no heartbeat is committed.
    with mysql.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE tapedeck_heartbeat (id INT)")
    with Gateway(stack_config(), tmp_path) as gateway:
        browser.open(gateway.admin)
        browser.until(lambda: browser.text("#headline") == "Whether changes commit is not known")
        assert browser.find("#verdict").get_attribute("data-level") == "unknown"
        assert browser.text("#reasons").startswith("? Whether changes commit is not known")
        assert re.search(r"since \d\d:\d\d:\d\d", browser.text("#reasons"))
        assert "commits?" in browser.text("#parts")
        assert browser.text("#figures").splitlines()[-1] == "?"
        ready = asyncio.run(gateway.until("/readyz", lambda _, body: body["ages"][0] >= 2))
        assert (ready["status"], ready["causes"]) == ("degraded", ["unknown"])


async def _token(gateway: Gateway) -> str:
    async with (
        aiohttp.ClientSession(gateway.url) as http,
        http.get("/sets/new") as answer,
    ):
        token = str((await answer.json())["play_token"])
        async with http.get(f"/sets/{token}/play?mix_id=3") as answer:
            assert answer.status == 200
    return token


def test_a_listener_is_found_by_a_play_token_which_does_not_stay_on_the_screen(
    browser: Browser, gateway: Gateway
) -> None:
    token = asyncio.run(_token(gateway))
    user = int.from_bytes(base64.urlsafe_b64decode(token)[4:12], "big")
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser))
    browser.find("[name=who]").send_keys(token)
    browser.find("[name=playlist]").send_keys("3", Keys.ENTER)
    browser.until(lambda: "The hint is right" in browser.text("#found"))
    assert f"An anonymous listener, number {user}" in browser.text("#found")
    assert browser.find("[name=who]").get_attribute("value") == ""
    assert token not in browser.run("return document.documentElement.innerHTML")
    asked = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert not any(token in address for address in asked)
    assert token not in gateway.log.read_text()


def test_the_answer_to_an_earlier_search_is_not_shown_for_a_later_one(
    browser: Browser, gateway: Gateway
) -> None:
    asyncio.run(_create(gateway, 1))
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser))
    # The first answer is held back until the second one is there.
    browser.run(
        "const real = window.fetch; window.release = [];"
        "window.fetch = async (path, ...more) => { const answer = await real(path, ...more);"
        " if (String(path).startsWith('where/7919/'))"
        "  await new Promise((go) => window.release.push(go));"
        " return answer; };"
    )
    who, playlist = browser.find("[name=who]"), browser.find("[name=playlist]")
    who.send_keys("7919")
    playlist.send_keys("1", Keys.ENTER)
    browser.until(lambda: browser.run("return window.release.length") == 1)
    who.clear()
    who.send_keys("7918", Keys.ENTER)
    browser.until(lambda: "no state" in browser.text("#found"))
    browser.run("window.release.forEach((go) => go())")
    # Long enough: the page would show the first answer as soon as it came.
    browser.driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert "no state" in browser.text("#found")
    assert "7918" in browser.text("#where-title")
    # While another search is typed, no answer is shown.
    who.send_keys("1")
    assert browser.text("#found") == ""
    assert browser.text("#where-title") == "Find a listener"


def test_days_that_are_over_are_shown_sealed_with_their_filters(
    browser: Browser, stack_config: StackConfig, tmp_path: Path, mysql: MariaDB, database: str
) -> None:
    day = datetime.now(UTC).date() - timedelta(days=3)
    with mysql.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(create_table(day))
        cursor.execute(f"INSERT INTO {table(day)} VALUES (7,1,1,2,'{{}}','')")
        connection.commit()
    with Gateway(stack_config(), tmp_path) as gateway:
        browser.open(gateway.admin)
        browser.until(lambda: "1 of 1 that are over" in browser.text("#days"))
        browser.until(lambda: browser.all(".day[data-seal=sealed]"))
        assert "none is due" in browser.text("#days")
        browser.until(lambda: re.search(r"[1-9][0-9.]* (B|KiB) of", browser.text("#days")))


def test_the_page_breaks_no_accessibility_rule_in_light_and_dark(
    browser: Browser, gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    def faults() -> dict[str, list[str]]:
        found = {}
        for dark in (False, True):
            browser.look(dark=dark)
            found["dark" if dark else "light"] = browser.faults()
        return found

    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser) and len(browser.all(".arc")) == 6)
    browser.until(lambda: browser.all(".day[data-kind=today]"))
    assert faults() == {"light": [], "dark": []}
    lookup_servers[2].kill()
    asyncio.run(_load(gateway, 40))
    browser.until(lambda: browser.text("#headline") == "Degraded, and serving")
    browser.find("[name=who]").send_keys("1")
    browser.find("[name=playlist]").send_keys("1", Keys.ENTER)
    browser.until(lambda: "no state" in browser.text("#found"))
    assert faults() == {"light": [], "dark": []}


def test_the_keyboard_reaches_every_control(browser: Browser, gateway: Gateway) -> None:
    browser.open(gateway.admin)
    browser.until(lambda: is_well(browser) and len(browser.all(".node")) == 3)
    browser.until(lambda: browser.all(".day[data-kind=today]"))
    reached = []
    for _ in range(20):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(
            browser.run(
                "const e = document.activeElement; const s = getComputedStyle(e);"
                "return [e.className || e.id || e.name || e.tagName.toLowerCase(),"
                " s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0]"
            )
        )
    names = [name for name, _ in reached]
    for wanted in ("skip", "range", "moment", "quiet", "node", "who", "playlist", "summary"):
        assert wanted in names, names
    assert all(outlined for name, outlined in reached if name != "body"), reached
    # The ring highlights the node that has the focus.
    browser.run("document.querySelector('.node:nth-child(2)').focus()")
    assert len(browser.all(".lane-group[data-picked]")) == 1


def test_the_page_fits_into_a_narrow_window(
    browser: Browser, gateway: Gateway, lookup_servers: list[RedisServer]
) -> None:
    lookup_servers[2].kill()
    asyncio.run(_load(gateway, 40))
    browser.open(gateway.admin)
    browser.until(lambda: browser.text("#headline") == "Degraded, and serving")
    browser.until(lambda: browser.all(".day[data-kind=today]"))
    for width in (320, 390, 768, 1024):
        browser.resize(width, 800)
        assert browser.overflows() == []
        assert browser.run("return document.documentElement.scrollWidth") <= width
        # The verdict is at the top.
        assert browser.run("return headline.getBoundingClientRect().bottom") < 300
