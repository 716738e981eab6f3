"""A host of a MariaDB pair with deploy/mysql/pair.cnf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stack import datadir
from stack.mariadb import MariaDB

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
AS_STANDBY = ("--init-rpl-role=SLAVE", "--rpl-semi-sync-slave-enabled=1")


class Host(MariaDB):
    """A server with the unchanged deploy/mysql/pair.cnf, and options that make it small."""

    def start_as(self, *options: str) -> None:
        """Start it with more options and wait until it answers."""
        self.spawn(
            [
                datadir.executable(),
                f"--defaults-file={DEPLOY}/mysql/pair.cnf",
                *datadir.as_user(),
                *datadir.SMALL_AND_SAFE,
                f"--datadir={self.folder}",
                f"--port={self.port}",
                f"--server-id={self.port}",
                "--bind-address=127.0.0.1",
                "--socket=",
                f"--pid-file={self.folder}/mariadbd.pid",
                *options,
            ]
        )
        self.await_ready(self._answers, 60)

    def value(self, sql: str) -> Any:
        """The value of a query whose result is one value."""
        ((value,),) = self.query(sql)
        return value
