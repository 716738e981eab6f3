"""A stage that runs already: a drill is pointed at it by its configuration.

On a local stack (`tapedeck up`) the drill breaks that stack's own servers, as its operator would,
and leaves them as it found them. Of any other installation it only uses what every client may: it
makes the load and checks it (`by-hand`), and its user breaks things.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis

from config.load import load
from config.model import MySQL, Player, Sections
from config.tls import own_port_context, own_url
from drills.client import Target
from drills.stage import Plan, Stage
from failover.mysql.errors import MySQLError, PrimaryUnavailable
from failover.mysql.primary import Primary
from sharding.partitions.calendar import call_tables
from stack.control import NotRunning, ask
from stack.datadir import Passwords
from stack.layout import LOOKUP_NAMES, MYSQL_NAMES
from stack.mariadb import MariaDB
from stack.process import Child, ServerFailed
from stack.redis import RedisServer
from stack.server import Role

MIXES_AT_MOST = 6
"""Mixes that the listeners walk through; each is walked once beforehand to learn its tracks."""
_TRACKS_AT_LEAST = 3
_MEMORY = ("maxmemory", "maxmemory-policy")


def unsuited(plan: Plan, *, local: bool) -> str | None:
    """Why a drill cannot be pointed at a running stack; None if it can."""
    if not local:
        return "it breaks servers, and those of this configuration are no local stack's"
    if plan.lookup_proxies or plan.mysql_proxies:
        return "it needs the fault injector between the gateways and their servers"
    if plan.clock is not None:
        return "it shifts clocks"
    if plan.mysql == "unsupervised pair":
        return "it needs a MySQL pair without a supervisor"
    if plan.cluster:
        return "it needs a Redis Cluster of its own"
    if plan.named:
        return "it needs gateways that ask its own DNS server"
    if plan.own_gateways:
        return "it ends, starts or reloads gateways, and needs two of them"
    if plan.config:
        return f"it needs settings of its own ({', '.join(plan.config)})"
    return None


def servers_of(run: Path) -> dict[str, Any] | None:
    """The servers of the local stack with this `run` folder, by name; None where none runs."""
    try:
        found: dict[str, Any] = ask(run, do="status")["servers"]
    except (NotRunning, ServerFailed, OSError):
        return None
    return found


class _Elsewhere(Child):
    """A server of the running stack: a child of `tapedeck up`, known by its pid file."""

    run: Path

    @property
    def pid(self) -> int | None:
        try:
            assert self.pid_file is not None
            pid = int(self.pid_file.read_text())
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (OSError, ValueError):
            return None
        return None if stat.rpartition(")")[2].split()[0] == "Z" else pid

    @property
    def running(self) -> bool:
        return self.pid is not None

    def send(self, signal_number: int) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)

    def kill(self) -> None:
        pid = self.pid
        self.send(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while self.pid == pid and pid is not None and time.monotonic() < deadline:
            time.sleep(0.01)

    def start_again(self) -> None:
        """Have the stack start it."""
        ask(self.run, do="start", name=self.name)


class _Lookup(_Elsewhere, RedisServer):
    def start(self) -> None:
        self.start_again()


class _MySQL(_Elsewhere, MariaDB):
    def start(self, role: Role = "alone") -> None:
        self.start_again()


class _SupervisedElsewhere:
    """The running stack's pair, by what `tapedeck stack` can say and do."""

    def __init__(self, run: Path, servers: dict[str, MariaDB]) -> None:
        self._run = run
        self.servers = servers

    @property
    def primary(self) -> MariaDB:
        return self.servers[str(self.status()["primary"])]

    @property
    def redundant(self) -> bool:
        return bool(self.status()["redundant"])

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = ask(self._run, do="status")["mysql"]
        return found

    def start_server(self, name: str) -> str:
        return str(ask(self._run, do="start", name=name))

    def stop_server(self, name: str) -> str:
        return str(ask(self._run, do="stop", name=name))


class Attached(Stage):
    """A running stack as a stage.

    Args:
        configs: the configuration of each gateway that the load goes to; all of one installation.
        plan: what the drill needs; None for one that breaks nothing itself.

    Raises:
        ConfigError: a configuration cannot be used.
        ServerFailed: the drill cannot be run there: why.
    """

    steady_seconds = 3.0

    def __init__(
        self, configs: Sequence[Path], plan: Plan | None, say: Callable[[str], None]
    ) -> None:
        # Nothing is ever made in the folder.
        super().__init__(configs[0].parent, plan or Plan(), say)
        self._breaks = plan is not None
        self._loaded = [load(path) for path in configs]
        call_tables(self._loaded[0].partitions.prefix)
        first = self._loaded[0]
        for path, config in zip(configs, self._loaded, strict=True):
            if config.gateway.tls_client_ca_file or config.admin.tls_client_ca_file:
                raise ServerFailed(
                    f"{path} has its gateway ask clients for certificates, and drills have none"
                )
        if not first.auth.service_keys:
            raise ServerFailed(f"{configs[0]} names no service key: the drill's writers need one")
        self.key = first.auth.service_keys[0].get_secret_value()
        self._memory: dict[str, dict[str, str]] = {}
        self._mysql: list[MariaDB] = []
        self._ran: list[Child] = []
        local = self._find_local(configs[0].parent, first)
        if plan is not None and (reason := unsuited(plan, local=local)):
            raise ServerFailed(
                f"this drill cannot be pointed at a running stack: {reason}. Without --config it "
                "sets a stage of its own; `by-hand` checks a load while you break things"
            )

    @property
    def targets(self) -> list[Target]:
        return [
            Target(
                own_url(config.gateway),
                own_url(config.admin),
                own_port_context(config.gateway),
                own_port_context(config.admin),
                config.admin.token.get_secret_value() if config.admin.token else "",
            )
            for config in self._loaded
        ]

    @property
    def player(self) -> Player:
        return self._loaded[0].player

    @property
    def objective_seconds(self) -> float:
        return self._loaded[0].objective.latency / 1000

    def start(self) -> None:
        """See that everything runs, and learn the mixes.

        Raises:
            ServerFailed: a gateway does not serve, or has no mixes.
        """
        for target in self.targets:
            try:
                target.ask_admin("/readyz")
            except OSError as error:
                raise ServerFailed(f"the gateway at {target.url} is not ready: {error}") from None
        self.mixes = _learn_mixes(self.targets[0])
        self._ran = [server for server in (*self.lookups, *self._mysql) if server.running]
        for node in self.lookups:
            with contextlib.suppress(redis.RedisError), node.client() as client:
                self._memory[node.name] = {name: client.config_get(name)[name] for name in _MEMORY}

    def stop(self) -> None:
        """Leave the servers that the drill broke as they were found: running, with room."""
        if not self._breaks:
            return
        for server in self._ran:
            if server.stopped:
                server.thaw()
                self.say(f"{server.name} is thawed")
            if not server.running:
                try:
                    ask(self.folder / "run", do="start", name=server.name)
                    self.say(f"{server.name} is started again")
                except (ServerFailed, NotRunning, OSError) as error:
                    self.say(f"{server.name} could not be started again: {error}")
        for node in self.lookups:
            with contextlib.suppress(redis.RedisError), node.client() as client:
                for name, value in self._memory.get(node.name, {}).items():
                    if client.config_get(name)[name] != value:
                        client.config_set(name, value)
                        self.say(f"{node.name} has its {name} of before again: {value}")

    def query(self, sql: str) -> list[Any]:
        """As the gateways' own user, on the primary.

        Raises:
            ServerFailed: there is none to read the states back from, or it refuses the statement.
        """
        try:
            return asyncio.run(_fetch(self._loaded[0].mysql, sql))
        except (PrimaryUnavailable, MySQLError) as error:
            raise ServerFailed(f"no MySQL primary to read the states back from: {error}") from None

    def _find_local(self, home: Path, config: Sections) -> bool:
        run = home / "run"
        servers = servers_of(run)
        if servers is None:
            return False
        secret = Path(config.mysql.password_file or "").parent
        secret = secret if secret.is_absolute() else home / secret
        passwords = Passwords(admin=(secret / "admin").read_text().strip())
        for name in LOOKUP_NAMES:
            node = _Lookup(name, home, port=servers[name]["port"], pid_file=run / f"{name}.pid")
            node.run = run
            self.lookups.append(node)
        for name in (name for name in MYSQL_NAMES if name in servers):
            host = _MySQL(
                name, home, passwords, port=servers[name]["port"], pid_file=run / f"{name}.pid"
            )
            host.run = run
            self._mysql.append(host)
        self.pair = _SupervisedElsewhere(run, {host.name: host for host in self._mysql})
        return True


def _learn_mixes(target: Target) -> dict[int, list[int]]:
    """The tracks of some mixes, by id: a new listener walks through each."""
    url = target.url

    def get(path: str) -> dict[str, Any]:
        with urllib.request.urlopen(url + path, timeout=15, context=target.tls) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found

    try:
        listed = get("/mix_sets/all?per_page=100")["mix_set"]["mixes"]
        usable = [mix for mix in listed if mix["tracks_count"] >= _TRACKS_AT_LEAST]
        # The longest ones: a listener has more to do in them.
        usable.sort(key=lambda mix: -int(mix["tracks_count"]))
        token = get("/sets/new")["play_token"]
        found = {}
        for mix in usable[:MIXES_AT_MOST]:
            place = get(f"/sets/{token}/play?mix_id={mix['id']}")["set"]
            tracks: list[int] = []
            while not place["at_end"] and len(tracks) < int(mix["tracks_count"]):
                tracks.append(place["track"]["id"])
                place = get(f"/sets/{token}/next?mix_id={mix['id']}&track_id={tracks[-1]}")["set"]
            if len(set(tracks)) == len(tracks):
                found[int(mix["id"])] = tracks
    except (urllib.error.URLError, OSError, KeyError, ValueError) as error:
        raise ServerFailed(f"the catalog of {url} cannot be read: {error}") from None
    if not found:
        raise ServerFailed(
            f"{url} has no mix of {_TRACKS_AT_LEAST} tracks or more: `tapedeck catalog import FILE`"
        )
    return found


async def _fetch(config: MySQL, sql: str) -> list[Any]:
    async with Primary(config) as primary, primary.session_apart(primary.deadline()) as session:
        session.statement_seconds = 20
        return await session.fetch(sql)
