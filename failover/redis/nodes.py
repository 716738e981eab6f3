"""The lookup nodes: the connections to each, its health, and the probes that return it to the ring.

A node's fault raises no exception here: `Node.run` returns None for a batch that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeGuard

import structlog

from config.model import LayoutName, Lookup, LookupServer
from config.tls import in_words
from failover import metrics
from failover.loop_lag import LoopLag
from failover.redis.connections import OF_CONNECTIONS, Command, Link, NodeError
from failover.redis.ejection import Health
from failover.tasks import stop

log = structlog.get_logger("tapedeck.nodes")

PROBE_KEY = b"tapedeck:probe"
_PROBE_SECONDS = 60
"""Seconds after which an entry that a probe wrote expires."""
TRIAL_SECONDS = 2.0
"""Seconds that a node has to answer before it enters the ring."""
CHECK_AFTER = 1.0
"""Seconds without a request after which a live node is checked: running sessions ask for no hints,
so the next new listener would otherwise be the first to meet a dead node."""
CHECK_AGAIN = 0.25
"""The same after a failure."""


class _Starved(TimeoutError):
    """An answer did not come in time, but this process was starved for most of that time."""

    def __str__(self) -> str:
        return "this gateway got no CPU time to read the answer"


class Elsewhere(NodeError):
    """A node answered that another one has the entry. That one is not asked: there is no hint."""


class Node:
    """One lookup node.

    Args:
        loop_lag: tells when this process is starved; without it, it never is.
        link: the connections to use; None: a ring's.
        probe_key: returns the name of the entry that the next probe writes.
    """

    def __init__(
        self,
        server: LookupServer,
        config: Lookup,
        loop_lag: LoopLag | None = None,
        *,
        link: Link | None = None,
        probe_key: Callable[[], bytes] = lambda: PROBE_KEY,
    ) -> None:
        self.server = server
        self._loop_lag = loop_lag or LoopLag()
        self.current = False
        self.health = Health(
            limit=config.server_failure_limit,
            retry_seconds=config.server_retry_timeout / 1000,
            eject=config.auto_eject_hosts,
            since=time.monotonic(),
        )
        self._asked = self._wrote = time.monotonic()
        self._checking: asyncio.Task[Any] | None = None
        self._link = link or Link(server, config)
        self._probe_key = probe_key
        self._use(config)

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def address(self) -> str:
        return str(self.server)

    def configure(self, server: LookupServer, config: Lookup) -> None:
        """Use other settings; batches under way end with the old ones.

        Args:
            server: with the same name and address.
        """
        if self._config.differing(config, OF_CONNECTIONS):
            self._link.close()
            self._link = Link(server, config)
        self.server = server
        self._use(config)
        self.health.adjust(
            time.monotonic(),
            config.server_failure_limit,
            config.server_retry_timeout / 1000,
            config.auto_eject_hosts,
        )

    def show(self, *, current: bool) -> None:
        """Show the node's metrics if it is in the ring; remove them otherwise."""
        self.current = current
        if current:
            metrics.NODE_LIVE.labels(self.name).set(self.health.live)

    def _use(self, config: Lookup) -> None:
        self._config = config
        self._seconds = config.timeout / 1000
        self._hint_seconds = config.hint_seconds
        self._lateness = (
            f"answers later than the hint's deadline, {config.hint_seconds * 1000:g} ms"
        )
        self._latency = metrics.NODE_SECONDS.labels(self.name)

    async def run(
        self, commands: Sequence[Command], *, writes: bool = False, more: bool = False
    ) -> list[Any] | None:
        """Send a batch in one round trip, within `timeout`.

        Args:
            writes: whether the batch writes: a node may refuse writes and answer reads.
            more: whether another batch completes this write: it may be refused yet.

        Returns:
            The reply to each command; an error of an entry (WRONGTYPE, Elsewhere) is an exception
            in the list. None if the node failed, which counts as one failure.
        """
        self._asked = time.monotonic()
        if writes:
            self._wrote = self._asked
        try:
            replies, late = await self._send(commands)
        except _Starved:
            metrics.NODE_FAILURES.labels(self.name, "absent").inc()
            return None
        except Exception as error:  # also RuntimeError, which uvloop raises on a reset
            self._failed(describe(error))
            return None
        for reply in replies:
            if _refuses(reply):
                # It may be the wrong server by now (a demoted primary, a rotated password): the
                # next connection looks the name up and logs in anew.
                self._link.renew()
                self._failed(describe(reply), writes=writes)
                return None
        if late:
            metrics.NODE_FAILURES.labels(self.name, "late").inc()
            self._ejected(self.health.late(time.monotonic(), self._lateness))
        else:
            self.health.succeeded(wrote=writes and not more)
        return replies

    async def ask_uncounted(self, commands: Sequence[Command]) -> list[Any]:
        """Send a batch that no request waits for; it does not count for the node's health.

        Returns:
            The reply to each command; an error reply is an exception in the list.

        Raises:
            Exception: no answer within `timeout`.
        """
        replies, _ = await self._send(commands)
        return replies

    async def trial(self) -> str | None:
        """Check a node before it enters a ring; return why it cannot do its work, or None.

        It is asked twice, within TRIAL_SECONDS, since one answer may get lost. Then its connection
        is closed.
        """
        problem: str | None = None
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                for _ in range(2):
                    problem, _ = await self._problem()
                    if problem is None:
                        break
        except TimeoutError:
            problem = problem or f"timeout: nothing within {TRIAL_SECONDS:g} s"
        finally:
            self.close()
        return problem and problem.removesuffix(".")

    async def _problem(self) -> tuple[str | None, bool]:
        """Why the commands of a probe do not work, and whether they were answered late."""
        try:
            replies, late = await self._send(self._probing())
        except Exception as error:
            return describe(error), False
        refused = next((reply for reply in replies if _refuses(reply)), None)
        return None if refused is None else describe(refused), late

    def _probing(self) -> Sequence[Command]:
        return probing(self._config.layout, self._probe_key())

    def check(self, now: float) -> None:
        """In the background, probe an ejected node when it is due, or check that a live node that
        is idle, or has refused a write, can write and read. A check counts like any batch.
        """
        if self._checking is not None and not self._checking.done():
            return
        health = self.health
        idle = now - (self._wrote if health.refusals else self._asked)
        if health.probe_due(now):
            work: Coroutine[Any, Any, Any] = self.probe()
        elif health.live and idle >= (CHECK_AGAIN if health.reason else CHECK_AFTER):
            work = self.run(self._probing(), writes=True)
        else:
            return
        self._checking = asyncio.create_task(work, name=f"check-{self.name}")

    async def probe(self) -> None:
        """Probe an ejected node: it must write and read an entry to return.

        The probe connects anew: the node's name may have another server by now.
        """
        self._link.renew()
        problem, late = await self._problem()
        if self.health.probed(time.monotonic(), problem or (self._lateness if late else None)):
            metrics.NODE_RETURNS.labels(self.name).inc()
            self.show(current=self.current)
            log.info("lookup node returned", node=self.name, address=self.address)

    def close(self) -> None:
        """Close the connections that no batch uses; a batch under way closes its own."""
        if self._checking is not None:
            self._checking.cancel()
        self._link.close()

    async def _send(self, commands: Sequence[Command]) -> tuple[list[Any], bool]:
        """The replies, and whether they came after `hint_deadline`.

        Replies count as late, and a timeout as the node's failure, only if this process was not
        starved meanwhile: otherwise every node would look slow.

        Raises:
            _Starved: the time ran out while this process was starved.
            Exception: the node failed.
        """
        loop = asyncio.get_running_loop()
        started, late_before = loop.time(), self._loop_lag.seconds_late
        try:
            async with asyncio.timeout(self._seconds):
                replies = await self._link.ask(commands)
        except TimeoutError:
            if self._loop_lag.kept_up(started, late_before):
                raise
            raise _Starved from None
        took = loop.time() - started
        self._latency.observe(took)
        late = took > self._hint_seconds and self._loop_lag.kept_up(started, late_before)
        return replies, late

    def _failed(self, reason: str, *, writes: bool = False) -> None:
        metrics.NODE_FAILURES.labels(self.name, reason.partition(" ")[0].rstrip(":")).inc()
        self._ejected(self.health.failed(time.monotonic(), reason, refused=writes))

    def _ejected(self, ejected: bool) -> None:
        if not ejected:
            return
        metrics.NODE_EJECTIONS.labels(self.name).inc()
        self.show(current=self.current)
        log.warning(
            "lookup node ejected",
            node=self.name,
            address=self.address,
            reason=self.health.reason,
            failures=self.health.failures,
            next_probe=iso_time(self.health.next_probe or 0),
        )


class NodeSet:
    """Lookup nodes by name, with a background task that watches them."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._watching: asyncio.Task[None] | None = None

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    async def start(self) -> None:
        self._watching = asyncio.create_task(self._watch(), name="lookup-nodes")

    async def close(self) -> None:
        """Stop watching, and close every connection."""
        await stop(self._watching)
        for node in self:
            node.close()

    async def _watch(self) -> None:
        raise NotImplementedError


class Nodes(NodeSet):
    """The lookup nodes of the configuration."""

    def __init__(self, config: Lookup, loop_lag: LoopLag | None = None) -> None:
        super().__init__()
        self._loop_lag = loop_lag
        self._preconnect = config.preconnect
        self.use(self.plan(config.servers, config), config)

    @property
    def out(self) -> frozenset[str]:
        """The names of the ejected nodes."""
        return frozenset([node.name for node in self._nodes.values() if not node.health.live])

    def plan(self, servers: Iterable[LookupServer], config: Lookup) -> dict[str, Node]:
        """A node for each server, by name, without using them yet. A known server (same name and
        address) keeps its node and so its health."""
        known = {(node.name, node.address): node for node in self._nodes.values()}
        return {
            server.name: known.get((server.name, str(server)))
            or Node(server, config, self._loop_lag)
            for server in servers
        }

    def use(self, planned: Mapping[str, Node], config: Lookup) -> None:
        """Use the planned nodes; close the others."""
        before = self._nodes
        self._nodes = dict(planned)
        self._retry_seconds = config.server_retry_timeout / 1000
        for name, node in before.items():
            if planned.get(name) is not node:
                node.show(current=False)
                log.info("lookup node left", node=name, address=node.address)
                node.close()
            if name not in planned:
                with contextlib.suppress(KeyError):
                    metrics.NODE_LIVE.remove(name)
        for server in config.servers:
            planned[server.name].configure(server, config)
            planned[server.name].show(current=True)

    async def start(self) -> None:
        """Begin to watch the nodes. With `preconnect`, connect to all of them first."""
        if self._preconnect:
            await asyncio.gather(*(node.run([("PING",)]) for node in self))
        await super().start()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(0.25, self._retry_seconds / 4))
            now = time.monotonic()
            for node in self:
                node.check(now)


def probing(layout: LayoutName, key: bytes) -> Sequence[Command]:
    """The commands of a probe, which must succeed before a node returns: all that hints of this
    layout need, since a node may refuse any one of them (an ACL, a renamed command)."""
    match layout:
        case "flat":
            return [("SET", key, b"1", "EX", _PROBE_SECONDS), ("GET", key)]
        case "packed":
            return [
                ("HSET", key, b"0", b"1"),
                ("EXPIRE", key, _PROBE_SECONDS),
                ("HGET", key, b"0"),
                ("HSCAN", key, 0, "COUNT", 1),
                ("HDEL", key, b"1"),
            ]


def _refuses(reply: object) -> TypeGuard[NodeError]:
    """Whether a node says that it cannot do its work: LOADING, MASTERDOWN, OOM, READONLY, NOAUTH.

    WRONGTYPE says that the entry is wrong, and `Elsewhere` that it is another node's.
    """
    if not isinstance(reply, NodeError) or isinstance(reply, Elsewhere):
        return False
    return not str(reply).startswith("WRONGTYPE")


def describe(error: Exception) -> str:
    """A failure in a few words."""
    if isinstance(error, _Starved):
        return str(error)
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, NodeError):
        return f"refused: {error}"
    for one in (error, error.__cause__):
        if isinstance(one, ssl.SSLError):
            return f"TLS: {in_words(one).removeprefix('TLS: ')}"
    words = in_words(error) if isinstance(error, OSError) else str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def iso_time(steady: float) -> str:
    """A time of the steady clock as a date and time."""
    seconds = time.time() + steady - time.monotonic()
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
