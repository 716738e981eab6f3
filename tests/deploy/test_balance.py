"""HAProxy and nginx before two gateways: which one serves a listener, what may be sent twice."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.balancers import Balancer
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix
from tests.support.waiting import until

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]
TRACKS = 400
# A play token that no gateway made: where it is used, no gateway is there to check it.
TOKEN = "A" * 44


@dataclass
class Site:
    """A balancer and the two gateways behind it."""

    balancer: Balancer
    gateways: list[Gateway]

    @property
    def url(self) -> str:
        return self.balancer.url


@pytest.fixture(params=["haproxy", "nginx"])
def site(
    request: pytest.FixtureRequest, stack_config: StackConfig, tmp_path: Path
) -> Iterator[Site]:
    documents = [stack_config(log={"requests": True}) for _ in range(2)]
    put_mixes(documents[0], [a_mix(mix, tracks=TRACKS) for mix in (1, 2)])
    ports = [(d["gateway"]["port"], d["admin"]["port"]) for d in documents]
    gateways = [Gateway(document, tmp_path) for document in documents]
    with contextlib.ExitStack() as stack:
        for gateway in gateways:
            stack.enter_context(gateway)
        yield Site(stack.enter_context(Balancer(request.param, ports, tmp_path)), gateways)


async def new_token(http: aiohttp.ClientSession, site: Site, user: int | None = None) -> str:
    query = {} if user is None else {"user_id": str(user)}
    headers = {} if user is None else site.gateways[0].key
    async with http.get("/sets/new", params=query, headers=headers) as answer:
        body = await answer.json()
        assert answer.status == 200, body
        return str(body["play_token"])


def served(site: Site) -> dict[str, list[int]]:
    """The gateway that answered each request, by the request id that the client gave."""
    by_id: dict[str, list[int]] = {}
    for number, gateway in enumerate(site.gateways):
        for line in gateway.lines("request answered"):
            by_id.setdefault(line["request_id"], []).append(number)
    return by_id


async def test_a_listener_is_served_by_one_gateway_with_any_token_and_connection(
    site: Site,
) -> None:
    async def listen(name: str, tokens: list[str]) -> None:
        for _ in range(3):
            for token in tokens:
                # A new connection each time: the gateway is chosen by listener, not by connection.
                async with (
                    aiohttp.ClientSession(site.url) as http,
                    http.get(
                        f"/sets/{token}/play?mix_id=1", headers={"X-Request-Id": name}
                    ) as answer,
                ):
                    assert answer.status == 200

    async with aiohttp.ClientSession(site.url) as http:
        for user in range(12):
            # A token made in another second has another expiry and another signature.
            tokens = [await new_token(http, site, 1000 + user)]
            if user < 2:
                await asyncio.sleep(1.1)
                tokens.append(await new_token(http, site, 1000 + user))
                assert tokens[0] != tokens[1]
            await listen(f"user-{user}", tokens)
            path = f"/states/{1000 + user}/77"
            for _ in range(3):
                headers = {**site.gateways[0].key, "X-Request-Id": f"state-{user}"}
                async with http.get(path, headers=headers) as answer:
                    assert answer.status == 404
    asked = {f"user-{user}": 6 if user < 2 else 3 for user in range(12)}
    asked |= {f"state-{user}": 3 for user in range(12)}
    # A gateway answers before it has written its log.
    await until(lambda: {name: len(served(site).get(name, ())) for name in asked} == asked)
    by_id = served(site)
    for kind in ("user", "state"):
        gateways = [set(by_id[f"{kind}-{user}"]) for user in range(12)]
        assert all(len(one) == 1 for one in gateways), gateways
        assert set.union(*gateways) == {0, 1}, f"all {kind}s went to one gateway"


@dataclass
class Crowd:
    """Listeners who go to the next track without `track_id`, and check each answer.

    Attributes:
        failures: for each request without a good answer, when it began (time.monotonic) and its
            name.
        moves: how many were answered.
        wrong: the moves that were lost or made twice.
    """

    site: Site
    failures: list[tuple[float, str]] = field(default_factory=list)
    moves: int = 0
    wrong: list[str] = field(default_factory=list)
    over: bool = False

    async def listen(self) -> None:
        async with aiohttp.ClientSession(self.site.url) as http:
            # If a reused connection to a gateway breaks, HAProxy closes the client's connection.
            # aiohttp would then repeat a GET by itself, and `next` without `track_id` move twice.
            http._retry_connection = False
            token = await new_token(http, self.site)
            place = await self.ask(http, f"/sets/{token}/play?mix_id=1")
            unsure = 0
            while not self.over:
                began = time.monotonic()
                track = await self.ask(http, f"/sets/{token}/next?mix_id=1")
                if track is None:
                    # The move was made once, or not at all.
                    unsure += 1
                    self.failures.append((began, "next"))
                    continue
                assert place is not None
                if not place + 1 <= track <= place + 1 + unsure:
                    self.wrong.append(f"from {place} to {track} with {unsure} unanswered")
                place, unsure = track, 0
                self.moves += 1
                await asyncio.sleep(0.03)

    async def ask(self, http: aiohttp.ClientSession, path: str) -> int | None:
        try:
            async with http.get(path, timeout=aiohttp.ClientTimeout(30)) as answer:
                body = await answer.json()
                if answer.status != 200:
                    return None
                return int(body["set"]["track"]["id"])
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None


async def with_a_crowd(site: Site, happening: Callable[[Crowd], Awaitable[None]]) -> Crowd:
    """Run 16 listeners before, during and after `happening`; check that no move is wrong."""
    crowd = Crowd(site)
    listeners = [asyncio.create_task(crowd.listen()) for _ in range(16)]
    try:
        await until(lambda: crowd.moves > 100, what="listeners move on")
        await happening(crowd)
        before = crowd.moves
        await until(lambda: crowd.moves > before + 200, what="listeners move on afterwards")
    finally:
        crowd.over = True
        await asyncio.gather(*listeners)
    assert crowd.wrong == []
    return crowd


async def test_a_killed_gateway_fails_only_the_requests_that_were_open(site: Site) -> None:
    killed = 0.0

    async def kill(_: Crowd) -> None:
        nonlocal killed
        site.gateways[0].kill()
        killed = time.monotonic()
        await asyncio.sleep(2)

    crowd = await with_a_crowd(site, kill)
    late = [failure for failure in crowd.failures if failure[0] > killed]
    assert late == [], f"failed though they began after the kill: {late}"
    # Each listener has one request open at a time.
    assert len(crowd.failures) <= 16


async def test_an_upgrade_one_gateway_after_the_other_fails_no_request(site: Site) -> None:
    async def upgrade(crowd: Crowd) -> None:
        for gateway in site.gateways:
            gateway.send(signal.SIGTERM)
            assert await asyncio.to_thread(gateway.wait) == 0
            await asyncio.to_thread(gateway.start)
            # docs/operations.md: go on only when the balancer sends this one requests again.
            before = len(gateway.lines("request answered"))
            await until(
                lambda g=gateway, b=before: len(g.lines("request answered")) > b,
                what="it gets requests",
            )  # type: ignore[misc]

    crowd = await with_a_crowd(site, upgrade)
    assert crowd.failures == []


@pytest.mark.parametrize("site", ["haproxy"], indirect=True)
async def test_a_gateway_that_was_drained_can_be_killed_and_fails_no_request(site: Site) -> None:
    """With HAProxy: nginx does not ask /readyz, and docs/operations.md says what to do there."""
    gateway = site.gateways[0]

    async def drain(_: Crowd) -> None:
        out = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "cli", "drain", "--url", gateway.admin],
            capture_output=True,
            text=True,
            check=False,
        )
        assert out.returncode == 0, out.stderr
        assert "it may be stopped now" in out.stdout.splitlines()[-1]
        gateway.kill()

    crowd = await with_a_crowd(site, drain)
    assert crowd.failures == []


async def test_without_a_gateway_a_client_gets_503_with_retry_after(site: Site) -> None:
    for gateway in site.gateways:
        gateway.kill()
    async with aiohttp.ClientSession(site.url) as http:
        for path in (f"/sets/{TOKEN}/next?mix_id=1", f"/sets/{TOKEN}/play?mix_id=1", "/mixes/1"):
            async with http.get(path) as answer:
                body = await answer.json()
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "2"
                assert body["status"] == "503 Service Unavailable"
                assert body["errors"]
        if site.balancer.name == "haproxy":
            # HAProxy exports their number under the name that the dashboard uses.
            async with http.get(f"http://127.0.0.1:{site.balancer.monitor}/metrics") as answer:
                text = await answer.text()
            (count,) = re.findall(
                r'^haproxy_frontend_http_responses_total\{proxy="listeners",code="5xx"\} (\d+)',
                text,
                re.MULTILINE,
            )
            assert int(count) == 3


class Dropper:
    """Counts each request, and closes the connection without an answer, except to `ANSWERED`.

    Its second port answers 200 to health checks. No real gateway fails so on demand.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        dropper = self

        class Drop(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def drop(self) -> None:
                if self.path == ANSWERED:
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                dropper.requests[self.headers["X-Request-Id"]] += 1
                self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = drop  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Well(Drop):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()

        self._servers = [
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (Drop, Well)
        ]
        self.ports = (self._servers[0].server_port, self._servers[1].server_port)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


ANSWERED = "/mixes/2"
SENT_TWICE = [
    ("GET", f"/sets/{TOKEN}/next?mix_id=1&track_id=101"),
    ("GET", f"/sets/{TOKEN}/skip.json?mix_id=1&track_id=101"),
    ("GET", f"/sets/{TOKEN}/play?mix_id=1"),
    ("GET", f"/sets/{TOKEN}/report?mix_id=1&track_id=101"),
    ("GET", "/mixes/1"),
    ("GET", "/sets/new"),
    ("GET", "/states/5/6"),
]
SENT_ONCE = [
    ("GET", f"/sets/{TOKEN}/next?mix_id=1"),
    ("GET", f"/sets/{TOKEN}/next.json?mix_id=1"),
    ("POST", f"/sets/{TOKEN}/next?mix_id=1"),
    ("GET", f"/sets/{TOKEN}/skip?mix_id=1"),
    ("PUT", "/states/5/6"),
    ("DELETE", "/states/5/6"),
]


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_only_requests_that_may_be_repeated_are_sent_twice(kind: str, tmp_path: Path) -> None:
    droppers = [Dropper(), Dropper()]
    try:
        for number, (method, path) in enumerate(SENT_TWICE + SENT_ONCE):
            name = str(number)
            # A new balancer each time: after a failure nginx avoids both gateways for fail_timeout.
            with Balancer(kind, [dropper.ports for dropper in droppers], tmp_path) as balancer:
                async with aiohttp.ClientSession(balancer.url) as client:
                    headers = {"X-Request-Id": name}
                    with contextlib.suppress(aiohttp.ServerDisconnectedError):
                        async with client.request(method, path, headers=headers) as answer:
                            assert answer.status in (502, 503)
            times = sum(dropper.requests[name] for dropper in droppers)
            if (method, path) in SENT_TWICE:
                assert times > 1, f"{method} {path} is sent {times} times"
            else:
                assert times == 1, f"{method} {path} is sent {times} times"
    finally:
        for dropper in droppers:
            dropper.close()


@pytest.mark.parametrize(("method", "path"), SENT_ONCE)
async def test_a_client_gets_502_when_its_gateway_ends_the_connection_without_an_answer(
    method: str, path: str, tmp_path: Path
) -> None:
    """The client's connection was used before: HAProxy's default is to close it, without a 502."""
    droppers = [Dropper(), Dropper()]
    ports = [dropper.ports for dropper in droppers]
    try:
        with Balancer("haproxy", ports, tmp_path) as balancer:
            async with aiohttp.ClientSession(balancer.url) as client:
                for _ in range(2):
                    async with client.get(ANSWERED) as answer:
                        assert answer.status == 200
                async with client.request(method, path) as answer:
                    assert answer.status == 502
                    assert answer.headers["Retry-After"] == "2"
                    body = await answer.json()
                    assert "may have been done" in body["errors"][0]
        assert sum(dropper.requests.total() for dropper in droppers) == 1
    finally:
        for dropper in droppers:
            dropper.close()
