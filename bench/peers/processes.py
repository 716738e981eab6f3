"""The peers as processes: what each is, and how it is started."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.servers import PLAIN, TABLE, Servers
from stack.process import Child, ServerFailed, free_port

ROOT = Path(__file__).resolve().parents[2]
GO_SOURCE = Path(__file__).parent / "plain"
CONNECTIONS = 64
"""How many connections a plain peer may have to MySQL, and how many to twemproxy."""


@dataclass(frozen=True)
class Kind:
    """A peer.

    Attributes:
        name: short, for files and options.
        title: for people.
        store: which states and lookups it uses: `gateway`, `plain`, `table`, `redis`, or empty.
    """

    name: str
    title: str
    store: str


GATEWAY = Kind("gateway", "Tapedeck, 1 worker", "gateway")
GATEWAY2 = Kind("gateway2", "Tapedeck, 2 workers", "gateway")
GO = Kind("go", "plain Go", "plain")
ASYNCIO = Kind("asyncio", "plain Python", "plain")
THREADS = Kind("threads", "PyMySQL in threads", "plain")
CONSTANT = Kind("constant", "aiohttp's server, a constant", "")
CONSTANT_APP = Kind("constant_app", "aiohttp application, a constant", "")
GO_TABLE = Kind("go_table", "Go, one big table", "table")
GO_REDIS = Kind("go_redis", "Go, Redis alone", "redis")
KINDS = (GATEWAY, GATEWAY2, GO, ASYNCIO, THREADS, CONSTANT, CONSTANT_APP, GO_TABLE, GO_REDIS)


def build_go(into: Path) -> Path:
    """Build the plain Go peer with Debian's packages, without a network (0.5 to 20 s).

    Raises:
        ServerFailed: it does not compile; the text has the compiler's output.
    """
    binary = into / "plain-go"
    env = {
        "PATH": os.environ["PATH"],
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(into / "go-cache"),
        "CGO_ENABLED": "0",
    }
    argv = ["go", "build", "-o", str(binary), "."]
    try:
        done = subprocess.run(
            argv, cwd=GO_SOURCE, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise ServerFailed("go is not installed: `make bench` installs it (golang-go)") from None
    if done.returncode != 0:
        raise ServerFailed(f"the plain Go peer does not build:\n{done.stderr}")
    return binary


class Peer(Child):
    """A peer's process; it answers on `port` once it is started."""

    def __init__(
        self,
        kind: Kind,
        servers: Servers,
        argv: Sequence[str],
        port: int,
        ready: tuple[int, str],
        env: Mapping[str, str],
        label: str = "",
    ) -> None:
        super().__init__(kind.name, servers.folder / f"{label or kind.name}.log")
        self.kind = kind
        self.port = port
        self._argv = argv
        self._ready = ready
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("TAPEDECK_")} | dict(
            env
        )

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ServerFailed: it does not answer within a minute.
        """
        self.spawn(self._argv, env=self._env)
        self.await_ready(self._answers, 60)

    def _answers(self) -> bool:
        port, path = self._ready
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status != 503
        except OSError:
            return False
        finally:
            connection.close()


def gateway(
    servers: Servers, document: dict[str, Any], *, workers: int = 1, label: str = ""
) -> Peer:
    """Tapedeck itself, as `tapedeck serve` runs it."""
    kind = GATEWAY if workers == 1 else GATEWAY2
    config = write_config(servers, document, label or kind.name)
    argv = [sys.executable, "-m", "cli", "serve", "--config", str(config)]
    argv += ["--workers", str(workers)]
    ready = document["admin"]["port"], "/readyz"
    return Peer(kind, servers, argv, document["gateway"]["port"], ready, {}, label)


def write_config(servers: Servers, document: dict[str, Any], label: str) -> Path:
    """Write a gateway's configuration where the gateway of this label reads it."""
    config = servers.folder / f"{label}.yml"
    config.write_text(yaml.safe_dump(document))
    return config


def plain(kind: Kind, servers: Servers, go: Path | None) -> Peer:
    """A peer that is not Tapedeck."""
    port = free_port()
    assert servers.nutcracker is not None
    env = {
        "PLAIN_PASSWORD": servers.passwords.gateway,
        "PLAIN_TOKEN_KEY": servers.token_key,
        "GOGC": "400",  # Go collects garbage a quarter as often: there is enough memory
        "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(":")]),
    }
    database = TABLE if kind is GO_TABLE else PLAIN
    if kind in (GO, GO_TABLE, GO_REDIS):
        redis_port = servers.alone.port if kind is GO_REDIS else servers.nutcracker.port
        dsn = f"tapedeck:PASSWORD@tcp({servers.mysql.address})/{database}?interpolateParams=true"
        argv = [
            str(go),
            f"-port={port}",
            f"-mode={ {GO: 'plain', GO_TABLE: 'table', GO_REDIS: 'redis'}[kind] }",
            f"-redis=127.0.0.1:{redis_port}",
            f"-connections={CONNECTIONS}",
            f"-catalog={servers.catalog}",
        ]
        if kind is not GO_REDIS:
            argv += [f"-mysql={dsn}", f"-past={servers.past}"]
    else:
        module = {ASYNCIO: "plain_asyncio", THREADS: "plain_threads"}.get(kind, kind.name)
        argv = [
            sys.executable,
            "-m",
            f"bench.peers.{module}",
            f"--port={port}",
            f"--redis-port={servers.nutcracker.port}",
            f"--mysql-port={servers.mysql.port}",
            f"--database={database}",
            f"--catalog={servers.catalog}",
        ]
        if kind in (ASYNCIO, THREADS):
            argv.append(f"--connections={CONNECTIONS // 2}")
    return Peer(kind, servers, argv, port, (port, "/"), env)
