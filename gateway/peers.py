"""Asks the other gateways for their overviews, for the dashboard and for the verdict.

Their addresses are `admin.peers`. The admin token, if there is one, must be the same on all of
them, and is sent to no other address. `admin.peers_tls_...` say how https is verified.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec
from msgspec import Struct, structs

from config.tls import TlsProblem, in_words
from gateway.api.admin_bodies import Overview
from gateway.http import outgoing
from gateway.reload.runtime_config import RuntimeConfig
from sharding.health_verdict import Reason

ANSWER_SECONDS = 2.0
"""Seconds that a gateway has to answer."""
EVERY = 2.0
"""Seconds between two rounds of questions."""


class Peer(Overview, kw_only=True):
    """What another gateway said of itself, and when it last answered (seconds since 1970)."""

    url: str
    seen: float


class SilentPeer(Struct):
    """A gateway that gave no overview. `seen`: when it last did; None: never."""

    url: str
    problem: str
    seen: float | None = None


class Peers:
    """The gateways that `admin.peers` names. `known` is the last result of `ask`."""

    def __init__(self, live: RuntimeConfig) -> None:
        self._live = live
        self.known: list[Peer | SilentPeer] = []

    async def poll(self) -> None:
        """Ask the peers at intervals, until cancelled."""
        while True:
            self.known = await self.ask()
            await asyncio.sleep(EVERY)

    def reasons(self) -> list[Reason]:
        """A reason for each peer that does not serve requests (not for degraded ones)."""
        now, found = time.time(), []
        for one in self.known:
            what = "serves nothing" if isinstance(one, Peer) else one.problem
            if isinstance(one, SilentPeer) or one.status == "unavailable":
                age = max(0.0, now - (one.seen or now))
                found.append(Reason("peers", f"the gateway {one.url} {what}", age=age))
        return found

    async def ask(self) -> list[Peer | SilentPeer]:
        """The peers, in the order of the configuration."""
        found = await asyncio.gather(*(self._one(url) for url in self._live.config.admin.peers))
        seen = {one.url: one.seen for one in self.known}
        for one in found:
            if isinstance(one, SilentPeer):
                one.seen = seen.get(one.url)
        return found

    async def _one(self, url: str) -> Peer | SilentPeer:
        admin = self._live.config.admin
        headers = {}
        if admin.token is not None:
            headers["Authorization"] = f"Bearer {admin.token.get_secret_value()}"
        try:
            status, body = await outgoing.ask(
                "GET",
                f"{url.rstrip('/')}/overview",
                admin.peers_tls,
                ANSWER_SECONDS,
                headers=headers,
            )
            if status != 200:
                return SilentPeer(url, f"answers {status}")
            said = msgspec.json.decode(body, type=Overview)
            return Peer(**structs.asdict(said), url=url, seen=round(time.time(), 1))
        except TimeoutError:
            return SilentPeer(url, "does not answer")
        except TlsProblem as problem:
            return SilentPeer(url, f"cannot be asked: admin.peers_{problem}")
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            return SilentPeer(url, f"does not answer ({_why(url, error)})")


def _why(url: str, error: Exception) -> str:
    """Why a peer did not answer, with a hint for the operator if there is one."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return in_words(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        if url.startswith("https:"):
            return "it ends the connection: does it want admin.peers_tls_certificate_file?"
        return "it ends the connection: does it take only https?"
    return str(error) if type(error) is ValueError else type(error).__name__
