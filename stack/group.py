"""Three MySQL servers in Group Replication. MySQL itself elects the primary.

`Group` asks the members a few times a second what they see, says what has changed, tells started
members to join, founds the group again if all of it was stopped, and takes orders (stop, start,
promote) in between. The rules are in `group_rules`.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql

from stack import replication
from stack.datadir import Passwords
from stack.group_rules import Situation, View, situation_of
from stack.mysql import MySQL
from stack.process import ServerFailed
from stack.supervised import RETRY_SECONDS, Say, Supervised

_QUERY_SECONDS = 1.0
"""Seconds that a check waits for an answer."""
_JOIN = 60.0
"""Seconds that joining may take."""
_LEAVE = 20.0
"""Seconds that a member gets to leave and end."""


class Group(Supervised[MySQL]):
    """Three servers called mysql1, mysql2 and mysql3."""

    def __init__(
        self,
        folder: Path,
        passwords: Passwords,
        *,
        ports: tuple[int | None, int | None, int | None] = (None, None, None),
        say: Say = lambda _: None,
        logs: Path | None = None,
        pids: Path | None = None,
    ) -> None:
        super().__init__(folder, passwords, MySQL, ports=ports, say=say, logs=logs, pids=pids)
        seeds = ",".join(server.address for server in self.servers.values())
        for server in self.servers.values():
            server.options = (
                f"--group-replication-local-address={server.address}",
                f"--group-replication-group-seeds={seeds}",
            )
        self._names = {server.port: name for name, server in self.servers.items()}
        self._primary = "mysql1"
        self._generation = 1
        self._seen: Situation | None = None
        self._running: set[str] = set()
        self._tried: dict[str, float] = {}

    # --- roles

    @property
    def primary(self) -> MySQL:
        return self.servers[self._primary]

    @property
    def redundant(self) -> bool:
        """Whether a majority is online: each of its members has every acknowledged change."""
        return self._seen is not None and 2 * len(self._seen.online) > len(self.servers)

    def status(self) -> dict[str, object]:
        """As `Supervised` says; also `online`, the number of members."""
        with contextlib.suppress(pymysql.MySQLError):
            self._generation = replication.generation(self.primary)
        online = self._seen.online if self._seen is not None else frozenset()

        def role(name: str) -> str:
            if name not in online:
                return "not in the group"
            return "primary" if name == self._primary else "secondary"

        return {
            "engine": "MySQL Group Replication",
            "primary": self._primary,
            "generation": self._generation,
            "redundant": self.redundant,
            "online": len(online),
            "servers": self._roles(role),
        }

    # --- start and stop

    def start(self) -> None:
        """As `Supervised` says: found the group, and wait until all members are online."""
        self._ending.clear()
        with self._lock:
            self._unwanted.clear()
            self._seen = None
            if not self._make_data():
                for server in self.servers.values():
                    if not server.folder.is_dir():
                        # It gets all data from the others when it joins.
                        kept = next(s.folder for s in self.servers.values() if s.folder.is_dir())
                        MySQL.make_data(server.folder, self._passwords)
                        # The gateway's configuration has the public key, so it must not change.
                        for key in kept.glob("*.pem"):
                            shutil.copy2(key, server.folder)
            with ThreadPoolExecutor(len(self.servers)) as starters:
                list(starters.map(lambda server: server.start("member"), self.servers.values()))
            deadline = time.monotonic() + _JOIN
            while not self._ending.is_set() and not (
                self._seen and len(self._seen.online) == len(self.servers)
            ):
                if time.monotonic() > deadline:
                    if self._seen is not None and self._seen.primary is not None:
                        break
                    logs = ", ".join(str(server.log) for server in self.servers.values())
                    raise ServerFailed(f"no primary was elected in {_JOIN:.0f} s: see {logs}")
                self._check_safely()
                self._ending.wait(0.05)
        self._begin_watching()

    def stop(self) -> None:
        # The primary leaves the group last, so that it has every change.
        self._end_watching()
        with self._lock, ThreadPoolExecutor(len(self.servers)) as stoppers:
            for server in self.servers.values():
                if server is not self.primary:
                    stoppers.submit(server.stop, _LEAVE)
            deadline = time.monotonic() + 5
            while (view := self._view(self.primary)) and len(view.members) > 1:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            stoppers.submit(self.primary.stop, _LEAVE)

    # --- orders

    def stop_server(self, name: str) -> str:
        """As `Supervised` says; it leaves the group first."""
        with self._lock:
            server = self.servers[name]
            self._unwanted.add(name)
            server.stop(_LEAVE)
            if not self._await(lambda: self._elected_other_than(name), 15):
                return f"{name} is stopped, and the group has no primary: start the others"
            return f"{name} is stopped; {self._primary} is the primary"

    def start_server(self, name: str) -> str:
        with self._lock:
            server = self.servers[name]
            self._check()
            if self._seen is not None and name in self._seen.online:
                raise ServerFailed(f"{name} runs already (pid {server.pid})")
            self._unwanted.discard(name)
            server.kill()
            server.start("member")
            self._tried.pop(name, None)
            if self._await(lambda: self._seen is not None and name in self._seen.online, _JOIN):
                role = "the primary" if name == self._primary else "a secondary"
                return f"{name} is {role} again: {self._count()}"
            missing = [n for n, other in self.servers.items() if not other.running]
            if missing and (self._seen is None or not self._seen.exists):
                return (
                    f"{name} is started; the group has no majority. It is founded again once "
                    f"{' and '.join(missing)} can be asked for what they have: "
                    f"tapedeck stack start {missing[0]}"
                )
            return f"{name} is started, and not in the group yet: see `tapedeck stack status`"

    def promote(self, *, force: bool = False) -> str:
        """As `Supervised` says: MySQL makes another member the primary. With `force`, if no
        majority is left, the group is founded again with the members that run."""
        with self._lock:
            self._check()
            seen = self._seen
            if seen is None or not seen.exists:
                if not force:
                    raise ServerFailed(
                        "the group has no majority, and elects no primary: start the members that "
                        "are dead (`tapedeck stack start NAME`), or lose what only they have with "
                        "`tapedeck stack promote --force`"
                    )
                self._found([n for n, server in self.servers.items() if server.running])
                self._await(lambda: self._seen is not None and self._seen.primary is not None, 20)
                return f"{self._primary} is the primary: {self._count()}"
            old = self._primary
            chosen = next((n for n in sorted(seen.online) if n != old), None)
            if chosen is None:
                raise ServerFailed("no other member of the group is online: start one")
            ((uuid,),) = self.servers[chosen].query("SELECT @@server_uuid")
            self.primary.query("SELECT group_replication_set_as_primary(%s)", (uuid,), timeout=30)
            self._check()
            return f"{self._primary} is the primary; {old} is a secondary"

    def _elected_other_than(self, name: str) -> bool:
        seen = self._seen
        return seen is not None and seen.exists and seen.primary not in (None, name)

    def _await(self, holds: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline or self._ending.is_set():
                return False
            self._check_safely()
            if self._seen is not None and not self._seen.exists and not self._seen.founding:
                # Only the start of another member would change that.
                deadline = min(deadline, time.monotonic() + 8)
            time.sleep(0.1)
        return True

    # --- watching

    def _view(self, server: MySQL) -> View | None:
        if not server.running or server.stopped:
            return None
        try:
            rows = server.query(
                "SELECT member_port, member_state, member_role"
                " FROM performance_schema.replication_group_members",
                timeout=_QUERY_SECONDS,
            )
        except pymysql.MySQLError:
            return None
        members = {self._names[port]: str(state) for port, state, _ in rows if port in self._names}
        primaries = [self._names.get(port) for port, _, role in rows if role == "PRIMARY"]
        return View(
            members.get(server.name, "OFFLINE"), members, primaries[0] if primaries else None
        )

    def _check(self) -> None:
        with ThreadPoolExecutor(len(self.servers)) as askers:
            views = dict(
                zip(self.servers, askers.map(self._view, self.servers.values()), strict=True)
            )
        seen = situation_of(views)
        self._report_changes(seen)
        if seen.primary is not None:
            self._primary = seen.primary
        self._seen = seen
        if seen.founding:
            self._found(list(self.servers))
        else:
            with ThreadPoolExecutor(len(self.servers)) as joiners:
                list(joiners.map(self._join, seen.joining))

    def _report_changes(self, seen: Situation) -> None:
        """Say what has changed since the last check."""
        running = {name for name, server in self.servers.items() if server.running}
        for name in sorted(self._running - running - self._unwanted):
            self._say(f"{name} is dead; it stays so: tapedeck stack start {name} brings it back")
        self._running = running
        before = self._seen
        if before is None:
            return
        if before.exists and not seen.exists and not seen.founding:
            self._say("the group has no majority: it answers no change until members are started")
        if seen.primary not in (None, self._primary):
            self._say(f"{seen.primary} is the primary now: MySQL elected it")
        if before.online != seen.online and seen.exists:
            came = ", ".join(sorted(seen.online - before.online))
            left = ", ".join(sorted(before.online - seen.online))
            words = [f"{came} joined"] * bool(came) + [f"{left} left"] * bool(left)
            self._say(f"the group: {' and '.join(words)}; {self._count(seen)}")

    def _count(self, seen: Situation | None = None) -> str:
        seen = seen or self._seen
        online = len(seen.online) if seen is not None else 0
        return f"{online} of {len(self.servers)} members are online"

    def _join(self, name: str) -> None:
        """Tell a member that was started to join."""
        if time.monotonic() - self._tried.get(name, 0.0) < RETRY_SECONDS:
            return
        self._tried[name] = time.monotonic()
        with contextlib.suppress(pymysql.MySQLError):
            self._start_replication(self.servers[name])

    def _start_replication(self, server: MySQL) -> None:
        server.query(
            "START GROUP_REPLICATION USER = 'replication', PASSWORD = %s",
            (self._passwords.replication,),
            timeout=_JOIN,
        )

    def _found(self, names: list[str]) -> None:
        """Found the group again, with a member that has every transaction that any of them has.

        Raises:
            ServerFailed: each member lacks a transaction of another.
        """
        members = [self.servers[name] for name in names]
        for server in members:
            view = self._view(server)
            if view is None or view.state != "OFFLINE":
                # A member without a majority does not leave the group when told to, so it is
                # killed. Changes that it has not committed were not acknowledged.
                server.kill()
                server.start("member")
        has = {server: _transactions(server) for server in members}
        for server in members:
            with server.connect() as connection, connection.cursor() as cursor:
                if not any(server.missing(cursor, other, has[server]) for other in has.values()):
                    break
        else:
            raise ServerFailed(f"each of {', '.join(names)} has changes that another one lacks")
        self._say(f"{server.name} founds the group: no other member has more")
        server.query("SET GLOBAL group_replication_bootstrap_group = ON")
        try:
            self._start_replication(server)
        finally:
            server.query("SET GLOBAL group_replication_bootstrap_group = OFF")


def _transactions(server: MySQL) -> str:
    """All that a member has: what it applied, and what it received from the group until then."""
    ((applied, received),) = server.query(
        "SELECT @@gtid_executed, (SELECT received_transaction_set"
        " FROM performance_schema.replication_connection_status"
        " WHERE channel_name = 'group_replication_applier')"
    )
    return ",".join(filter(None, (applied, received)))
