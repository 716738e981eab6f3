"""Admission control: one client, or too many of them, must not take the gateway from the others.

The rules are elsewhere, without I/O: `rate_limit.py` limits one client, `concurrency_limit.py` the
requests of a worker that is late. This module applies them to connections. Each worker counts only
its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import resource
import socket
from collections import Counter
from collections.abc import Callable
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from config.model import Sections
from failover.loop_lag import LoopLag
from gateway import metrics
from gateway.http.concurrency_limit import CHECK_SECONDS, Governor
from gateway.http.errors import Refusal
from gateway.http.messages import Request, peer_of
from gateway.http.rate_limit import Addresses, Buckets, one_client

if TYPE_CHECKING:
    from gateway.http.protocol import HttpConnection

SWEEP_SECONDS = 1.0
"""Seconds between two checks for slow connections."""
CONNECTION_BYTES = 16 * 1024
"""About the memory of an open connection."""
HANDSHAKE_BYTES = 85 * 1024
"""About the memory of a TLS handshake under way."""
WORTH_GIVING_BACK = 8 * 1024 * 1024
"""Bytes. If clients that have gone used more, it is returned to the system."""
GIVE_BACK_SECONDS = 10.0
"""Seconds from then until the return, which takes some milliseconds: more clients may go."""
HANDSHAKE_MARGIN = 16
"""So many descriptors below the reserved ones, old TLS handshakes begin to make room."""

_NODE_CONNECTIONS = 16
"""Connections to one lookup node, if the configuration sets no limit."""
_OTHER_DESCRIPTORS = 56
"""8 for long work in MySQL; the others for the admin port, name look-ups, files and the log."""

_log = structlog.get_logger()


class AdmissionControl:
    """The limits of one worker's port.

    Attributes:
        allowed: most requests in flight now.
        limits: the section of the configuration.
        held: bytes of memory of all unfinished requests.
    """

    def __init__(self, config: Sections) -> None:
        self._of_address: Buckets | None = None
        self._of_listener: Buckets | None = None
        self._connections: set[HttpConnection] = set()
        self._per_address: Counter[str] = Counter()
        # TLS handshakes under way, the oldest first, and the addresses of their clients.
        self._handshakes: dict[socket.socket, str] = {}
        self._handshakes_of: Counter[str] = Counter()
        # Those that were cut off, until their descriptors are free.
        self._cut: set[socket.socket] = set()
        self.held = 0
        # Bytes of clients that have gone, since memory was returned to the system.
        self._left = 0
        self._give_back_at = 0.0
        self._governor = Governor(None, 1, config.gateway.max_requests)
        self._late = self._check_at = self._sweep_at = 0.0
        self._shedding = False
        self._in_flight: Callable[[], int] = lambda: 0
        self.configure(config)

    def configure(self, config: Sections) -> None:
        """Use other limits from the next request on. Counts whose limit has changed restart."""
        self.limits = limits = config.limits
        target = None if limits.queueing_target is None else limits.queueing_target / 1000
        self._governor.configure(target, limits.always_accepted, config.gateway.max_requests)
        self.allowed = self._governor.limit
        self._reserved = _reserved_descriptors(config)
        self._addresses = Addresses(limits.trusted_proxies)
        most, of_address, of_listener = limits.remembered, self._of_address, self._of_listener
        self._of_address = _buckets(of_address, limits.address_rate, limits.address_burst, most)
        self._of_listener = _buckets(of_listener, limits.token_rate, limits.token_burst, most)

    def admit(self, request: Request) -> None:
        """Count a request for its client's address; refuse it with 429 if there are too many."""
        if self._of_address is None:
            return
        peer = peer_of(request)
        forwarded = request.headers.getall("X-Forwarded-For", ()) if self.is_proxy(peer) else ()
        client = self._addresses.client(peer, ",".join(forwarded))
        if client is not None:
            _take(self._of_address, client, "address", "from this address")

    def is_proxy(self, peer: str) -> bool:
        return self._addresses.is_proxy(peer)

    def admit_listener(self, user_id: int) -> None:
        """Count a request for its listener; refuse it with 429 if there are too many."""
        if self._of_listener is not None:
            _take(self._of_listener, user_id, "listener", "by this listener")

    def opened(self, connection: HttpConnection) -> str | None:
        """Register a connection; return why it is refused, or None. It is counted in both cases."""
        address = one_client(connection.peer)
        self._end_handshake(connection.accepted)
        self._connections.add(connection)
        self._per_address[address] += 1
        if len(self._connections) > self.limits.connections:
            metrics.CUT_OFF.labels("connections").inc()
            return "Too many connections are open."
        if self.is_reserved(connection.descriptor):
            metrics.CUT_OFF.labels("descriptors").inc()
            return "Too many files are open: raise their limit (LimitNOFILE, ulimit -n)."
        most = self.limits.address_connections
        beyond = most is not None and self._per_address[address] > most
        if beyond and not self.is_proxy(connection.peer):
            metrics.CUT_OFF.labels("address_connections").inc()
            return "Too many connections are open from this address."
        return None

    def handshake_begun(self, connection: socket.socket, peer: str) -> None:
        """Count a TLS handshake as a connection of its `peer`.

        It is cut off if the address has too many connections. If all together are too many, the
        oldest quarter of the handshakes is cut off: that of an honest client takes milliseconds.
        """
        address = one_client(peer)
        self._handshakes[connection] = address
        self._handshakes_of[address] += 1
        most = self.limits.address_connections
        of_address = self._handshakes_of[address] + self._per_address[address]
        everywhere = len(self._handshakes) + len(self._connections)
        cut = []
        if most is not None and of_address > most and not self.is_proxy(peer):
            cut = [connection]
        elif everywhere > self.limits.connections or (
            self.is_reserved(connection.fileno() + HANDSHAKE_MARGIN - len(self._cut))
        ):
            cut = list(islice(self._handshakes, len(self._handshakes) // 4))
        for each in cut:
            metrics.CUT_OFF.labels("handshakes").inc()
            self._end_handshake(each)
            self._cut.add(each)
            with contextlib.suppress(OSError):  # it has just ended by itself
                each.shutdown(socket.SHUT_RDWR)

    def handshake_failed(self, connection: socket.socket) -> None:
        """It ended without a connection, or was cut off; its descriptor is free."""
        if connection in self._cut or connection in self._handshakes:
            self._left += HANDSHAKE_BYTES
        self._cut.discard(connection)
        self._end_handshake(connection)

    def _end_handshake(self, connection: socket.socket) -> None:
        address = self._handshakes.pop(connection, None)
        if address is not None:
            self._handshakes_of[address] -= 1
            if not self._handshakes_of[address]:
                del self._handshakes_of[address]

    def must_wait(self, descriptor: int) -> bool:
        """Whether the next connection waits for the loop's next turn, after this `descriptor`.

        It may then get one of a connection that was refused, or of a handshake that was cut off.
        """
        return self.is_reserved(descriptor) or len(self._cut) > HANDSHAKE_MARGIN

    def is_reserved(self, descriptor: int) -> bool:
        """Whether a connection's descriptor is one of those that are not for clients."""
        return descriptor >= _first_reserved(self._reserved)

    def closed(self, connection: HttpConnection) -> None:
        self._connections.remove(connection)
        self._left += CONNECTION_BYTES + connection.held
        self.count_held(connection, 0)
        address = one_client(connection.peer)
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    def count_held(self, connection: HttpConnection, held: int) -> None:
        """Register the bytes of memory that a connection's unfinished request takes now.

        Beyond `unfinished_bytes` the connections with most bytes are closed until a quarter of the
        limit is free. So a small unfinished request stays, and the search is needed seldom.
        """
        self.held += held - connection.held
        connection.held = held
        if self.held <= self.limits.unfinished_bytes:
            return
        enough = self.limits.unfinished_bytes * 3 // 4
        for largest in sorted(self._connections, key=lambda each: each.held, reverse=True):
            if self.held <= enough:
                return
            self.held -= largest.held
            self._left += largest.held
            largest.held = 0
            metrics.CUT_OFF.labels("unfinished").inc()
            largest.crowded_out()

    def refused(self, size: int) -> None:
        """Count `size` bytes of a refused request, which were read and dropped."""
        metrics.CUT_OFF.labels("large_headers").inc()
        self._left += size

    def start(self, loop_lag: LoopLag, in_flight: Callable[[], int]) -> None:
        """Begin to check the loop and slow connections. `in_flight` counts the requests being
        served.
        """
        self._in_flight = in_flight
        loop_lag.followers.append(self.tick)

    def tick(self, now: float, late: float) -> None:
        """Run `adapt_limit` and `close_slow` when they are due; `now` is the loop's clock."""
        self._late = max(self._late, late)
        if now >= self._check_at:
            self.adapt_limit(self._late)
            self._late, self._check_at = 0.0, now + CHECK_SECONDS
        if now >= self._sweep_at:
            self.close_slow(now)
            self._sweep_at = now + SWEEP_SECONDS

    def adapt_limit(self, late: float) -> None:
        governor = self._governor
        governor.adapt(late, self._in_flight())
        self.allowed = governor.limit
        shedding = governor.limit < governor.ceiling
        if shedding and not self._shedding:
            _log.warning("overload started", late=round(late, 3), in_flight=self._in_flight())
        elif self._shedding and not shedding:
            _log.info("overload ended")
        self._shedding = shedding

    def close_slow(self, now: float) -> None:
        """Close connections whose client is too slow."""
        limits = self.limits
        metrics.CONNECTIONS.set(len(self._connections))
        if self._left <= WORTH_GIVING_BACK:
            self._give_back_at = now + GIVE_BACK_SECONDS
        elif now >= self._give_back_at:
            _give_back()
            self._left = 0
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


def _reserved_descriptors(config: Sections) -> int:
    """How many descriptors are reserved for MySQL, the lookup nodes and operators."""
    mysql = config.mysql.connections + 2 * len(config.mysql.hosts)
    nodes = len(config.lookup.servers) * (config.lookup.server_connections or _NODE_CONNECTIONS)
    return mysql + nodes + _OTHER_DESCRIPTORS


def _first_reserved(reserve: int) -> int:
    """The first descriptor that no client may have. (The kernel returns the lowest free one.)

    If the system's limit is very low, clients get half of it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if limit == resource.RLIM_INFINITY else max(limit - reserve, limit // 2)


def _buckets(
    before: Buckets | None, rate: float | None, burst: float, remembered: int
) -> Buckets | None:
    """The same buckets, unless their settings have changed."""
    if rate is None:
        return None
    same = before is not None and before.settings == (rate, burst, remembered)
    return before if same else Buckets(rate, burst, remembered)


def _take(buckets: Buckets, key: object, by: str, whose: str) -> None:
    wait = buckets.take(key, monotonic())
    if wait:
        metrics.LIMITED.labels(by).inc()
        again = {"Retry-After": str(math.ceil(wait))}
        raise Refusal(429, f"Too many requests {whose}; try again later.", headers=again)


def _give_back() -> None:
    """Make the C library return the free memory of its heap.

    glibc keeps small free blocks below a used one (malloc_trim(3)), so a process would stay as
    large as after its largest crowd of connections. Other C libraries have no such call.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
