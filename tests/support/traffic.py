"""Clients that change states without a pause, and record each wrong answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp


class Traffic:
    """Clients with states of their own; each request goes to a gateway that is chosen at random.

    Args:
        urls: of the gateways.
        key: the service's Authorization header.
        clients: how many.
        states: how many each client has.

    Attributes:
        problems: each answer that is no success, or whose version or body is not the last one that
            was acknowledged.
        versions: the last acknowledged version, by key.
        changes: how many changes were acknowledged.
    """

    def __init__(
        self,
        urls: Sequence[str],
        key: Mapping[str, str],
        *,
        clients: int = 8,
        states: int = 25,
        first_user: int = 1,
    ) -> None:
        self._urls = list(urls)
        self._key = dict(key)
        users = range(first_user, first_user + clients)
        self._keys = [[(user * 1000 + n, 1 + n % 3) for n in range(states)] for user in users]
        self.problems: list[str] = []
        self.versions: dict[tuple[int, int], int] = {}
        self.changes = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Traffic]:
        """Run the clients; at the end, read every state back through every gateway."""
        stopping = asyncio.Event()
        async with aiohttp.ClientSession(headers=self._key) as http:
            clients = [asyncio.create_task(self._play(http, k, stopping)) for k in self._keys]
            try:
                yield self
            finally:
                stopping.set()
                await asyncio.gather(*clients)
            await self.read_back(http)

    async def read_back(self, http: aiohttp.ClientSession) -> None:
        """Compare every state with what was acknowledged."""
        for url in self._urls:
            for key in self.versions:
                await self._get(http, url, key)

    async def more(self, changes: int = 150) -> None:
        """Wait until so many more changes are acknowledged, or there is a problem."""
        wanted = self.changes + changes
        async with asyncio.timeout(30):
            while self.changes < wanted and not self.problems:
                await asyncio.sleep(0.01)

    async def _play(
        self,
        http: aiohttp.ClientSession,
        keys: Sequence[tuple[int, int]],
        stopping: asyncio.Event,
    ) -> None:
        chance = random.Random(keys[0][0])
        while not stopping.is_set():
            key = chance.choice(keys)
            url = chance.choice(self._urls)
            try:
                if key in self.versions and chance.random() < 0.3:
                    await self._get(http, url, key)
                else:
                    await self._put(http, url, key)
            except (aiohttp.ClientError, TimeoutError) as error:
                self.problems.append(f"{key}: {error!r}")

    async def _put(self, http: aiohttp.ClientSession, url: str, key: tuple[int, int]) -> None:
        version = self.versions.get(key, 0)
        condition = {"If-Match": f'"{version}"'} if version else {"If-None-Match": "*"}
        async with http.put(
            f"{url}/states/{key[0]}/{key[1]}", json={"n": version + 1}, headers=condition
        ) as answer:
            if answer.headers.get("ETag") != f'"{version + 1}"':
                self.problems.append(f"PUT {key} after {version}: {answer.status}")
                return
        self.versions[key] = version + 1
        self.changes += 1

    async def _get(self, http: aiohttp.ClientSession, url: str, key: tuple[int, int]) -> None:
        async with http.get(f"{url}/states/{key[0]}/{key[1]}") as answer:
            if answer.status != 200 or (await answer.json())["n"] != self.versions[key]:
                self.problems.append(
                    f"GET {key}: {answer.status} {await answer.text()}, not {self.versions[key]}"
                )
