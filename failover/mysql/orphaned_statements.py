"""Connections that the gateway has closed, but whose statements the server still runs.

If a connection is closed in the middle of a statement, MySQL still runs the statement to its end,
and a commit that waits for a lost standby waits until one is back. If each of them freed its place
for a new connection, they would take all connections of the server, the standby's too.
"""

from __future__ import annotations

from failover.mysql.connection import Session
from failover.mysql.errors import MySQLError

_ID, _COMMAND = 0, 4
"""Columns of SHOW PROCESSLIST."""
_SPELT = 0xFFFFFFFF
"""The bits of a connection's id that a MySQL greeting contains."""


class LeftBehind:
    """The connections to one server that were closed before their statement was answered."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._statements: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._statements)

    def add(self, session: Session) -> None:
        """Count a closed session, if the server may still run its statement."""
        if session.unanswered:
            self._statements[session.number] = session.unanswered

    async def ask(self, session: Session) -> None:
        """Ask the server which statements still run, forget the others, and kill those that read.

        A change is never killed: killing a commit that waits for a standby makes it take effect
        without the standby, and the next reader would take it for safe.

        Raises:
            MySQLError: the connection is lost.
        """
        asked = dict(self._statements)
        if not asked:
            return
        rows = await session.processlist()  # where it is refused, no statement counts as running
        # A sleeping connection has run its statement, and will be closed.
        running = {row[_ID] & _SPELT: row[_ID] for row in rows if row[_COMMAND] != "Sleep"}
        for number, statement in asked.items():
            if number not in running:
                self._statements.pop(number, None)
            elif statement.startswith("SELECT"):
                try:
                    await session.execute(f"KILL {running[number]}")
                except MySQLError:
                    if session.broken:
                        raise
                    # It has ended by itself.
