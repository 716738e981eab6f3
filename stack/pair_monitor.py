"""Observes a pair of MySQL servers: whether each answers, and how the standby follows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable

import pymysql

from stack import replication
from stack.pair_rules import Host, Situation
from stack.server import Server
from stack.supervised import RETRY_SECONDS


class Monitor:
    """Asks both servers, and remembers when each answered last.

    Attributes:
        link: how the standby followed the primary at the last observation.
        waits: whether the primary then waited for the standby at each commit (semi-sync is on).
    """

    def __init__(self, servers: Iterable[Server]) -> None:
        self._servers = tuple(servers)
        self.reset()

    def reset(self) -> None:
        """Forget what was observed: the servers were started, or have other roles now."""
        now = time.monotonic()
        self._answered = dict.fromkeys(self._servers, now)
        self._followed = now
        self._linked_at = 0.0
        self.link = replication.Link(following=False)
        self.waits = False

    def observe(
        self, primary: Server, standby: Server, *, redundant: bool, unwanted: Collection[str]
    ) -> Situation:
        """Ask both servers.

        Args:
            primary: the server that is the primary, or was it last.
            standby: the other server.
            redundant: whether the standby has every acknowledged commit, as far as is known.
            unwanted: names of servers that are to stay dead.
        """
        clients, committed = 0, ""
        answering: set[Server] = set()
        if primary.running:
            with contextlib.suppress(pymysql.MySQLError):
                self.waits, clients, committed = replication.semi_sync(primary)
                self.note_answer(primary)
                answering.add(primary)
        if standby.running:
            with contextlib.suppress(pymysql.MySQLError):
                self.link = replication.link_status(standby, primary, committed)
                self.note_answer(standby)
                answering.add(standby)
        following = standby.running and self.link.following and clients > 0
        if following:
            self._followed = time.monotonic()
        now = time.monotonic()

        def host(server: Server) -> Host:
            return Host(
                running=server.running,
                stopped=server.stopped,
                silent=0.0 if server in answering else now - self._answered[server],
                wanted=server.name not in unwanted,
            )

        return Situation(
            primary=host(primary),
            standby=host(standby),
            redundant=redundant,
            waits=self.waits,
            following=following,
            hopeless=self.link.hopeless,
            linking=self._linked_at > 0 and now - self._linked_at < 2 * RETRY_SECONDS,
            behind=self.link.behind,
            unlinked=now - self._followed,
        )

    def note_answer(self, server: Server) -> None:
        """A server answered, or was just started."""
        self._answered[server] = time.monotonic()

    def note_link(self) -> None:
        """The standby is being told to follow the primary."""
        self._linked_at = time.monotonic()
        self.link = replication.Link(following=False)
