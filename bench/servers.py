"""The servers of a run, the same for every peer: Redis, twemproxy, MariaDB or MySQL.

The database server flushes its log to the disk at each commit, and has no binary log and no
standby. A semi-synchronous pair would make each commit slower, and so favour the gateway, which
shares commits, over the peers, which do not.
"""

from __future__ import annotations

import contextlib
import copy
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from bench import catalog
from failover.mysql.engine import Engine
from gateway.catalog.tables import TABLES
from stack.catalog import write_mixes
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.mysql import MySQL
from stack.process import Child, free_port
from stack.redis import RedisServer
from stack.server import Server

GATEWAY = "tapedeck"
"""The gateway's database."""
PLAIN = "tapedeck_plain"
"""The database of the plain peers, with one table a day."""
TABLE = "tapedeck_table"
"""The database of the design with one big table."""

BUFFER_POOL = 1 << 30
CHUNK = 8 << 20
"""The buffer pool is resized in steps of so many bytes."""
_BOTH = (
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-flush-method=O_DIRECT",
    f"--innodb-buffer-pool-size={BUFFER_POOL}",
    f"--innodb-buffer-pool-chunk-size={CHUNK}",
    "--innodb-log-buffer-size=16M",
    "--innodb-stats-persistent=0",
)
_OPTIONS: dict[type[Server], tuple[str, ...]] = {
    MariaDB: (*_BOTH, "--innodb-log-file-size=512M"),
    MySQL: (
        *_BOTH,
        "--innodb-redo-log-capacity=512M",
        # Its own defaults; the local stack's are smaller.
        "--table-open-cache=4000",
        "--table-definition-cache=2000",
        "--cte-max-recursion-depth=4294967295",  # see `Servers.numbers`
    ),
}
RETRY_MS, FAILURES, TIMEOUT_MS = 30_000, 2, 400
"""When a lookup node is ejected and probed: defaults of the gateway, used for twemproxy too."""


class Nutcracker(Child):
    """twemproxy in front of the lookup nodes."""

    def __init__(self, folder: Path, nodes: Sequence[RedisServer]) -> None:
        super().__init__("twemproxy", folder / "nutcracker.log")
        self.port = free_port()
        self._file = folder / "nutcracker.yml"
        pool = {
            "listen": f"127.0.0.1:{self.port}",
            "redis": True,
            "hash": "fnv1a_64",
            "distribution": "ketama",
            "auto_eject_hosts": True,
            "server_failure_limit": FAILURES,
            "server_retry_timeout": RETRY_MS,
            "timeout": TIMEOUT_MS,
            "preconnect": True,
            "servers": [node.server for node in nodes],
        }
        self._file.write_text(yaml.safe_dump({"lookups": pool}, width=1000))

    def start(self) -> None:
        """Start it and wait until it listens."""
        argv = ["nutcracker", "-c", str(self._file), "-s", str(free_port()), "-m", "16384"]
        # Debian's own would be in /var/log, where only root may write.
        self.spawn([*argv, "-o", str(self._file.with_suffix(".said"))])
        self.await_ready(self._listens, 20)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


class Servers:
    """All servers of a run, in a folder of their own. Use as a context.

    Args:
        folder: is made, and removed at the end.
        engine: of the database server.
        data: of the database server, kept for later runs; by default it is in `folder`.
        passwords: those that the data has, or will be made with.

    Attributes:
        past: the database where the plain Go peer reads the days before today; empty: its own.
        lookups: the ring's nodes.
        alone: the Redis that holds the states itself, in the design without MySQL.
    """

    def __init__(
        self,
        folder: Path,
        engine: type[Server] = MariaDB,
        *,
        data: Path | None = None,
        passwords: Passwords | None = None,
    ) -> None:
        self.folder = folder
        self.passwords = passwords or Passwords()
        self.past = ""
        self._kept = data is not None
        self.token_key = secrets.token_hex(32)
        self.service_key = secrets.token_hex(16)
        self.catalog = folder / "catalog.json"
        quiet = ("--save", "")
        self.lookups = [
            RedisServer(f"lookup{n}", folder / f"lookup{n}", options=quiet) for n in (1, 2, 3)
        ]
        lru = (*quiet, "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
        self.alone = RedisServer("redis_alone", folder / "redis_alone", options=lru)
        self.mysql: Server = engine(
            "mysql",
            data or folder / "mysql",
            self.passwords,
            log=folder / "mysql.log",
            options=_OPTIONS[engine],
        )
        self.nutcracker: Nutcracker | None = None

    def __enter__(self) -> Servers:
        try:
            self.folder.mkdir(parents=True)
            with ThreadPoolExecutor(5) as starters:
                work = [starters.submit(node.start) for node in (*self.lookups, self.alone)]
                work.append(starters.submit(self._start_mysql))
                for one in work:
                    one.result()
            self.nutcracker = Nutcracker(self.folder, self.lookups)
            self.nutcracker.start()
            catalog.write(self.catalog)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept:
            self.mysql.stop(120)
        for server in (self.nutcracker, *self.lookups, self.alone, self.mysql):
            if server is not None:
                server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_mysql(self) -> None:
        if self.mysql.folder.exists():
            self.mysql.start()
            return
        self.mysql.make_data(self.mysql.folder, self.passwords)
        self.mysql.start()
        self.make_databases()

    def make_databases(self) -> None:
        """Make the databases of all designs; the gateway's has the catalog."""
        for name in (PLAIN, TABLE):
            self.mysql.create_database(name)
        self.prepare(GATEWAY)

    def on(self, server: Server, name: str) -> Servers:
        """The same lookup nodes with another database server, which runs and is empty.

        Args:
            name: of a folder for what its peers write.
        """
        other = copy.copy(self)
        other.folder = self.folder / name
        other.folder.mkdir(exist_ok=True)
        other.mysql = server
        other.make_databases()
        return other

    def another_mysql(self, engine: type[Server], name: str) -> Server:
        """A database server of another engine, with the same options. It is not started."""
        folder = self.folder / f"{name}-data"
        engine.make_data(folder, self.passwords)
        return engine(name, folder, self.passwords, options=_OPTIONS[engine])

    def prepare(self, database: str) -> None:
        """Write the catalog into a database of the gateway's."""
        with self.connect(database) as cursor:
            for statement in TABLES:
                cursor.execute(statement)
            write_mixes(cursor, catalog.mixes())
            cursor.execute("COMMIT")

    @property
    def engine(self) -> str:
        """The database server's product and version, such as "MySQL 9.7.4"."""
        ((version, comment),) = self.mysql.query("SELECT VERSION(), @@version_comment")
        return str(Engine.of(str(version), str(comment)))

    @property
    def filters(self) -> Path:
        """The folder where gateways put the file of their filters."""
        return self.folder / "filters"

    def numbers(self, start: int, stop: int) -> str:
        """SQL for a table `numbers` with a column `seq`: the numbers from start on, before stop."""
        if isinstance(self.mysql, MariaDB):
            return f"seq_{start}_to_{stop - 1} AS numbers"  # its manual, "Sequence Storage Engine"
        return (
            f"(WITH RECURSIVE counted(seq) AS (SELECT {start} UNION ALL SELECT seq+1 FROM counted"
            f" WHERE seq<{stop - 1}) SELECT seq FROM counted) AS numbers"
        )

    @contextlib.contextmanager
    def connect(self, database: str, timeout: float = 600) -> Iterator[Any]:
        """A cursor of the administrator's, autocommit."""
        with (
            self.mysql.connect(database, timeout=timeout) as connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    def set_buffer_pool(self, size: int) -> None:
        """Resize InnoDB's buffer pool (bytes, in steps of CHUNK), and wait until that is done.

        Late versions of MariaDB 10.11 resize before they answer, earlier ones afterwards.
        """
        self.mysql.query(f"SET GLOBAL innodb_buffer_pool_size = {size}", timeout=120)
        self.mysql.await_ready(lambda: self._buffer_pool_is(size), 120)

    def _buffer_pool_is(self, size: int) -> bool:
        status = self.mysql.query("SHOW STATUS LIKE 'Innodb_buffer_pool_resize_status'")
        under_way = bool(status) and str(status[0][1]).startswith(("Resizing", "Withdrawing"))
        now = self.mysql.query("SELECT @@innodb_buffer_pool_size")[0][0]
        return bool(now == size and not under_way)

    def gateway(self, database: str = GATEWAY, **sections: dict[str, Any]) -> dict[str, Any]:
        """A configuration of the gateway on these servers, with values laid over the defaults."""
        document: dict[str, Any] = {
            "gateway": {"port": free_port()},
            "admin": {"port": free_port()},
            "auth": {"token_keys": [self.token_key], "service_keys": [self.service_key]},
            "lookup": {
                "servers": [node.server for node in self.lookups],
                "server_retry_timeout": RETRY_MS,
                "server_failure_limit": FAILURES,
                "timeout": TIMEOUT_MS,
            },
            "mysql": {
                "hosts": [self.mysql.address],
                "user": "tapedeck",
                "password": self.passwords.gateway,
                "database": database,
            },
            "partitions": {"filter_folder": str(self.filters)},
        }
        public_key = self.mysql.folder / "public_key.pem"  # of a MySQL; a MariaDB needs none
        if public_key.exists():
            document["mysql"]["public_key"] = public_key.read_text().rstrip("\0")
        for name, values in sections.items():
            document.setdefault(name, {}).update(values)
        return document
