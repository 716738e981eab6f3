"""Copying entries from where previous rings had them to where the ring of now looks for them.

Page by page through each source (SCAN), on connections of its own, so that neither a request nor
a node's health has anything to do with it. A page is read, its entries are copied, and only then
the cursor goes on: whoever takes over from the cursor misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tapedeck.config.model import Lookup, LookupServer
from tapedeck.failover.nodes import describe
from tapedeck.failover.redis_link import connect
from tapedeck.sharding import copying, metrics
from tapedeck.sharding.copying import Entry
from tapedeck.sharding.days import Days
from tapedeck.sharding.entries import Command, Layout
from tapedeck.sharding.partitions import tomorrow
from tapedeck.sharding.placement import Placement, address

log = structlog.get_logger("tapedeck.mover")

ANSWER_SECONDS = 2.0
GIVE_UP_SECONDS = 300.0
"""A node that did not answer for so long is done without: its entries are read from MySQL."""
_MOST = 100
"""Keys of a page: what they hash to is a few ms of this process's own work, and listeners wait."""
_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Source:
    """How far one node of a previous ring is.

    Attributes:
        run_id: of the server that gave the cursor: another one's would lead astray.
        keys: that it had when it was begun, others than entries included.
        scanned: entries of our layout that were looked at (an entry of the packed layout is a
            listener's); `moving`: of them, those that have another owner now.
        copied: entries written; `kept`: left as they were, since their owner knows as much or more.
        failed: not copied, since their owner did not answer for GIVE_UP_SECONDS.
        state: waiting, copying, done, or lost (it did not answer for GIVE_UP_SECONDS).
    """

    node: str
    address: str
    layout: str
    state: str = "waiting"
    run_id: str = ""
    cursor: int = 0
    keys: int = 0
    visited: int = 0
    scanned: int = 0
    moving: int = 0
    copied: int = 0
    kept: int = 0
    failed: int = 0
    problem: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more is to be read there."""
        return self.state in ("done", "lost")


class Unreachable(Exception):
    """A node did not do what it was asked; the message says which and why."""

    def __init__(self, at: str, reason: str) -> None:
        self.at = at
        super().__init__(f"{at}: {reason}")


class Haul:
    """One move under way.

    Args:
        config: the ring of now, and the user and password of every node.
        previous: the rings before, newest first.
        days: the calendar.
        progress: to go on from.
        give_up: seconds.
    """

    def __init__(
        self,
        config: Lookup,
        previous: Sequence[Placement],
        days: Days,
        progress: Sequence[dict[str, Any]],
        give_up: float = GIVE_UP_SECONDS,
    ) -> None:
        self.config = config
        self._days = days
        self._give_up = give_up
        self._after = Placement.of(config)
        self._ring = self._after.ring()
        self._befores = [(before, before.ring()) for before in previous]
        self._servers: dict[str, LookupServer] = {}
        self._clients: dict[str, Redis] = {}
        self._failing: dict[str, float] = {}
        self._next_try: dict[str, float] = {}
        known = {(p["address"], p["layout"]): Source(**p) for p in progress}
        self.sources: list[Source] = []
        seen = set()
        for before in previous:
            for server in before.servers:
                at = address(server), before.layout
                self._servers.setdefault(at[0], server)
                if at not in seen:
                    seen.add(at)
                    self.sources.append(known.get(at) or Source(server.name, *at))
        for server in config.servers:
            self._servers[address(server)] = server

    @property
    def progress(self) -> list[dict[str, Any]]:
        """Plain data, for whoever looks and whoever goes on."""
        return [asdict(source) for source in self.sources]

    @property
    def over(self) -> bool:
        """Whether all is copied that can be."""
        return all(source.over for source in self.sources)

    async def step(self) -> None:
        """One page of each source that is not over, at the configured rate."""
        loop = asyncio.get_running_loop()
        worked = False
        for source in self.sources:
            if source.over or self._next_try.get(source.address, 0.0) > loop.time():
                continue
            began = loop.time()
            try:
                visited = await self._page(source)
            except Unreachable as error:
                self._met(source, error)
                await self._hang_up(error.at)
                continue
            worked = True
            source.problem = ""
            pause = visited / self.config.move_rate - (loop.time() - began)
            await asyncio.sleep(max(0.0, pause))
        if not worked:
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Drop the connections."""
        for at in tuple(self._clients):
            await self._hang_up(at)

    async def _hang_up(self, at: str) -> None:
        """Connect anew the next time: another server may be there by then, with other cursors."""
        client = self._clients.pop(at, None)
        if client is not None:
            with contextlib.suppress(RedisError, OSError, RuntimeError):
                await client.aclose()

    def _met(self, source: Source, error: Unreachable) -> None:
        now = asyncio.get_running_loop().time()
        self._next_try[source.address] = now + _RETRY_SECONDS
        if source.problem != str(error):
            source.problem = str(error)
            log.warning("mover waits for a lookup node", reason=str(error))
        if error.at == source.address and self._given_up(error.at):
            source.state = "lost"
            log.warning("mover goes on without a lookup node", node=source.node, reason=str(error))

    def _given_up(self, at: str) -> bool:
        since = self._failing.get(at)
        return since is not None and asyncio.get_running_loop().time() - since >= self._give_up

    async def _page(self, source: Source) -> int:
        """Read a page and copy what moves; how many keys it had."""
        if source.state == "waiting" or not self._clients.get(source.address):
            await self._begin(source)
        count = max(1, min(_MOST, int(self.config.move_rate / 4)))
        wanted = copying.pattern(_layout(source))
        ((cursor, found),) = await self._ask(
            source.address, [("SCAN", source.cursor, "MATCH", wanted, "COUNT", count)]
        )
        names = sorted({n for n in found if copying.is_ours(_layout(source), n)})
        leaving = [name for name in names if self._leaves(source, name)]
        entries = await self._read(source, leaving)
        await self._copy(source, entries)
        source.cursor = int(cursor)
        # SCAN answers fewer than it looked at where others than entries lie there.
        visited = max(count if int(cursor) else 0, len(found))
        source.visited += visited
        source.scanned += len(names)
        source.moving += len(leaving)
        if source.cursor == 0:
            source.state = "done"
        return visited

    async def _begin(self, source: Source) -> None:
        info, keys = await self._ask(source.address, [("INFO", "server"), ("DBSIZE",)])
        run_id = str(info.get("run_id", ""))
        if run_id != source.run_id:
            source.cursor = source.visited = source.scanned = source.moving = 0
        source.run_id, source.keys, source.state = run_id, int(keys), "copying"

    def _leaves(self, source: Source, name: bytes) -> bool:
        """Whether a previous ring had the entry here, and the ring of now looks elsewhere."""
        if not any(
            before.layout == source.layout and address(ring.owner(name)) == source.address
            for before, ring in self._befores
        ):
            return False  # it was written here while its owner was out
        if source.layout != self._after.layout:
            return True
        return address(self._ring.owner(name)) != source.address

    async def _read(self, source: Source, names: Sequence[bytes]) -> list[Entry]:
        layout = _layout(source)
        oldest, newest = self._days.oldest(), tomorrow(self._days.today())
        found: list[Entry] = []
        wanted = [(name, 0) for name in names]
        while wanted:
            commands = [copying.look(layout, name, cursor) for name, cursor in wanted]
            replies = await self._ask(source.address, [c for group in commands for c in group])
            more = []
            position = 0
            for (name, _), group in zip(wanted, commands, strict=True):
                part = replies[position : position + len(group)]
                position += len(group)
                entries, cursor = copying.entries(layout, name, part)
                found += [entry for entry in entries if _useful(entry, oldest, newest)]
                if cursor:
                    more.append((name, cursor))
            wanted = more
        return found

    async def _copy(self, source: Source, entries: Sequence[Entry]) -> None:
        layout = Layout(self._after.layout, self._days.retention)
        by_target: dict[str, list[Entry]] = {}
        for entry in entries:
            target = address(self._ring.owner(layout.ring_key(entry.key)))
            by_target.setdefault(target, []).append(entry)
        for target, group in by_target.items():
            commands = copying.copies(layout, group)
            try:
                replies = await self._ask(target, [command for command, _ in commands])
            except Unreachable:
                if not self._given_up(target):
                    raise
                source.failed += len(group)
                metrics.MOVED.labels("failed").inc(len(group))
                continue
            for (_, number), reply in zip(commands, replies, strict=True):
                copied = max(0, int(reply))
                source.copied += copied
                source.kept += number - copied
                metrics.MOVED.labels("copied").inc(copied)
                metrics.MOVED.labels("kept").inc(number - copied)

    async def _ask(self, at: str, commands: Sequence[Command]) -> list[Any]:
        """The replies, in one round trip.

        Raises:
            Unreachable: there were none, or one that says that the node cannot.
        """
        client = self._clients.get(at)
        if client is None:
            client = self._clients[at] = connect(self._servers[at], self.config, ANSWER_SECONDS)
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS * 2),
                client.pipeline(transaction=False) as pipe,
            ):
                for command in commands:
                    pipe.execute_command(*command)
                replies: list[Any] = await pipe.execute(raise_on_error=False)
            for command, reply in zip(commands, replies, strict=True):
                # Of another type than an entry: `copying.entries` leaves it out.
                if isinstance(reply, RedisError) and command[0] not in ("GET", "HSCAN"):
                    raise reply
        except Exception as error:  # uvloop raises RuntimeError on a reset
            self._failing.setdefault(at, asyncio.get_running_loop().time())
            raise Unreachable(at, describe(error)) from error
        self._failing.pop(at, None)
        return replies


def _layout(source: Source) -> Any:
    return source.layout


def _useful(entry: Entry, oldest: date, newest: date) -> bool:
    """Whether an entry may still lead somewhere."""
    return oldest <= entry.day <= newest
