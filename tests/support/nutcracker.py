"""The real twemproxy (Debian's nutcracker), asked on which node it puts a key."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stack.process import Child, free_port
from stack.redis import RedisServer

_IDENTITY = b"@node"
# nutcracker chooses the node by the key that the script declares. The script reads another key,
# which has the node's name.
_SCRIPT = b"return redis.call('get','@node')"
_PIPELINED = 500


def mark(node: RedisServer) -> None:
    """Store a running node's name in the node, for `Nutcracker.places`."""
    with node.client() as client:
        client.set(_IDENTITY, node.name)


class ErrorAnswer(Exception):
    """Nutcracker answered with an error."""


class Nutcracker(Child):
    """A nutcracker process; each of its pools listens on a UNIX socket in `folder`.

    Args:
        pools: the configuration of each pool, by its name, without `listen` and `redis`.
    """

    def __init__(self, folder: Path, pools: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__("nutcracker", folder / "nutcracker.log")
        self.folder = folder
        self.pools = pools

    @property
    def file(self) -> Path:
        """Its configuration."""
        return self.folder / "nutcracker.yml"

    def start(self) -> None:
        """Start it and wait until every pool listens.

        Raises:
            ServerFailed: a pool does not listen within 20 s.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {
            name: {"listen": str(self._socket(name)), "redis": True, **pool}
            for name, pool in self.pools.items()
        }
        self.file.write_text(yaml.safe_dump(document, allow_unicode=True, width=1000))
        argv = ["nutcracker", "-c", str(self.file), "-s", str(free_port()), "-a", "127.0.0.1"]
        # Debian's own would be in /var/log, where only root may write.
        self.spawn([*argv, "-o", str(self.file.with_suffix(".said"))])
        self.await_ready(lambda: all(self._listens(name) for name in self.pools), 20)

    def places(self, pool: str, keys: Sequence[bytes]) -> list[str | None]:
        """The name of the node that it sends each key to; None if it answers with an error."""
        found: list[str | None] = []
        with self._connect(pool) as connection, connection.makefile("rb") as replies:
            for start in range(0, len(keys), _PIPELINED):
                batch = keys[start : start + _PIPELINED]
                connection.sendall(b"".join(_eval(key) for key in batch))
                for _ in batch:
                    line = replies.readline()
                    if line[:1] == b"$":
                        found.append(replies.read(int(line[1:]) + 2)[:-2].decode())
                    else:
                        assert line[:1] == b"-", f"neither a value nor an error: {line!r}"
                        found.append(None)
        return found

    def write(self, pool: str, keys: Sequence[bytes]) -> None:
        """SET each key."""
        with self._connect(pool) as connection, connection.makefile("rb") as replies:
            for start in range(0, len(keys), _PIPELINED):
                batch = keys[start : start + _PIPELINED]
                connection.sendall(b"".join(_command(b"SET", key, b"1") for key in batch))
                for key in batch:
                    line = replies.readline()
                    assert line == b"+OK\r\n", f"SET {key!r}: {line!r}"

    def ask(self, pool: str, *words: bytes) -> bytes | None:
        """Send one command as an application does; return the answer, None for an absent value.

        Raises:
            ErrorAnswer: for example because the key's node is dead and not ejected yet.
        """
        with self._connect(pool) as connection, connection.makefile("rb") as replies:
            if password := self.pools[pool].get("redis_auth"):
                connection.sendall(_command(b"AUTH", password.encode()))
                assert replies.readline() == b"+OK\r\n"
            connection.sendall(_command(*words))
            line = replies.readline().rstrip()
            if line[:1] == b"-":
                raise ErrorAnswer(line.decode())
            if line[:1] != b"$":
                return line[1:]
            return None if line == b"$-1" else replies.read(int(line[1:]))

    def eject(self, pool: str, key: bytes, *, all_dead: bool = False) -> None:
        """Ask for a key of a dead node until another node answers, so that the dead one is ejected.

        Args:
            all_dead: whether no live node is left; then one request, which fails, is enough.
        """
        for _ in range(100):
            if self.places(pool, [key]) != [None] or all_dead:
                return
        raise AssertionError(f"{pool} does not eject the node of {key!r}\n{self.log_end()}")

    def _socket(self, pool: str) -> Path:
        return self.folder / f"{pool}.sock"

    def _connect(self, pool: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(str(self._socket(pool)))
        return connection

    def _listens(self, pool: str) -> bool:
        try:
            self._connect(pool).close()
        except OSError:
            return False
        return True


def _eval(key: bytes) -> bytes:
    return _command(b"EVAL", _SCRIPT, b"1", key)


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
