"""A real MySQL server (8.4 or 9.x) as a child process: by itself, as a server of a pair, or as a
member of a group.

`mysqld` is looked for in TAPEDECK_MYSQLD, in `.tapedeck/engines` (`stack/engines.py`), and on the
PATH; MariaDB has a link of that name, which is not used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from pymysql.cursors import Cursor

from stack import engines
from stack.datadir import Passwords, as_user, users_sql
from stack.process import ServerFailed
from stack.server import Diverged, Role, Server

_SMALL = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-redo-log-capacity=32M",
    "--innodb-log-buffer-size=2M",
    "--key-buffer-size=1M",
    "--table-definition-cache=400",
    "--table-open-cache=400",
    "--performance-schema=0",  # its tables about replication exist nevertheless
    "--mysqlx=0",  # saves a port
    "--secure-file-priv=NULL",
)
# Without fsync a killed process loses nothing; only a machine that fails does.
_FAST = ("--innodb-flush-log-at-trx-commit=2", "--skip-log-bin", "--innodb-flush-method=nosync")
_REPLICATED = (
    "--innodb-flush-log-at-trx-commit=1",
    "--sync-binlog=1",
    "--log-bin=binlog",
    "--relay-log=relay",
    "--max-binlog-size=64M",
    "--binlog-expire-logs-seconds=259200",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--relay-log-recovery=1",
    # As in `mariadb`: both servers share this machine's disk.
    "--sync-relay-log=0",
)
_PAIR = (
    *_REPLICATED,
    "--plugin-load-add=semisync_source.so",
    "--plugin-load-add=semisync_replica.so",
    "--skip-replica-start",
    "--replica-net-timeout=5",
    # With a short timeout, or with wait_no_replica=0, the primary stops waiting for the standby,
    # and does not say so.
    "--rpl-semi-sync-source-wait-point=AFTER_SYNC",
    "--rpl-semi-sync-source-timeout=1000000000",
    "--rpl-semi-sync-source-wait-no-replica=1",
    # Each server starts read-only, so that it takes no change before its role is decided.
    "--read-only=1",
)
_GROUP = (
    *_REPLICATED,
    "--report-host=127.0.0.1",
    "--plugin-load-add=group_replication.so",
    "--plugin-load-add=mysql_clone.so",  # a member without data gets all of it from another one
    "--group-replication-group-name=7a9ede0c-7a9e-4dec-8a9e-7a9ede0c0001",
    "--group-replication-start-on-boot=OFF",
    "--super-read-only=1",  # MySQL itself makes the primary writable
    # The members talk through MySQL's own port.
    "--group-replication-communication-stack=MYSQL",
    "--group-replication-recovery-get-public-key=ON",
    "--group-replication-consistency=BEFORE_ON_PRIMARY_FAILOVER",
    # A member that does not answer for five seconds is expelled at once, as with mysql-group.cnf.
    "--group-replication-member-expel-timeout=0",
)
_ROLES = {
    "alone": _FAST,
    "primary": _PAIR,
    "standby": (*_PAIR, "--rpl-semi-sync-replica-enabled=1"),
    "member": _GROUP,
}
_REPLICATION_RIGHTS = "REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM"
_MORE_SQL = """\
GRANT SELECT ON performance_schema.replication_group_members TO tapedeck@'127.0.0.1';
DROP USER root@localhost;
"""
HOW_TO_GET_IT = (
    "no MySQL server (8.4 or 9.x) is installed: `python3 stack/engines.py install mysql-9` puts "
    "one below .tapedeck/engines, and changes nothing else; or name one in TAPEDECK_MYSQLD"
)


@cache
def find() -> str | None:
    """The path of mysqld; None if no MySQL is installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/libexec"
    candidates = (
        os.environ.get("TAPEDECK_MYSQLD"),
        engines.find(engines.chosen("mysql") or "mysql-9"),
        shutil.which("mysqld", path=path),
    )
    return next((str(path) for path in candidates if path and _is_mysql(path)), None)


def _is_mysql(program: str | Path) -> bool:
    argv = [program, "--no-defaults", "--version"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return False
    return said.returncode == 0 and "MariaDB" not in said.stdout


def executable() -> str:
    """The path of mysqld.

    Raises:
        ServerFailed: it is not installed; the text says how to get it.
    """
    found = find()
    if found is None:
        raise ServerFailed(HOW_TO_GET_IT)
    return found


class MySQL(Server):
    """One server on 127.0.0.1."""

    product = "MySQL"
    source, replica = "source", "replica"
    committed_sql = applied_sql = "@@gtid_executed"
    wait_sql = "WAIT_FOR_EXECUTED_GTID_SET"
    received_column = "Retrieved_Gtid_Set"

    @staticmethod
    def make_data(folder: Path, passwords: Passwords) -> None:
        """Make a data directory (3 s, 125 MB); see `Server.make_data`."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        argv = [executable(), "--no-defaults", "--initialize-insecure", *as_user()]
        with tempfile.TemporaryDirectory() as temporary:
            users = Path(temporary) / "users.sql"
            sql = users_sql(passwords, _REPLICATION_RIGHTS) + _MORE_SQL
            users.write_text(sql)
            argv += [*_SMALL, *_FAST, f"--datadir={folder}", f"--init-file={users}"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            end = "\n".join(done.stderr.splitlines()[-15:])
            raise ServerFailed(f"mysqld could not make the data directory {folder}:\n{end}")
        # It has the server's UUID; each copy of the data must get one of its own.
        (folder / "auto.cnf").unlink()

    def _options(self, role: Role) -> list[str]:
        return [executable(), "--no-defaults", *as_user(), *_SMALL, *_ROLES[role]]

    def follow(self, cursor: Cursor, primary: Server) -> None:
        """Follow a primary from this server's own position.

        Raises:
            Diverged: this server has transactions that the primary lacks, such as those that it
                wrote as a primary and did not acknowledge. MySQL itself would not notice.
        """
        cursor.execute("SELECT @@gtid_executed")
        ((own,),) = cursor.fetchall()
        with primary.connect() as connection, connection.cursor() as other:
            surplus = self.missing(other, own, "")
        if surplus:
            raise Diverged(
                f"{self.name} has {surplus} transactions that {primary.name}, the primary, lacks"
            )
        cursor.execute(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = %s, "
            "SOURCE_USER = 'replication', SOURCE_PASSWORD = %s, SOURCE_AUTO_POSITION = 1, "
            "SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 0, SOURCE_HEARTBEAT_PERIOD = 1, "
            "GET_SOURCE_PUBLIC_KEY = 1",
            (primary.port, self.passwords.replication),
        )

    def missing(self, cursor: Cursor, wanted: str, have: str) -> int:
        """How many of `wanted` are neither in `have` nor applied on the cursor's server."""
        cursor.execute(
            "SELECT GTID_SUBTRACT(%s, CONCAT_WS(',', NULLIF(%s, ''), @@gtid_executed))",
            (wanted, have),
        )
        ((lacking,),) = cursor.fetchall()
        # "uuid:1-5:7,\nuuid:3": a number, or a range of numbers, follows each colon.
        ranges = re.findall(r":(\d+)(?:-(\d+))?", str(lacking))
        return sum(int(last or first) - int(first) + 1 for first, last in ranges)
