"""A client of several gateways, as a service behind a balancer is one: it sends to gateways whose
/readyz says so, elsewhere after a lost connection, and later after a 503. Every try is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import ssl
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp

from drills.measure import FINE, Met, Try

PATIENCE = 30.0
"""Seconds without an answer after which the client gives a try up."""
READYZ_EVERY = 0.1
"""Seconds between questions for a gateway's /readyz."""
_OK = frozenset({200})
OVERLOADED = b"Too many requests are in flight"
"""A drill's load is far below what a gateway can do: if one sheds it, the machine is too busy."""


class Target(NamedTuple):
    """Where a gateway serves, and where it tells how it is.

    Attributes:
        tls, admin_tls: the trusted certificates, with https.
        token: the admin port's, if it asks for one.
    """

    url: str
    admin: str
    tls: ssl.SSLContext | None = None
    admin_tls: ssl.SSLContext | None = None
    token: str = ""

    def ask_admin(self, path: str, *, method: str = "GET", timeout: float = 5) -> bytes:
        """What the admin port answers.

        Raises:
            OSError: no answer, or (as urllib.error.HTTPError) none with a status of 200.
        """
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(self.admin + path, method=method, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=timeout, context=self.admin_tls) as answer:  # noqa: S310
            found: bytes = answer.read()
            return found


FELT = ("errors", "slow", "starved")
"""Causes that tell what clients feel, or what this machine lacks: no part that a drill breaks."""


class Readyz(NamedTuple):
    """One question for a gateway's /readyz; status 0 if nothing answered.

    Attributes:
        at: when it was asked, seconds since the drill began.
        took: seconds until it answered. It needs no lookup node and no MySQL, so this is what the
            machine itself takes.
    """

    at: float
    took: float
    gateway: int
    status: int
    reasons: tuple[str, ...]


class Answer(NamedTuple):
    """An HTTP answer, and when its request was sent."""

    sent: float
    ended: float
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)


class Unanswered(Exception):
    """The request may or may not have taken effect: no answer, or 503.

    Attributes:
        wait: seconds to wait before another try.
    """

    def __init__(self, met: Met, wait: float) -> None:
        super().__init__(met.value)
        self.met = met
        self.wait = wait


class Client:
    """Use as `async with`.

    Args:
        targets: the gateways.
        chance: for the choice among them, and jitter.
        now: the clock of all times here, in seconds.

    Attributes:
        tries: every try, in the order of their ends.
        readyz: every question for a /readyz.
        surprises: the first unexpected answers, in words.
        refusals: what answers of 503 said, and how often.
        recording: whether tries are recorded.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        chance: random.Random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.targets = list(targets)
        self.now = now
        self.tries: list[Try] = []
        self.readyz: list[Readyz] = []
        self.surprises: list[str] = []
        self.refusals: Counter[str] = Counter()
        self.recording = True
        self._chance = chance
        self._ready = [True] * len(targets)
        self._turn = itertools.count()
        self._watchers: list[asyncio.Task[None]] = []
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=PATIENCE, sock_connect=5),
        )
        # aiohttp would send a PUT again, unasked, after a connection was lost.
        self._http._retry_connection = False
        self._watchers = [
            asyncio.create_task(self._watch(number)) for number in range(len(self.targets))
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        assert self._http is not None
        await self._http.close()

    def choose(self, avoid: int | None = None) -> int:
        """The gateway for a new request: those that are ready take turns."""
        ready = [number for number, is_ready in enumerate(self._ready) if is_ready]
        numbers = ready or list(range(len(self.targets)))
        others = [number for number in numbers if number != avoid]
        numbers = others or numbers
        return numbers[next(self._turn) % len(numbers)]

    async def ask(
        self,
        method: str,
        path: str,
        *,
        what: str,
        due: float | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        allowed: frozenset[int] = _OK,
        gateway: int | None = None,
    ) -> Answer:
        """One request, not repeated; only a refused connect goes to another gateway at once,
        since nothing was sent.

        Args:
            what: its kind, for the record.
            due: when it should have been sent; now by default.
            allowed: statuses that are no error.
            gateway: which one to try first.

        Returns:
            The answer, whatever its status; one that is not allowed is recorded as an error.

        Raises:
            Unanswered: no answer, or 503.
        """
        due = self.now() if due is None else due
        number = self.choose() if gateway is None else gateway
        wait = 0.1
        for _ in self.targets:
            sent = self.now()
            met, answer = await self._send(number, method, path, headers, body, allowed)
            ended = self.now()
            content = answer is not None and answer[0] != 503
            if self.recording:
                self.tries.append(Try(due, sent, ended, number, what, met, content))
            if answer is not None and content:
                if met not in FINE and len(self.surprises) < 20:
                    self.surprises.append(f"{what}: {answer[0]} {answer[2][:200]!r}")
                return Answer(sent, ended, *answer)
            if met is not Met.REROUTED:
                if answer is not None:
                    self.refusals[_sentence(answer[2])] += 1
                    wait = float(answer[1].get("Retry-After", "1"))
                raise Unanswered(met, wait)
            self._ready[number] = False
            number = self.choose(avoid=number)
        raise Unanswered(Met.REROUTED, wait)

    async def pause(self, unanswered: Unanswered) -> None:
        """Wait as a well-behaved client does: as told, and not all at one moment."""
        await asyncio.sleep(unanswered.wait * self._chance.uniform(0.9, 1.2))

    async def _send(
        self,
        number: int,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        allowed: frozenset[int],
    ) -> tuple[Met, tuple[int, Mapping[str, str], bytes] | None]:
        assert self._http is not None
        target = self.targets[number]
        try:
            async with self._http.request(
                method, target.url + path, headers=headers, data=body, ssl=target.tls or True
            ) as reply:
                answer = reply.status, reply.headers, await reply.read()
        except aiohttp.ClientConnectorError:
            return Met.REROUTED, None
        except TimeoutError:
            return Met.TIMEOUT, None
        except (aiohttp.ClientError, OSError):
            return Met.CUT, None
        status = answer[0]
        if status == 503:
            if OVERLOADED in answer[2]:
                return Met.SHED, answer
            return (Met.BUSY if "Retry-After" in answer[1] else Met.BUSY_SILENT), answer
        if status in allowed:
            return (Met.CONFLICT if status == 412 else Met.OK), answer
        return (Met.SERVER if status >= 500 else Met.UNEXPECTED), answer

    async def _watch(self, number: int) -> None:
        assert self._http is not None
        target = self.targets[number]
        url, tls = target.admin + "/readyz", target.admin_tls or True
        while True:
            at = self.now()
            status, reasons = 0, ()
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError):
                async with self._http.get(
                    url, timeout=aiohttp.ClientTimeout(total=2), ssl=tls
                ) as reply:
                    body = await reply.json()
                    named = zip(body["causes"], body["reasons"], strict=True)
                    reasons = tuple(reason for cause, reason in named if cause not in FELT)
                    status = reply.status
            self._ready[number] = status == 200
            self.readyz.append(Readyz(at, self.now() - at, number, status, reasons))
            await asyncio.sleep(READYZ_EVERY)


def _sentence(body: bytes) -> str:
    """What an error says, in the words of its API."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        errors = json.loads(body)["errors"]
        return errors if isinstance(errors, str) else " ".join(errors)
    return body[:120].decode(errors="replace")
