"""MySQL servers with the configuration files of deploy/mysql."""

from __future__ import annotations

from pathlib import Path

from stack import datadir, engines, mysql
from stack.mysql import MySQL
from tests.support.pair import DEPLOY

# Options that make them small enough for a test machine.
_SMALL = (
    "--innodb-buffer-pool-size=64M",
    "--innodb-redo-log-capacity=32M",
    "--performance-schema=0",
    "--mysqlx=0",
    "--secure-file-priv=NULL",
    "--max-connections=200",
)


def client() -> str:
    """MySQL's client program; MariaDB's if MySQL's is not installed."""
    return str(engines.find(engines.chosen("mysql") or "mysql-9", "mysql") or "mysql")


class MySQLHost(MySQL):
    """A server with an unchanged file of deploy/mysql, and options that make it small."""

    def start_as(self, config: str, *options: str) -> None:
        """Start it with more options and wait until it answers."""
        self.spawn(
            [
                mysql.executable(),
                f"--defaults-file={DEPLOY}/mysql/{config}",
                *datadir.as_user(),
                *_SMALL,
                f"--datadir={self.folder}",
                f"--port={self.port}",
                f"--server-id={self.port}",
                "--bind-address=127.0.0.1",
                "--socket=",
                f"--pid-file={self.folder}/server.pid",
                *options,
            ]
        )
        self.await_ready(self._answers, 60)

    def empty(self) -> None:
        """Drop our database and our users, without a transaction in the binary log: the server is
        then like a fresh one."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_log_bin = 0")
            cursor.execute("DROP DATABASE tapedeck")
            cursor.execute("DROP USER tapedeck@'127.0.0.1', replication@'127.0.0.1'")

    def value(self, sql: str) -> object:
        """The value of a query whose result is one value."""
        ((value,),) = self.query(sql)
        return value


def group_options(host: MySQLHost, hosts: list[MySQLHost]) -> list[str]:
    """The options that differ between the members of a group; mysql-group.cnf names them."""
    return [
        "--report-host=127.0.0.1",
        f"--loose-group-replication-local-address={host.address}",
        f"--loose-group-replication-group-seeds={','.join(h.address for h in hosts)}",
    ]


def initialize_command(folder: Path, config: str) -> list[str]:
    """The command that makes a data directory with a file of deploy/mysql."""
    argv = [mysql.executable(), f"--defaults-file={DEPLOY}/mysql/{config}", *datadir.as_user()]
    return [*argv, "--initialize-insecure", *_SMALL, f"--datadir={folder}"]
