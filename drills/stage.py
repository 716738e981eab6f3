"""Where a drill takes place: real servers on free ports in a folder of their own, and gateways that
reach them through the fault injector's proxies where the drill wants some. Calls block."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from config.model import Objective, Player
from drills import catalog
from drills.client import Target
from drills.dns import Dns
from drills.gateway import SERVE, Gateway
from drills.toxiproxy import Injector, Link
from gateway.catalog.tables import TABLES
from sharding.partitions import ownership
from sharding.partitions.calendar import table
from stack import clock, datadir, engines, replication
from stack.catalog import write_mixes
from stack.datadir import Passwords
from stack.group import Group
from stack.mariadb import MariaDB
from stack.mysql import MySQL
from stack.pair import Pair
from stack.process import Child, ServerFailed, free_port
from stack.redis import RedisServer
from stack.redis_cluster import RedisCluster
from stack.server import Server

_DAY = 86400


def name_of(server: Child) -> str:
    """What the drill's DNS server calls a server."""
    return f"{server.name}.drill.test"


@dataclass(frozen=True)
class Plan:
    """What a drill needs.

    Attributes:
        mysql: one server; a pair that is supervised as `tapedeck up` does; or a pair that nobody
            looks after. Where the environment chose `group` (`engines.CHOICE`), each is a group of
            three, in which MySQL elects the primary.
        lookup_proxies, mysql_proxies: whether the injector stands between.
        clock: by how much MySQL's clock (and with `gateways_clock` the gateways') is shifted at
            first, as MariaDB's `clock_file` says, or "before midnight": to 23:55 UTC; None: not,
            and it cannot be.
        config: values over the default configuration, by section.
        own_gateways: whether the drill ends gateways and starts them, or reloads them.
        cluster: whether lookups are in a Redis Cluster of six; `lookups` is empty then.
        spares: lookup nodes that run and are in no ring yet.
        named: whether gateways know the servers by names, of a DNS server of the drill's own.
    """

    mysql: Literal["single", "pair", "unsupervised pair"] = "single"
    lookup_proxies: bool = False
    mysql_proxies: bool = False
    clock: str | None = None
    gateways_clock: bool = False
    gateways: int = 2
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own_gateways: bool = False
    cluster: bool = False
    spares: int = 0
    named: bool = False


class Supervised(Protocol):
    """A supervised pair: `stack.pair.Pair`, or the running stack's."""

    @property
    def servers(self) -> Mapping[str, Server]: ...
    @property
    def primary(self) -> Server: ...
    @property
    def redundant(self) -> bool: ...
    def status(self) -> dict[str, Any]: ...
    def start_server(self, name: str) -> str: ...
    def stop_server(self, name: str) -> str: ...


class Stage:
    """Servers and gateways of one drill. Use as a context, or call `start` and `stop`.

    Args:
        folder: is made, and removed at the end.
        say: is told what the servers do, one sentence each; called from several threads.
        commands: python's arguments for each gateway; the last one goes for the rest.

    Attributes:
        pair: with Plan.mysql == "pair", and each group.
        elects: MySQL is a group, which elects its primary.
        single: the server, or the first primary of an unsupervised pair.
        standby: the other one of that; `promoted`: set by the drill that turns them over.
        mixes: by id, the ids of the tracks.
        lookup_links: the proxies by (gateway, node), both counted from 0.
        mysql_links: likewise by (gateway, host).
        dns: with Plan.named.
    """

    steady_seconds = 10.0
    """Within which all is well after the start, under load."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        say: Callable[[str], None] = lambda _: None,
        commands: Sequence[Sequence[str]] = (SERVE,),
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.say = say
        self._commands = commands
        self.passwords = Passwords()
        self.key = secrets.token_hex(16)
        self.mixes: Mapping[int, Sequence[int]] = {
            mix.id: [track.id for track in mix.tracks] for mix in catalog.mixes()
        }
        self._token_key = secrets.token_hex(32)
        self.lookups: list[RedisServer] = []
        self.cluster: RedisCluster | None = None
        self.spares: list[RedisServer] = []
        self.gateways: list[Gateway] = []
        self.pair: Supervised | None = None
        self.elects = os.environ.get(engines.CHOICE) == "group"
        self.single: Server | None = None
        self.standby: Server | None = None
        self.promoted: Server | None = None
        self.lookup_links: dict[tuple[int, int], Link] = {}
        self.mysql_links: dict[tuple[int, int], Link] = {}
        self.dns: Dns | None = None
        self._injector: Injector | None = None

    # --- the parts

    @property
    def player(self) -> Player:
        """The gateways' settings of the Player."""
        return Player(**self.plan.config.get("player", {}))

    @property
    def primary(self) -> Server:
        """The server that is the primary now, or was it last."""
        if self.pair is not None:
            return self.pair.primary
        assert self.single is not None
        return self.promoted or self.single

    @property
    def mysql_hosts(self) -> list[Server]:
        """All MySQL servers, in the configuration's order."""
        if self.pair is not None:
            return list(self.pair.servers.values())
        assert self.single is not None
        return [self.single] if self.standby is None else [self.single, self.standby]

    @property
    def targets(self) -> list[Target]:
        """Where the gateways are."""
        return [gateway.target for gateway in self.gateways]

    @property
    def objective_seconds(self) -> float:
        """Within which the gateways' objective wants 99 % of requests answered."""
        return Objective().latency / 1000

    @property
    def clock_file(self) -> Path:
        """Its content shifts the clocks; see MariaDB."""
        return self.folder / "clock"

    def links(self, kind: Literal["lookup", "mysql"], number: int | None = None) -> list[Link]:
        """The proxies of all gateways to one node or host, or to all of them."""
        links = self.lookup_links if kind == "lookup" else self.mysql_links
        return [link for (_, at), link in links.items() if number is None or at == number]

    # --- start and stop

    def start(self) -> None:
        """Start everything; returns once all gateways serve.

        Raises:
            ServerFailed: a server did not start.
            InjectorFailed: likewise.
        """
        self.folder.mkdir(parents=True)
        if self.plan.clock is not None:
            shift = self.plan.clock
            if shift == "before midnight":
                shift = f"{_DAY - time.time() % _DAY - 300:+.3f}"
            self.clock_file.write_text(shift + "\n")
        if self.plan.named:
            self.dns = Dns()
        # A snapshot is taken only where a drill says so.
        if self.plan.cluster:
            self.cluster = RedisCluster(self.folder)
        else:
            self.lookups = [
                RedisServer(f"lookup{n}", self.folder / f"lookup{n}", options=("--save", ""))
                for n in range(1, 4 + self.plan.spares)
            ]
            self.lookups, self.spares = self.lookups[:3], self.lookups[3:]
        with ThreadPoolExecutor(6) as starters:
            mysql = starters.submit(self._start_mysql)
            injector = starters.submit(self._start_injector)
            nodes = [starters.submit(server.start) for server in (*self.lookups, *self.spares)]
            if self.cluster is not None:
                nodes.append(starters.submit(self.cluster.start))
            for work in (mysql, injector, *nodes):
                work.result()
        self._write_catalog()
        self._link()
        if self.dns is not None:
            servers = (*self.lookups, *self.mysql_hosts)
            self.dns.names = {name_of(server): "127.0.0.1" for server in servers}
        for number in range(self.plan.gateways):
            self.gateways.append(self._gateway(number))
        with ThreadPoolExecutor(4) as starters:
            list(starters.map(lambda gateway: gateway.start(), self.gateways))

    def stop(self) -> None:
        """End every process and remove the folder."""
        for gateway in self.gateways:
            gateway.kill()
        if self.dns is not None:
            self.dns.close()
        if self._injector is not None:
            with contextlib.suppress(Exception):
                self._injector.close()
        if isinstance(self.pair, Pair | Group):
            self.pair.kill()
        for host in (self.single, self.standby):
            if host is not None:
                host.kill()
        for server in (*self.lookups, *self.spares):
            server.kill()
        if self.cluster is not None:
            self.cluster.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.say("the drill's servers and gateways are ended, and their data is removed")

    def __enter__(self) -> Stage:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_mysql(self) -> None:
        engine: type[Server] = MySQL if engines.chosen("mysql") else MariaDB
        clock_file = self.clock_file if self.plan.clock is not None else None
        if self.elects:
            group = Group(self.folder, self.passwords, say=self.say)
            for server in group.servers.values():
                server.clock_file = clock_file
            self.pair = group
            group.start()
            return
        if self.plan.mysql == "pair":
            self.pair = pair = Pair(self.folder, self.passwords, engine, say=self.say)
            pair.start()
            return
        data = self.folder / "mysql1"
        engine.make_data(data, self.passwords)
        self.single = engine("mysql1", data, self.passwords, clock_file=clock_file)
        if self.plan.mysql == "single":
            self.single.start()
            return
        datadir.copy(data, self.folder / "mysql2")
        self.standby = engine("mysql2", self.folder / "mysql2", self.passwords)
        self.single.start("primary")
        self.standby.start("standby")
        replication.link(self.standby, self.single)
        replication.set_semi_sync(self.single, on=True)
        deadline = time.monotonic() + 20
        while not replication.semi_sync(self.single)[1]:
            if time.monotonic() > deadline:
                raise ServerFailed(f"mysql2 does not follow mysql1\n{self.standby.log_end()}")
            time.sleep(0.02)
        replication.make_writable(self.single)

    def _start_injector(self) -> None:
        if self.plan.lookup_proxies or self.plan.mysql_proxies:
            self._injector = Injector.find_or_start(self.folder / "injector.log")

    def _link(self) -> None:
        injector = self._injector
        if injector is None:
            return
        for gateway in range(self.plan.gateways):
            if self.plan.lookup_proxies:
                for number, node in enumerate(self.lookups):
                    link = injector.link(f"gateway{gateway + 1}_{node.name}", node.address)
                    self.lookup_links[gateway, number] = link
            if self.plan.mysql_proxies:
                for number, host in enumerate(self.mysql_hosts):
                    link = injector.link(f"gateway{gateway + 1}_{host.name}", host.address)
                    self.mysql_links[gateway, number] = link

    def _gateway(self, number: int) -> Gateway:
        commands = self._commands
        env = {
            name: value for name, value in os.environ.items() if not name.startswith("TAPEDECK_")
        }
        if self.plan.gateways_clock:
            env |= self.clock_shift()
        return Gateway(
            f"gateway{number + 1}",
            self.folder,
            self._document(number),
            commands[min(number, len(commands) - 1)],
            env,
            self.dns.within(self.folder) if self.dns is not None else (),
        )

    def _document(self, number: int) -> dict[str, Any]:
        servers = [
            f"{self.lookup_links[number, n].listen}:1 {node.name}"
            if self.lookup_links
            else node.server
            for n, node in enumerate(self.lookups)
        ]
        hosts = [
            self.mysql_links[number, n].listen if self.mysql_links else host.address
            for n, host in enumerate(self.mysql_hosts)
        ]
        if self.plan.named:
            servers = [f"{name_of(n)}:{n.port}:1 {n.name}" for n in self.lookups]
            hosts = [f"{name_of(host)}:{host.port}" for host in self.mysql_hosts]
        document: dict[str, Any] = {
            "gateway": {"port": free_port()},
            "admin": {"port": free_port()},
            "auth": {"token_keys": [self._token_key], "service_keys": [self.key]},
            "lookup": {"servers": servers, "server_retry_timeout": 1000},
            "mysql": {"hosts": hosts, "user": "tapedeck", "password": self.passwords.gateway},
            "partitions": {"filter_folder": str(self.folder / "filters")},
        }
        key = self.primary.folder / "public_key.pem"
        if key.exists():
            # MySQL ends the file with a byte 0.
            document["mysql"]["public_key"] = key.read_text().rstrip("\0")
        if self.cluster is not None:
            seeds = [server.address for server in self.cluster.servers[:2]]
            document["lookup"].update({"mode": "cluster", "servers": seeds})
        for section, values in self.plan.config.items():
            document.setdefault(section, {}).update(values)
        return document

    def _write_catalog(self) -> None:
        with self.primary.connect("tapedeck", timeout=20) as connection:
            cursor = connection.cursor()
            for statement in TABLES:
                cursor.execute(statement)
            write_mixes(cursor, catalog.mixes())
            connection.commit()

    # --- the clock

    def clock_shift(self) -> dict[str, str]:
        """What gives a process of this machine MySQL's clock: its environment."""
        if self.plan.clock is None:
            return {}
        return clock.shifted_by(self.clock_file)

    def clock_now(self) -> float:
        """MySQL's clock, seconds since 1970."""
        return time.time() + float(self.clock_file.read_text())

    def shift_clock(self, seconds: float) -> None:
        """Move MySQL's clock ahead, at once."""
        shift = float(self.clock_file.read_text()) + seconds
        # Renamed, so that no reader gets half of it.
        new = self.clock_file.with_suffix(".new")
        new.write_text(f"{shift:+.3f}\n")
        new.replace(self.clock_file)

    # --- looking into the gateways, and into MySQL

    def metric(self, name: str) -> float:
        """The sum of a counter over all gateways and labels."""
        total = 0.0
        for target in self.targets:
            for line in target.ask_admin("/metrics").decode().splitlines():
                if line.startswith((name + " ", name + "{")):
                    total += float(line.rpartition(" ")[2])
        return total

    def query(self, sql: str) -> list[Any]:
        """The rows that a statement finds in the gateways' database, on the primary."""
        with self.primary.connect("tapedeck", timeout=20) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())

    def partitions(self) -> list[str]:
        """The names of the day partitions, oldest first."""

        async def fetch(sql: str) -> list[Any]:
            # In a thread: a query of a stack that runs already has an event loop of its own.
            return await asyncio.to_thread(self.query, sql)

        found = asyncio.run(ownership.list_tables(fetch))
        return [table(day) for day in sorted(found.ours)]

    def rows(self, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
        """The versions of all rows of each key, in whichever partitions they lie."""
        found: dict[tuple[int, int], list[int]] = {}
        for name in self.partitions():
            for begin in range(0, len(keys), 200):
                among = ",".join(f"({user},{mix})" for user, mix in keys[begin : begin + 200])
                for user, mix, version in self.query(
                    f"SELECT user_id, playlist_id, version FROM {name}"
                    f" WHERE (user_id, playlist_id) IN ({among})"
                ):
                    found.setdefault((user, mix), []).append(version)
        return found

    def rows_by_partition(self) -> dict[str, int]:
        """How many rows each day partition has."""
        return {
            name: int(self.query(f"SELECT COUNT(*) FROM {name}")[0][0])
            for name in self.partitions()
        }
