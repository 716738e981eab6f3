"""What keeps one client, or too many of them, from taking the gateway away from the others.

Pure rules are next door: `rate_limit.py` says how much one client may take, `concurrency_limit.py`
when a worker is behind. Here they meet connections and the clock. Each worker guards itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import structlog

from config.model import Limits, Sections
from failover.presence import Presence
from gateway import metrics
from gateway.http.concurrency_limit import LOOK_SECONDS, Governor
from gateway.http.descriptors import of_clients, reserved
from gateway.http.errors import Refusal
from gateway.http.memory import give_back
from gateway.http.rate_limit import Addresses, Buckets, one_client, retry_after

SWEEP_SECONDS = 1.0
"""Between two looks at slow connections."""
CONNECTION_BYTES = 16 * 1024
"""About what an open connection takes by itself."""
WORTH_GIVING_BACK = 8 * 1024 * 1024
"""Once connections have used this much and half of it is free, it is given back ..."""
GIVE_BACK_SECONDS = 10.0
"""... but not sooner than so long after the last time: it takes some milliseconds."""

_log = structlog.get_logger()


class Connection(Protocol):
    """What admission control asks of a connection.

    Attributes:
        peer: the address of the other end.
        descriptor: its number; -1 if it has none.
        slow_since: since when a request's headers are incomplete, on the loop's clock; 0: not.
        unread_since: since when something lies unread; kept by admission control.
        held: bytes of memory that its unfinished request takes; kept by admission control.
    """

    peer: str
    descriptor: int
    slow_since: float
    unread_since: float
    held: int

    def unread(self) -> int:
        """Bytes that wait to be taken by the client."""
        ...

    def too_slow(self) -> None:
        """End it: 408."""
        ...

    def crowded_out(self) -> None:
        """End it: 503, what it has begun takes memory that others need."""
        ...

    def cut(self) -> None:
        """End it at once."""
        ...


class AdmissionControl:
    """The limits of one worker's port.

    Args:
        config: as it holds; `configure` changes it.

    Attributes:
        allowed: requests that may be in flight now.
        by_address: whether requests are counted by address at all.
        proxied: whether X-Forwarded-For may say whose a request is.
        limits: the section.
        held: bytes of memory that requests take which clients have begun and not finished.
    """

    def __init__(self, config: Sections) -> None:
        self.limits = Limits()
        self._connections: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self.held = 0
        self._peak = 0
        self._refused = 0
        self._give_back_at = 0.0
        self._governor = Governor(None, 1, config.gateway.max_requests)
        self._late = self._look_at = self._sweep_at = 0.0
        self._shedding = False
        self._in_flight: Callable[[], int] = lambda: 0
        self.configure(config)

    def configure(self, config: Sections) -> None:
        """Other limits hold from the next request on. Counts begin anew where their limit did."""
        before, limits = self.limits, config.limits
        self.limits = limits
        target = None if limits.queueing_target is None else limits.queueing_target / 1000
        self._governor.configure(target, limits.always_accepted, config.gateway.max_requests)
        self.allowed = self._governor.limit
        self._reserved = reserved(config)
        self._addresses = Addresses(limits.trusted_proxies)
        self.by_address = limits.address_rate is not None
        self.proxied = bool(limits.trusted_proxies)
        fresh = before.remembered != limits.remembered or not hasattr(self, "_of_address")
        if fresh or (before.address_rate, before.address_burst) != (
            limits.address_rate,
            limits.address_burst,
        ):
            self._of_address = _buckets(limits.address_rate, limits.address_burst, limits)
        if fresh or (before.token_rate, before.token_burst) != (
            limits.token_rate,
            limits.token_burst,
        ):
            self._of_listener = _buckets(limits.token_rate, limits.token_burst, limits)

    # --- requests

    def admit(self, peer: str, forwarded: str | None) -> None:
        """Count a request for its address.

        Args:
            peer: the other end of the connection.
            forwarded: X-Forwarded-For.

        Raises:
            Refusal: 429.
        """
        if self._of_address is None:
            return
        client = self._addresses.client(peer, forwarded)
        if client is None:
            return
        wait = self._of_address.take(client, monotonic())
        if wait:
            raise _limited("address", "from this address", wait)

    def is_proxy(self, peer: str) -> bool:
        """Whether the other end of a connection is a trusted proxy."""
        return self._addresses.is_proxy(peer)

    def admit_listener(self, user_id: int) -> None:
        """Count a request for its listener.

        Raises:
            Refusal: 429.
        """
        if self._of_listener is None:
            return
        wait = self._of_listener.take(user_id, monotonic())
        if wait:
            raise _limited("listener", "by this listener", wait)

    # --- connections

    def opened(self, connection: Connection) -> str | None:
        """A connection came. Why it cannot stay; None if it can. It is counted in any case."""
        address = one_client(connection.peer)
        self._connections.add(connection)
        self._peak = max(self._peak, self._usage())
        self._per_address[address] += 1
        if len(self._connections) > self.limits.connections:
            metrics.CUT_OFF.labels("connections").inc()
            return "Too many connections are open."
        if connection.descriptor >= of_clients(self._reserved):
            metrics.CUT_OFF.labels("descriptors").inc()
            return (
                "Too many files are open: raise the limit of open files (LimitNOFILE, ulimit -n)."
            )
        most = self.limits.address_connections
        if (
            most is not None
            and self._per_address[address] > most
            and not self.is_proxy(connection.peer)
        ):
            metrics.CUT_OFF.labels("address_connections").inc()
            return "Too many connections are open from this address."
        return None

    def closed(self, connection: Connection) -> None:
        """A connection ended."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self.holds(connection, 0)
        address = one_client(connection.peer)
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    def holds(self, connection: Connection, held: int) -> None:
        """What a connection has not finished to send takes so many bytes of memory now.

        Past `unfinished_bytes` those that hold most are ended until a quarter is free: a request
        that came in two pieces is not sent away for others' sake, and who is ended is looked for
        once for many.
        """
        self.held += held - connection.held
        connection.held = held
        if self.held <= self.limits.unfinished_bytes:
            return
        self._peak = max(self._peak, self._usage())
        enough = self.limits.unfinished_bytes * 3 // 4
        for largest in sorted(self._connections, key=lambda each: each.held, reverse=True):
            if self.held <= enough:
                return
            self.held -= largest.held
            largest.held = 0
            metrics.CUT_OFF.labels("unfinished").inc()
            largest.crowded_out()

    def refused(self, size: int) -> None:
        """So many bytes of a request were read and are dropped."""
        metrics.CUT_OFF.labels("large_headers").inc()
        self._refused += size

    def _usage(self) -> int:
        return self.held + len(self._connections) * CONNECTION_BYTES

    # --- time

    def start(self, presence: Presence, in_flight: Callable[[], int]) -> None:
        """Begin to look at the loop and at slow connections.

        Args:
            presence: says how late the loop is.
            in_flight: gives the number of requests that are being served.
        """
        self._in_flight = in_flight
        presence.followers.append(self.tick)

    def tick(self, now: float, late: float) -> None:
        """Look, and sweep, where it is time to.

        Args:
            now: the loop's clock.
            late: seconds by which the loop was late this time.
        """
        self._late = max(self._late, late)
        if now >= self._look_at:
            self.look(self._late)
            self._late, self._look_at = 0.0, now + LOOK_SECONDS
        if now >= self._sweep_at:
            self.sweep(now)
            self._sweep_at = now + SWEEP_SECONDS

    def look(self, late: float) -> None:
        """Take it into account that the loop was so many seconds late."""
        governor = self._governor
        governor.look(late, self._in_flight())
        self.allowed = governor.limit
        metrics.LATE.set(late)
        metrics.ALLOWED.set(governor.limit)
        shedding = governor.limit < governor.ceiling
        if shedding and not self._shedding:
            _log.warning("overload started", late=round(late, 3), in_flight=self._in_flight())
        elif self._shedding and not shedding:
            _log.info("overload ended")
        self._shedding = shedding

    def sweep(self, now: float) -> None:
        """End connections whose client is too slow."""
        limits = self.limits
        metrics.CONNECTIONS.set(len(self._connections))
        usage = self._usage()
        left = self._peak > WORTH_GIVING_BACK and usage < self._peak // 2
        if (left or self._refused > WORTH_GIVING_BACK) and now >= self._give_back_at:
            give_back()
            self._give_back_at = now + GIVE_BACK_SECONDS
            self._peak, self._refused = usage, 0
        for connection in list(self._connections):
            if connection.slow_since and now - connection.slow_since > limits.header_seconds:
                metrics.CUT_OFF.labels("slow_headers").inc()
                connection.slow_since = 0.0
                connection.too_slow()
            if not connection.unread():
                connection.unread_since = 0.0
            elif not connection.unread_since:
                connection.unread_since = now
            elif now - connection.unread_since > limits.write_seconds:
                metrics.CUT_OFF.labels("unread_answers").inc()
                connection.cut()


def _buckets(rate: float | None, burst: float, limits: Limits) -> Buckets | None:
    return None if rate is None else Buckets(rate, burst, limits.remembered)


def _limited(by: str, whose: str, wait: float) -> Refusal:
    metrics.LIMITED.labels(by).inc()
    return Refusal(
        429,
        f"Too many requests {whose}; try again later.",
        headers={"Retry-After": retry_after(wait)},
    )
