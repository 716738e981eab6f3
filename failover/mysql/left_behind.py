"""What a server still holds for us after we have given it up.

A connection that is closed in the middle of a statement ends for us. MySQL runs the statement to
its end first, and a commit that waits for a lost standby waits until one is back. If each made room
for the next one, they would take every connection that the server has, the standby's too.
"""

from __future__ import annotations

from failover.mysql.connection import Session
from failover.mysql.errors import MySQLError

_ID, _COMMAND = 0, 4
"""Columns of SHOW PROCESSLIST, which shows a user his own connections without any privilege."""
_SPELT = 0xFFFFFFFF
"""The bits of a connection's number that a greeting has room for."""


class LeftBehind:
    """The connections to one server that were closed before their statement was answered.

    Args:
        identity: which server (`Hello.identity`).
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._statements: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._statements)

    def add(self, session: Session) -> None:
        """Count a session that is closed, if the server may not have noticed yet."""
        if session.unanswered:
            self._statements[session.number] = session.unanswered

    async def ask(self, session: Session) -> None:
        """Ask the server what it still runs, forget the rest, and end what only reads.

        A change is never ended: a commit that waits for a standby would then take effect though no
        standby has it, and its next reader would believe that it is safe.

        Raises:
            MySQLError: the connection is gone.
        """
        asked = dict(self._statements)
        if not asked:
            return
        try:
            rows = await session.fetch("SHOW PROCESSLIST")
        except MySQLError:
            if session.broken:
                raise
            rows = []  # a server that does not say (a proxy) is not waited for
        # One that sleeps has run its statement; its end is on the way, or takes `wait_timeout`.
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
