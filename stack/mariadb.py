"""A real MariaDB server as a child process: by itself, or as a server of a pair."""

from __future__ import annotations

from pathlib import Path

from pymysql.cursors import Cursor

from stack import datadir
from stack.datadir import Passwords
from stack.server import Role, Server

_SAFE = ("--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1")
# Without fsync a killed process loses nothing; only a machine that fails does.
_FAST = ("--innodb-flush-log-at-trx-commit=2", "--skip-log-bin", "--innodb-flush-method=nosync")
# With the default wait point other clients see a change before the standby has it. With a short
# timeout, or with wait_no_slave=0, the primary stops waiting for the standby, and does not say so.
_PAIR = (
    *_SAFE,
    "--log-bin=binlog",
    "--relay-log=relay",
    "--log-slave-updates",
    "--binlog-format=ROW",
    "--max-binlog-size=64M",
    "--expire-logs-days=3",
    "--gtid-strict-mode=1",
    "--relay-log-recovery=1",
    # Each event's fsync would make a standby too slow to catch up with a primary under load. A
    # killed process loses nothing without it, and both hosts share this machine's disk.
    "--sync-relay-log=0",
    "--skip-slave-start",
    "--slave-net-timeout=5",
    "--slave-parallel-threads=4",  # commits in groups, as the primary does
    "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
    "--rpl-semi-sync-master-timeout=1000000000",
    "--rpl-semi-sync-master-wait-no-slave=1",
    "--rpl-semi-sync-slave-kill-conn-timeout=1",
    # Each server starts read-only, so that it takes no change before its role is decided.
    "--read-only=1",
)
# The server recovers as a standby: it drops what it wrote as a primary and did not acknowledge.
_STANDBY = ("--init-rpl-role=SLAVE", "--rpl-semi-sync-slave-enabled=1")


class MariaDB(Server):
    """One server on 127.0.0.1."""

    product = "MariaDB"
    source, replica = "master", "slave"
    committed_sql = "@@gtid_binlog_pos"
    applied_sql = "@@gtid_slave_pos"
    wait_sql = "MASTER_GTID_WAIT"
    received_column = "Gtid_IO_Pos"

    @staticmethod
    def make_data(folder: Path, passwords: Passwords) -> None:
        """See `datadir.make` (0.5 s)."""
        datadir.make(folder, passwords)

    def _options(self, role: Role) -> list[str]:
        roles = {"alone": _FAST, "primary": _PAIR, "standby": (*_PAIR, *_STANDBY)}
        argv = [datadir.executable(), "--no-defaults", *datadir.as_user()]
        return [*argv, *datadir.SMALL_AND_SAFE, *roles[role]]

    def follow(self, cursor: Cursor, primary: Server) -> None:
        """Follow a primary from this server's own position."""
        # A former primary has to count its own writes as received.
        cursor.execute("SELECT @@gtid_current_pos, @@gtid_slave_pos")
        ((current, received),) = cursor.fetchall()
        if current != received:
            cursor.execute("SET GLOBAL gtid_slave_pos = %s", (current,))
        cursor.execute(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = %s, "
            "MASTER_USER = 'replication', MASTER_PASSWORD = %s, MASTER_USE_GTID = slave_pos, "
            "MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 1",
            (primary.port, self.passwords.replication),
        )

    def missing(self, cursor: Cursor, wanted: str, have: str) -> int:
        """Compares sequence numbers: a pair writes in one domain, whose numbers only grow."""
        return max(0, _number(wanted) - _number(have))

    def begin_anew(self) -> None:
        """Also count as received what is in the binary log, which was copied from the primary."""
        super().begin_anew()
        self.query("SET GLOBAL gtid_slave_pos = @@gtid_binlog_pos")


def _number(position: str) -> int:
    """The sequence number of a position `domain-server-number`."""
    return int(position.rpartition("-")[2] or 0)
