"""A gateway beside an application that goes through nutcracker, on one set of nodes.

Both are configured by the same words.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from config.model import Lookup
from sharding.backend import Backend
from sharding.lookups.hint_rules import Found, Hint
from sharding.state import Key
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support import backends
from tests.support.nutcracker import Nutcracker, NutcrackerSaidNo, mark
from tests.support.states import bump

pytestmark = pytest.mark.stack

KEYS = [Key(user, playlist) for user in range(1, 41) for playlist in (1, 2, 3)]
HOUR = 3_600_000


class Application:
    """What the original system is: it reads and writes days through nutcracker, and trusts them."""

    def __init__(self, nutcracker: Nutcracker) -> None:
        self._nutcracker = nutcracker

    def read(self, key: Key) -> bytes | None:
        return self._nutcracker.ask("lookups", b"GET", b"uid:%d:pid:%d" % key)

    def write(self, key: Key, day: bytes) -> None:
        name = b"uid:%d:pid:%d" % key
        assert self._nutcracker.ask("lookups", b"SET", name, day, b"EX", b"86400") == b"OK"


@pytest.fixture
def shared(lookup_servers: list[RedisServer], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a nutcracker; with the words of its pool."""
    started = []

    def start(**words: Any) -> Nutcracker:
        for server in lookup_servers:
            mark(server)
        weights = (1, 3, 2)
        pool = {
            "hash": "murmur",
            "timeout": 400,
            "auto_eject_hosts": True,
            "server_failure_limit": 1,
            "server_retry_timeout": HOUR,
            "servers": [
                f"{server.address}:{weight} {server.name}"
                for server, weight in zip(lookup_servers, weights, strict=True)
            ],
            **words,
        }
        nutcracker = Nutcracker(tmp_path / "n", {"lookups": pool})
        nutcracker.start()
        started.append(nutcracker)
        return nutcracker

    yield start
    for nutcracker in started:
        nutcracker.kill()


def opened(
    stack_config: StackConfig, nutcracker: Nutcracker, **beside: Any
) -> AbstractAsyncContextManager[Backend]:
    # A state that a worker remembers needs no hint.
    document = stack_config(sessions={"enabled": False})
    # The machine may be busy with something else: no hint is late here.
    words = {"layout": "flat", "hint_deadline": 400, **beside}
    theirs = nutcracker.pools["lookups"]
    same = {word: theirs[word] for word in theirs if word in Lookup.model_fields}
    document["lookup"] = {**same, **words}
    return backends.opened(document)


async def play(backend: Backend, keys: list[Key]) -> None:
    await asyncio.gather(*(backend.store.change(key, bump) for key in keys))
    await backend.lookups.drain()


async def test_each_reads_what_the_other_wrote(
    stack_config: StackConfig, shared: Callable[..., Nutcracker]
) -> None:
    nutcracker = shared()
    application = Application(nutcracker)
    async with opened(stack_config, nutcracker) as backend:
        await play(backend, KEYS)
        today = f"{backend.days.today():%Y%m%d}".encode()
        assert {application.read(key) for key in KEYS} == {today}

        yesterday = backend.days.today() - timedelta(days=1)
        for key in KEYS:
            application.write(key, f"{yesterday:%Y%m%d}".encode())
        hints = await asyncio.gather(*(backend.lookups.ask(key) for key in KEYS))
        assert set(hints) == {Hint(Found.DAY, yesterday)}
        # The old hints cost a statement and are put right; the application sees that too.
        for key in KEYS:
            assert (await backend.store.load(key)) is not None
        await backend.lookups.drain()
        assert {application.read(key) for key in KEYS} == {today}


async def test_both_go_on_at_once_while_a_node_is_lost_and_agree_on_the_nodes_that_are_left(
    stack_config: StackConfig,
    shared: Callable[..., Nutcracker],
    lookup_servers: list[RedisServer],
) -> None:
    nutcracker = shared()
    application = Application(nutcracker)
    async with opened(stack_config, nutcracker) as backend:
        await play(backend, KEYS)
        today = backend.days.today()
        text = f"{today:%Y%m%d}".encode()
        end, wrong, passes = threading.Event(), [], 0

        def run() -> None:
            nonlocal passes
            while not end.is_set():
                for key in KEYS:
                    try:
                        application.write(key, text)
                        # Between the two, the entry can be gone with its node.
                        if (read := application.read(key)) not in (text, None):
                            wrong.append((key, read))
                    except NutcrackerSaidNo:
                        pass  # it has an error at the first request to a dead node
                passes += 1

        busy = asyncio.create_task(asyncio.to_thread(run))
        try:
            deadline = time.monotonic() + 20
            while passes < 6:
                await play(backend, KEYS)  # raises, if the gateway had an error for anyone
                if passes >= 2 and lookup_servers[1].running:
                    lookup_servers[1].kill()
                assert time.monotonic() < deadline
        finally:
            end.set()
            await busy
        assert not wrong
        assert backend.nodes.out == {lookup_servers[1].name}

        for key in KEYS:
            application.write(key, text)
        hints = await asyncio.gather(*(backend.lookups.ask(key) for key in KEYS))
        assert set(hints) == {Hint(Found.DAY, today)}
        for server in (lookup_servers[0], lookup_servers[2]):
            with server.client() as client:
                for key in KEYS:
                    client.delete(backend.lookups.layout.ring_key(key))
        for key in KEYS:
            backend.lookups.put(key, today)
        await backend.lookups.drain()
        assert {application.read(key) for key in KEYS} == {text}


async def test_a_node_that_returns_serves_both_again(
    stack_config: StackConfig,
    shared: Callable[..., Nutcracker],
    lookup_servers: list[RedisServer],
) -> None:
    nutcracker = shared(server_retry_timeout=300)
    application = Application(nutcracker)
    async with opened(stack_config, nutcracker) as backend:
        await play(backend, KEYS)
        lookup_servers[1].kill()
        with contextlib.suppress(NutcrackerSaidNo):
            for key in KEYS:
                application.read(key)
        await play(backend, KEYS)
        assert backend.nodes.out
        lookup_servers[1].start()
        deadline = time.monotonic() + 20
        while backend.nodes.out:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        text = f"{backend.days.today():%Y%m%d}".encode()
        while True:
            # nutcracker lets it in by itself, once the time is over.
            await play(backend, KEYS)
            for key in KEYS:
                await backend.store.load(key)
            await backend.lookups.drain()
            if {application.read(key) for key in KEYS} == {text}:
                break
            assert time.monotonic() < deadline
        with lookup_servers[1].client() as client:
            assert client.dbsize() > 10, "the node serves nobody"
