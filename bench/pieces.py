"""What the CPU time of one warm request is spent on, piece by piece, within one process.

    python -m bench.pieces

There is no server and no socket: the sum lacks the event loop, system calls and the driver
(bench/hot_path.py measures the whole). docs/performance.md shows the results.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import uvloop
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage

from bench.hot_path import KEY, mixes
from config.load import parse
from config.model import Sessions
from failover.mysql.commit_stalls import Commits
from failover.mysql.primary import Primary
from failover.mysql.resultset import Ran
from gateway import telemetry
from gateway.catalog.catalog import Catalog
from gateway.factory import gateway_application
from gateway.http.errors import encode
from gateway.http.messages import BodylessRequest, Response
from gateway.http.parameters import gather, whole_number
from gateway.logs import request_id
from gateway.player import rules
from gateway.player.responses import Envelope, set_reply
from gateway.reload.runtime_config import RuntimeConfig
from sharding.lookups.lookups import Lookups
from sharding.partitions.calendar import tomorrow
from sharding.partitions.days import Days
from sharding.state import Key, Owner, Stored, Write
from sharding.store.plan import Loaded, Plan
from sharding.store.reader import Reader
from sharding.store.store import Store
from sharding.store.writer import Writer

TIMES = 20_000
AT_ONCE = 32
"""Requests whose saves share a batch, as with 64 connections and two batches under way."""


class NoDatabase:
    """Stands for MySQL: answers at once that every script changed what it had to."""

    broken = False

    generation = 1
    packet = 16 << 20
    commits = Commits()

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + 10

    @contextlib.asynccontextmanager
    async def session(self, deadline: float, *, change: bool = False) -> AsyncIterator[NoDatabase]:
        yield self

    async def run_script(self, statements: Sequence[str]) -> list[Ran]:
        ";".join(statements).encode()
        return [Ran(1, [(b"0", b"%d" % int(time.time() * 1000))])] * len(statements)

    async def execute(self, statement: str) -> int:
        statement.encode()
        return 1

    def absent(self, key: Key) -> None:
        """No filters: every key is loaded first."""

    async def load(self, key: Key) -> Loaded:
        return Loaded(None)

    async def reload(self, key: Key, before: Loaded) -> Loaded:
        return before

    def put(self, key: Key, day: object, *, saved: bool) -> None:
        pass


class Unsaved(Writer):
    """A writer that makes no SQL and says that each save succeeded."""

    async def _save(self, plans: list[Plan]) -> Sequence[bool | Exception]:
        return [True] * len(plans)


def show(what: str, seconds: float, times: int = TIMES) -> None:
    """Print the microseconds of one call."""
    print(f"{what:<58}{seconds / times * 1e6:>7.2f} us")


def piece(what: str, call: Callable[[], object]) -> None:
    """Measure the CPU time of a function, and print it."""
    call()
    before = time.process_time()
    for _ in range(TIMES):
        call()
    show(what, time.process_time() - before)


async def together(call: Callable[[int], Awaitable[object]]) -> float:
    """Make TIMES calls, AT_ONCE of them at a time; return the CPU seconds."""

    async def one(number: int) -> None:
        for _ in range(TIMES // AT_ONCE):
            await call(number)

    before = time.process_time()
    await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    return time.process_time() - before


async def main() -> None:
    """Measure each piece, then all of them together."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    document: dict[str, Any] = {
        "auth": {"token_keys": [KEY], "service_keys": [KEY]},
        "lookup": {"servers": ["127.0.0.1:1:1 lookup1"]},
        "mysql": {"hosts": ["127.0.0.1:1"], "user": "nobody"},
    }
    live = RuntimeConfig(parse(document))
    tokens = [live.tokens.issue(2**62 + n, time.time()) for n in range(AT_ONCE)]
    mix = mixes()[0]
    loop = asyncio.get_running_loop()
    request = (
        f"GET /sets/{tokens[0]}/next?mix_id=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n".encode()
    )
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)

    def parsed() -> RawRequestMessage:
        messages, _, _ = parser.feed_data(request)
        parser.message_consumed()
        return messages[0][0]

    asked = BodylessRequest(parsed())
    allowed = live.config.player
    stored = Stored(b"{}", 1, time_to_day(), Owner.PLAYER)
    for version in range(2, 10):
        made = rules.next_track(mix, stored, 1.0, allowed)
        assert isinstance(made, Write)
        stored = Stored(made.body, version, stored.day, Owner.PLAYER)
    answer = rules.next_track(mix, stored, 1.0, allowed).answer
    assert isinstance(answer, rules.Place)

    database = NoDatabase()
    primary = cast(Primary, database)
    days = Days(primary, 30)
    days.observe(int(time.time() * 1000))
    days._know({days.today(), tomorrow(days.today())})
    catalog = SimpleNamespace(mix=_always(mix), finder=SimpleNamespace(plays=set()))

    def store(kind: type[Writer]) -> Store:
        return Store(
            primary,
            cast(Reader, database),
            kind(primary, days),
            cast(Lookups, database),
            days,
            Sessions(),
        )

    def application(kind: type[Writer]) -> Callable[[Any], Awaitable[Any]]:
        return gateway_application(live, store(kind), cast(Catalog, catalog))

    def counted() -> None:
        request_id(None)
        telemetry.observe(route, "GET", 200, 0.004)

    body = encode(Envelope(status="200 OK", set=set_reply(answer)))
    route = "/sets/{play_token}/next"
    found = gateway_application(live, store(Unsaved), cast(Catalog, catalog)).routes
    piece("aiohttp's parser (C), with the URL that it makes", parsed)
    piece("route", lambda: found.find(f"/sets/{tokens[0]}/next"))
    piece("token, verified before", lambda: live.tokens.verify(tokens[0], time.time()))
    piece("parameters and id", lambda: whole_number(gather("mix_id=1")["mix_id"], "mix_id"))
    piece("the Player's rule", lambda: rules.next_track(mix, stored, 1.0, allowed))
    piece("the answer's JSON", lambda: encode(Envelope(status="200 OK", set=set_reply(answer))))
    piece("its head", lambda: Response(200, body).encode(asked))
    piece("request id and metrics", counted)

    def kept(before: Stored | None) -> Write[int]:
        return Write(stored.body, Owner.PLAYER, 1)

    bare, whole = store(Unsaved), store(Writer)
    await together(lambda n: bare.change(Key(n + 1, 1), kept))
    await together(lambda n: whole.change(Key(n + 1, 1), kept))
    unsaved = await together(lambda n: bare.change(Key(n + 1, 1), kept))
    show(f"store: turn, cache, group, batch ({AT_ONCE} at once)", unsaved)
    saved = await together(lambda n: whole.change(Key(n + 1, 1), kept))
    show("the save's SQL", saved - unsaved)

    serve = application(Writer)
    asks = [
        BodylessRequest(asked._message._replace(path=f"/sets/{token}/next?mix_id=1"))
        for token in tokens
    ]
    plays = [
        BodylessRequest(asked._message._replace(path=f"/sets/{token}/play?mix_id=1"))
        for token in tokens
    ]
    steps = [0] * AT_ONCE

    async def listen(number: int) -> None:
        steps[number] += 1
        listener = plays if steps[number] % 20 == 1 else asks
        (await serve(listener[number])).encode(listener[number])

    await together(listen)
    show("all of it, but parser, sockets and driver", await together(listen))


def time_to_day() -> Any:
    """Today, UTC."""
    return datetime.now(UTC).date()


def _always(value: Any) -> Callable[[int], Awaitable[Any]]:
    async def give(_: int) -> Any:
        return value

    return give


if __name__ == "__main__":
    uvloop.run(main())
