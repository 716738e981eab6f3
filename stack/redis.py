"""A lookup node: a real redis-server as a child process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stack import engines
from stack.process import Child, ServerFailed, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence


def executable() -> str:
    """The path of redis-server.

    Debian's redis-tools, which starts no service, has it under the name redis-check-rdb: it is one
    program, and its name (argv[0]) decides what it does.

    Raises:
        ServerFailed: neither is installed.
    """
    if name := engines.chosen("redis", "valkey"):
        return str(engines.find(name))
    found = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if found is None:
        raise ServerFailed("redis-server is not installed: apt-get install redis-tools")
    return found


class RedisServer(Child):
    """A node on 127.0.0.1.

    Args:
        folder: for its snapshot; it is made if it does not exist.
        port: a free one by default.
        options: more options of redis-server, such as ("--maxmemory", "20mb").
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        port: int | None = None,
        log: Path | None = None,
        pid_file: Path | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(name, log or folder / "redis.log", pid_file)
        self.folder = folder
        self.port = port or free_port()
        self.options = tuple(options)

    @property
    def address(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.port}"

    @property
    def server(self) -> str:
        """The node in twemproxy's words, for `lookup.servers`."""
        return f"{self.address}:1 {self.name}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ServerFailed: it does not answer within 20 s.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        words = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self.folder),
            "--dbfilename": "dump.rdb",
            "--appendonly": "no",
            "--daemonize": "no",
            "--tcp-backlog": "511",
        }
        argv = ["redis-server", *(word for pair in words.items() for word in pair)]
        # A snapshot a minute, as nodes in use have: a killed node comes back with old entries.
        self.spawn([*argv, "--save", "60 1", *self.options], executable=executable())
        self.await_ready(self._answers, 20)

    def client(self) -> redis.Redis:
        """A new synchronous client that asks once; the caller closes it."""
        never = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, socket_timeout=2, socket_connect_timeout=2, retry=never)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                # Another process may answer at this port.
                return bool(client.info("server")["process_id"] == self.pid)
            except redis.RedisError:
                return False
