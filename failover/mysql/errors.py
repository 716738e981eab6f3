"""What MySQL's errors mean for a request: one table, with MySQL's name for each.

Numbers below 2000 come from the server, 2000 to 2999 from the client library (MySQL 8.0 manual,
"Server Error Message Reference" and "Client Error Message Reference"; MariaDB uses the same).
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from enum import Enum

import pymysql.err


class Fault(Enum):
    """What to do about an error."""

    LOST = "the connection is gone: open another, look for the primary again"
    READ_ONLY = "the host is not the primary (any more): drop its connections, look again"
    BUSY = "the server takes no more connections: wait, then try again"
    OURS = "no connection could be made for a reason of this machine's: it says nothing of the host"
    OVERTAKEN = "another transaction or a midnight came first: roll back and repeat"
    NO_TABLE = "the table does not exist: a partition was dropped, or is not created yet"
    DUPLICATE = "the row is there already: a conflict of two changes"
    FULL = "the server's disk is full: no change commits until there is room"
    FINAL = "repeating it would meet the same error"


FAULTS: dict[int, tuple[Fault, str]] = {
    2002: (Fault.LOST, "CR_CONNECTION_ERROR: no connection through the socket"),
    2003: (Fault.LOST, "CR_CONN_HOST_ERROR: connection refused, host down"),
    2006: (Fault.LOST, "CR_SERVER_GONE_ERROR: server gone away"),
    2013: (Fault.LOST, "CR_SERVER_LOST: lost during a query; the query may have taken effect"),
    2055: (Fault.LOST, "CR_SERVER_LOST_EXTENDED"),
    1053: (Fault.LOST, "ER_SERVER_SHUTDOWN: shutdown in progress"),
    1077: (Fault.LOST, "ER_NORMAL_SHUTDOWN"),
    1079: (Fault.LOST, "ER_SHUTDOWN_COMPLETE"),
    1152: (Fault.LOST, "ER_ABORTING_CONNECTION"),
    1158: (Fault.LOST, "ER_NET_READ_ERROR"),
    1159: (Fault.LOST, "ER_NET_READ_INTERRUPTED: timeout reading"),
    1160: (Fault.LOST, "ER_NET_ERROR_ON_WRITE"),
    1161: (Fault.LOST, "ER_NET_WRITE_INTERRUPTED: timeout writing"),
    1184: (Fault.LOST, "ER_NEW_ABORTING_CONNECTION"),
    1927: (Fault.LOST, "MariaDB ER_CONNECTION_KILLED"),
    1317: (Fault.LOST, "ER_QUERY_INTERRUPTED: killed; what it did is not known"),
    3169: (Fault.LOST, "MySQL ER_SESSION_WAS_KILLED"),
    1180: (Fault.LOST, "ER_ERROR_DURING_COMMIT: whether it was committed is not known"),
    3100: (Fault.LOST, "MySQL ER_RUN_HOOK_ERROR: no majority; the group may have it all the same"),
    3781: (Fault.LOST, "MySQL ER_GR_HOLD_WAIT_TIMEOUT: a new primary still applies a backlog"),
    3782: (Fault.LOST, "MySQL ER_GR_HOLD_KILLED: the same, cut short"),
    3783: (Fault.LOST, "MySQL ER_GR_HOLD_MEMBER_STATUS_ERROR: the member is in no good state"),
    3797: (Fault.LOST, "MySQL ER_GRP_TRX_CONSISTENCY_BEFORE: waiting for a backlog failed"),
    4031: (Fault.LOST, "MySQL ER_CLIENT_INTERACTION_TIMEOUT: idle for too long"),
    3032: (Fault.LOST, "MySQL ER_SERVER_OFFLINE_MODE"),
    6400: (Fault.LOST, "MySQL ER_SERVER_OFFLINE_MODE_REASON: the same, with a reason"),
    1290: (Fault.READ_ONLY, "ER_OPTION_PREVENTS_STATEMENT: --read-only"),
    1792: (Fault.READ_ONLY, "ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION"),
    1836: (Fault.READ_ONLY, "ER_READ_ONLY_MODE: innodb_read_only, as on an Aurora reader"),
    1874: (Fault.READ_ONLY, "ER_INNODB_READ_ONLY: likewise, for DDL"),
    1040: (Fault.BUSY, "ER_CON_COUNT_ERROR: too many connections"),
    1203: (Fault.BUSY, "ER_TOO_MANY_USER_CONNECTIONS"),
    1226: (Fault.BUSY, "ER_USER_LIMIT_REACHED: max_user_connections"),
    1129: (Fault.BUSY, "ER_HOST_IS_BLOCKED: too many handshakes from here were broken off"),
    1205: (
        Fault.OVERTAKEN,
        "ER_LOCK_WAIT_TIMEOUT: undoes the statement; roll back the rest",
    ),
    3101: (
        Fault.OVERTAKEN,
        "MySQL ER_TRANSACTION_ROLLBACK_DURING_COMMIT: another came first",
    ),
    1213: (Fault.OVERTAKEN, "ER_LOCK_DEADLOCK: the transaction was rolled back"),
    1020: (Fault.OVERTAKEN, "ER_CHECKREAD: the record changed since it was read"),
    1021: (Fault.FULL, "ER_DISK_FULL"),
    1114: (Fault.FULL, "ER_RECORD_FILE_FULL: a table cannot grow"),
    1146: (Fault.NO_TABLE, "ER_NO_SUCH_TABLE"),
    1062: (Fault.DUPLICATE, "ER_DUP_ENTRY"),
}
"""Every other number is FINAL."""
DENIED = (1044, 1045, 1698)
"""ER_DBACCESS_DENIED_ERROR, ER_ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD_ERROR: the user,
its password or its rights."""
_NO_SPACE = re.compile(
    r"\b(errno: |Errcode: |error )(28|135)\b|No space left on device|disk is full"
)
"""A full disk in the text of other errors: 1026 ER_ERROR_ON_WRITE, 1030 ER_GET_ERRNO, MySQL's 3675,
1005 ER_CANT_CREATE_TABLE (135 is HA_ERR_RECORD_FILE_FULL)."""
_OURS = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN),
        errno.EADDRNOTAVAIL,  # no local port is free
    }
)


class PrimaryUnavailable(Exception):
    """No primary could be used before the deadline, or too many requests wait for one. Another try
    makes sense after a second."""


class MySQLError(Exception):
    """A statement failed.

    Attributes:
        code: MySQL's number; 0 if the driver gave none.
        reason: the server's text.
    """

    def __init__(self, fault: Fault, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}" if code else reason)
        self.fault = fault
        self.code = code
        self.reason = reason

    @property
    def by_server(self) -> bool:
        """Whether the server sent the error; False for an error of the connection."""
        return bool(self.code) and not 2000 <= self.code < 3000

    @property
    def passing(self) -> bool:
        """Whether the same statement may succeed later, here or on another host."""
        passing = (Fault.LOST, Fault.READ_ONLY, Fault.BUSY, Fault.OURS, Fault.OVERTAKEN)
        return self.fault in passing


def is_ours(error: BaseException) -> bool:
    """Whether a connect failed on this machine: no descriptor, no memory, no port, no address for
    the name. Such an error says nothing about the host."""
    if isinstance(error, socket.gaierror):
        return True
    return isinstance(error, OSError) and error.errno in _OURS


def classify(error: BaseException) -> MySQLError | None:
    """The MySQLError for a driver's exception; None if it has nothing to do with MySQL.

    An error of the protocol ("Packet sequence number wrong", a broken read) counts as LOST: the
    connection cannot be used any more.
    """
    if isinstance(error, MySQLError):
        return error
    if isinstance(error, (asyncio.TimeoutError, OSError, asyncio.IncompleteReadError)):
        return MySQLError(Fault.LOST, 0, str(error) or "no answer in time")
    if isinstance(error, pymysql.err.InterfaceError):
        return MySQLError(Fault.LOST, 0, str(error))
    if not isinstance(error, pymysql.err.MySQLError):
        return None
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    reason = str(error.args[1]) if len(error.args) > 1 else str(error)
    if code in FAULTS:
        return MySQLError(FAULTS[code][0], code, reason)
    if _NO_SPACE.search(reason):
        return MySQLError(Fault.FULL, code, reason)
    if isinstance(error, pymysql.err.InternalError) and code == 0:
        return MySQLError(Fault.LOST, 0, reason)
    return MySQLError(Fault.FINAL, code, reason)
