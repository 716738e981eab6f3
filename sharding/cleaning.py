"""Removing the entries that nodes no longer own: asked for by a person, never by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tapedeck.config.model import LookupServer, Sections
from tapedeck.failover.errors import MySQLError, PrimaryUnavailable
from tapedeck.failover.nodes import describe
from tapedeck.failover.primary import Primary
from tapedeck.failover.redis_link import connect
from tapedeck.sharding import copying
from tapedeck.sharding.moves import Moves
from tapedeck.sharding.placement import Placement, address

_ANSWER_SECONDS = 5.0
_MYSQL_SECONDS = 5.0
_MOST = 200
_TELL_SECONDS = 5.0


class Unsafe(Exception):
    """Cleaning now would remove what is still needed; the message says why."""


@dataclass(slots=True)
class Cleaned:
    """What became of one node.

    Attributes:
        scanned: entries of the layout that were looked at.
        removed: of them.
        kept: that another node owns, and does not have; or that hold what is no entry.
        problem: why it ended early; empty if it did not.
    """

    address: str
    scanned: int = 0
    removed: int = 0
    kept: int = 0
    problem: str = ""


class Cleaner:
    """Goes through the nodes of the ring, and through others.

    Args:
        config: its ring is the one that holds.
        former: nodes that are in it no more.
        rate: entries a second.
        dry_run: remove nothing.
    """

    def __init__(
        self,
        config: Sections,
        former: Sequence[LookupServer],
        *,
        rate: float,
        dry_run: bool,
    ) -> None:
        self._config = config
        self._placement = Placement.of(config.lookup)
        self._ring = self._placement.ring()
        self._rate = rate
        self._dry_run = dry_run
        servers = {address(server): server for server in (*config.lookup.servers, *former)}
        self._clients: dict[str, Redis] = {
            at: connect(server, config.lookup, _ANSWER_SECONDS) for at, server in servers.items()
        }

    async def run(self, tell: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
        """Clean, node by node; a node that does not answer is said to, and the others go on.

        Raises:
            Unsafe: entries are being copied, or MySQL does not say whether they are.
        """
        try:
            await self._nothing_moves()
            found = []
            for at in self._clients:
                cleaned = Cleaned(at)
                try:
                    await self._clean(cleaned, tell)
                except (RedisError, OSError, TimeoutError, RuntimeError) as error:
                    cleaned.problem = describe(error)
                found.append(asdict(cleaned))
            return found
        finally:
            for client in self._clients.values():
                with contextlib.suppress(RedisError, OSError):
                    await client.aclose()

    async def _nothing_moves(self) -> None:
        primary = Primary(self._config.mysql)
        await primary.start()
        try:
            async with asyncio.timeout(_MYSQL_SECONDS):
                move = await Moves(primary).unfinished(self._placement)
        except (TimeoutError, PrimaryUnavailable, MySQLError):
            reason = primary.problem or "no answer"
            raise Unsafe(f"MySQL does not say whether entries are being copied: {reason}") from None
        finally:
            await primary.close()
        if move is not None:
            raise Unsafe(
                "entries are still being copied to this ring (tapedeck ring show says how far)"
            )

    async def _clean(self, cleaned: Cleaned, tell: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        client, told = self._clients[cleaned.address], loop.time()
        layout = self._placement.layout
        cursor = -1
        while cursor:
            began = loop.time()
            cursor, names = await client.scan(
                max(cursor, 0), match=copying.pattern(layout), count=_MOST
            )
            ours = sorted({n for n in names if isinstance(n, bytes) and copying.is_ours(layout, n)})
            cleaned.scanned += len(ours)
            foreign: dict[str, list[bytes]] = {}
            for name in ours:
                owner = address(self._ring.owner(name))
                if owner != cleaned.address:
                    foreign.setdefault(owner, []).append(name)
            for owner, group in foreign.items():
                await self._remove(cleaned, client, self._clients[owner], group)
            if loop.time() - told > _TELL_SECONDS:
                told = loop.time()
                tell(f"{cleaned.address}: {cleaned.scanned:,} entries seen")
            await asyncio.sleep(max(0.0, len(ours) / self._rate - (loop.time() - began)))

    async def _remove(
        self, cleaned: Cleaned, client: Redis, owner: Redis, names: Sequence[bytes]
    ) -> None:
        async with owner.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.exists(name)
            there = await pipe.execute()
        known = [name for name, exists in zip(names, there, strict=True) if exists]
        known = await self._ours(client, known)
        cleaned.kept += len(names) - len(known)
        if known and not self._dry_run:
            # Freed in the background: a listener's entry may be a large one.
            await client.unlink(*known)
        cleaned.removed += len(known)

    async def _ours(self, client: Redis, names: Sequence[bytes]) -> list[bytes]:
        """Those that hold days and nothing else, as we write them: what else has such a name is
        another application's. A packed entry of many pages is not looked through, and stays."""
        layout = self._placement.layout
        async with client.pipeline(transaction=False) as pipe:
            for name in names:
                for command in copying.look(layout, name):
                    pipe.execute_command(*command)
            replies = await pipe.execute(raise_on_error=False)
        looks = zip(names, replies[::2], replies[1::2], strict=True)
        return [name for name, value, left in looks if copying.holds_days(layout, value, left)]
