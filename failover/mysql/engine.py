"""What differs between MySQL and MariaDB, a class for each; other modules use only shared SQL.

Shared SQL is what MySQL 8.4 and 9.x and MariaDB 10.11 and later all have. The server's version
tells a connection which of the two it has (`Engine.of`). The session variables of both are
in one table (`failover.mysql.session_variables`), and so are the error numbers
(`failover.mysql.errors`), since no number has two meanings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from failover.mysql import session_variables
from failover.mysql.errors import MySQLError

if TYPE_CHECKING:
    from failover.mysql.connection import Session

_TABLE_ACCESS_DENIED = 1142


@dataclass(frozen=True, slots=True)
class Redundancy:
    """Whether another host has every change that this one acknowledges.

    Attributes:
        held: whether another host has them; None if that is not known.
        reason: why `held` is as it is, as a sentence.
        powerless: whether the host is a member of a group and reaches no majority of it: then it
            commits nothing, although it is writable.
    """

    held: bool | None
    reason: str
    powerless: bool = False


@dataclass(frozen=True, slots=True)
class Engine:
    """One of the two products, in one version.

    Attributes:
        version: in the server's words, such as "10.11.6-MariaDB".
    """

    version: str

    product: ClassVar[session_variables.Product]
    oldest: ClassVar[tuple[int, int]]
    """The oldest version that this program is tested with."""
    shortest_wait: ClassVar[int]
    """Seconds: the smallest value of `lock_wait_timeout` and `innodb_lock_wait_timeout`. With 0 a
    statement fails at once where it would wait for a lock."""
    waiting_side: ClassVar[tuple[str, ...]]
    """The names, in status variables, of the waiting side of semi-synchronous replication."""

    @staticmethod
    def of(version: str, comment: str) -> Engine:
        """The engine of a server, by its VERSION() and @@version_comment. (An operator can make a
        MariaDB's version look like MySQL's, but cannot change the comment.)"""
        mariadb = "mariadb" in f"{version} {comment}".lower()
        return MariaDB(version) if mariadb else MySQL(version)

    def __str__(self) -> str:
        """The product and its version, such as "MySQL 9.7.4"."""
        numbers = re.match(r"[0-9.]*", self.version)
        return f"{self.product} {numbers[0] if numbers else ''}".rstrip()

    @property
    def untested(self) -> str:
        """A sentence if the version is older than the tested ones; empty otherwise."""
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        if numbers is None or (int(numbers[1]), int(numbers[2])) >= self.oldest:
            return ""
        return f"{self} is older than {'.'.join(map(str, self.oldest))}, the oldest one tested"

    async def run_ddl(self, connection: Session, statement: str, wait: int | None = None) -> None:
        """Run a statement that takes a table's metadata lock, with the engine's shortest wait.

        Every later query on the table waits behind a statement that waits for this lock.

        Args:
            wait: seconds to wait instead.

        Raises:
            MySQLError: OVERTAKEN while a transaction uses the table.
        """
        seconds = self.shortest_wait if wait is None else wait
        await connection.execute(f"SET SESSION lock_wait_timeout = {seconds}")
        try:
            await connection.execute(statement)
        finally:
            if not connection.broken:
                usual = session_variables.METADATA_LOCK_SECONDS
                await connection.execute(f"SET SESSION lock_wait_timeout = {usual}")

    async def redundancy(self, connection: Session, hosts: int) -> Redundancy | None:
        """Whether another host has what the server acknowledges.

        Args:
            connection: to a writable server.
            hosts: how many are configured. One host may have others behind it that MySQL does not
                show (a managed service).

        Returns:
            None if it is neither known nor expected.

        Raises:
            MySQLError: a passing error, such as a lost connection.
        """
        try:
            return await self._redundancy(connection, hosts)
        except MySQLError as error:
            if error.passing:
                raise
            return Redundancy(None, f"the server does not say: {error}")

    async def _redundancy(self, connection: Session, hosts: int) -> Redundancy | None:
        if hosts < 2:
            return None
        rows = await connection.fetch("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%'")
        return semi_sync(rows, self.waiting_side)


@dataclass(frozen=True, slots=True)
class MariaDB(Engine):
    product = "MariaDB"
    oldest = (10, 11)
    shortest_wait = 0
    waiting_side = ("master",)


@dataclass(frozen=True, slots=True)
class MySQL(Engine):
    product = "MySQL"
    oldest = (8, 4)
    shortest_wait = 1
    waiting_side = ("source", "master")  # 8.4 has a plugin for each; an operator chooses one

    async def _redundancy(self, connection: Session, hosts: int) -> Redundancy | None:
        try:
            rows = await connection.fetch(
                "SELECT member_state FROM performance_schema.replication_group_members"
            )
            members = [str(state) for (state,) in rows]
        except MySQLError as error:
            if error.code != _TABLE_ACCESS_DENIED:
                raise
            named = await connection.fetch(
                "SHOW GLOBAL VARIABLES LIKE 'group_replication_group_name'"
            )
            if any(name for _, name in named):
                return Redundancy(
                    None,
                    "the gateway's user may not see the members of the group; "
                    "GRANT SELECT ON performance_schema.replication_group_members TO it",
                )
            members = []
        # A server that is in no group lists either no member, or itself as OFFLINE.
        if set(members) - {"OFFLINE"}:
            return group(members, hosts)
        return await Engine._redundancy(self, connection, hosts)


def group(members: Sequence[str], hosts: int) -> Redundancy:
    """Whether a majority has what the primary of a group acknowledges.

    A group acknowledges what a majority of its members has received (MySQL manual, "Group
    Replication Background"). Expelled members are not counted by the group, so the larger of the
    group and the configured hosts counts here. A single member is no majority.

    Args:
        members: `member_state` of each member, on the primary.
        hosts: how many are configured.

    >>> group(["ONLINE", "ONLINE", "UNREACHABLE"], hosts=3).held
    True
    >>> group(["ONLINE"], hosts=3)
    Redundancy(held=False, reason='1 of 3 members of the group is online', powerless=False)
    >>> group(["ONLINE", "UNREACHABLE", "UNREACHABLE"], hosts=3).powerless
    True
    """
    online = members.count("ONLINE")
    all_of_them = max(len(members), hosts)
    verb = "is" if online == 1 else "are"
    reason = f"{online} of {all_of_them} members of the group {verb} online"
    reached = online + members.count("RECOVERING")
    held = online > 1 and online * 2 > all_of_them
    return Redundancy(held, reason, powerless=reached * 2 <= len(members))


def semi_sync(status: Iterable[Sequence[Any]], words: Sequence[str]) -> Redundancy:
    """Whether a semi-synchronous standby is connected, and commits wait for it.

    Args:
        status: rows of SHOW GLOBAL STATUS (MySQL manual, "Semisynchronous Replication Monitoring").
        words: `Engine.waiting_side`.

    >>> rows = [("Rpl_semi_sync_source_status", "ON"), ("Rpl_semi_sync_source_clients", "1")]
    >>> semi_sync(rows, ["source"]).held
    True
    """
    values = {str(name).lower(): str(value) for name, value in status}
    waits = any(values.get(f"rpl_semi_sync_{word}_status") == "ON" for word in words)
    linked = any(values.get(f"rpl_semi_sync_{word}_clients", "0") != "0" for word in words)
    if waits and linked:
        return Redundancy(True, "a semi-synchronous standby acknowledges commits")
    return Redundancy(False, "no standby acknowledges commits")
