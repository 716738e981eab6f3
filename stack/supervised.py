"""What a pair and a group of MySQL servers have in common: their start, checks and orders."""

from __future__ import annotations

import os
import shutil
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import pymysql

from stack import datadir
from stack.datadir import Passwords
from stack.process import ServerFailed
from stack.server import Server

_CHECK_EVERY = 0.25
_NOTICE_EVERY = 0.05
RETRY_SECONDS = 3.0
"""Seconds before a failed step is tried again, or an error is told again."""

Say = Callable[[str], None]
AServer = TypeVar("AServer", bound=Server)


class Supervised(Generic[AServer]):
    """Servers called mysql1, mysql2 and so on.

    Args:
        folder: holds the data directory of each, made at the first start.
        passwords: those the data was, or will be, made with.
        engine: the class of the servers.
        ports: one for each server; None: a free one.
        say: is called with a sentence for each event.
        logs: the folder of the servers' logs.
        pids: the folder of their pid files.
    """

    def __init__(
        self,
        folder: Path,
        passwords: Passwords,
        engine: type[AServer],
        *,
        ports: Sequence[int | None],
        say: Say = lambda _: None,
        logs: Path | None = None,
        pids: Path | None = None,
    ) -> None:
        self.folder = folder
        self._passwords = passwords
        self._say = say
        self._engine = engine
        self.servers = {
            name: engine(
                name,
                folder / name,
                passwords,
                port=port,
                log=(logs or folder) / f"{name}.log",
                pid_file=pids / f"{name}.pid" if pids is not None else None,
            )
            for name, port in ((f"mysql{n}", port) for n, port in enumerate(ports, 1))
        }
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._watcher: threading.Thread | None = None
        self._unwanted: set[str] = set()
        self._failed_at = 0.0

    # --- what differs between a pair and a group

    @property
    @abstractmethod
    def primary(self) -> AServer:
        """The server that is the primary, or was it last."""

    @property
    @abstractmethod
    def redundant(self) -> bool:
        """Whether the loss of the primary loses nothing that was acknowledged."""

    @abstractmethod
    def status(self) -> dict[str, object]:
        """What is shown: `engine`, `primary`, `generation`, `redundant`, and `servers` by name."""

    @abstractmethod
    def start(self) -> None:
        """Make the data if there is none, start all, and return when the primary is writable.

        Raises:
            ServerFailed: a server does not start, or no primary becomes writable.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop all, in order."""

    @abstractmethod
    def stop_server(self, name: str) -> str:
        """Stop one, which stays stopped until an order starts it; return a sentence on what that
        means."""

    @abstractmethod
    def start_server(self, name: str) -> str:
        """Start one that is dead, in its present role; return a sentence on its state then.

        Raises:
            ServerFailed: it runs already, or does not start.
        """

    @abstractmethod
    def promote(self, *, force: bool = False) -> str:
        """Make another server the primary; return a sentence on the roles then.

        Args:
            force: also if acknowledged commits may be lost.

        Raises:
            ServerFailed: that cannot be done; the text says why.
        """

    @abstractmethod
    def _check(self) -> None:
        """Check all servers, and do what they need; called a few times a second."""

    # --- what both have in common

    def give_up(self) -> None:
        """Make a `start` that is under way return soon; call `stop` then."""
        self._ending.set()

    def kill(self) -> None:
        """Kill all servers at once, as a power cut would."""
        self._end_watching()
        for server in self.servers.values():
            server.kill()

    @property
    def public_key(self) -> str:
        """The key that a password is encrypted with, PEM; empty for MariaDB, which has none."""
        path = self.primary.folder / "public_key.pem"
        # MySQL ends the file with a byte 0.
        return path.read_text().rstrip("\0") if path.is_file() else ""

    def _roles(self, role: Callable[[str], str]) -> dict[str, object]:
        """Each server's role by its name, as `status` shows it."""
        return {name: {"role": role(name)} for name in self.servers}

    def _make_data(self) -> bool:
        """Make the data of all servers, unless one of them has data; return whether it did."""
        if any(server.folder.is_dir() for server in self.servers.values()):
            return False
        template = self.folder / "template.new"
        shutil.rmtree(template, ignore_errors=True)
        self._engine.make_data(template, self._passwords)
        for server in self.servers.values():
            new = server.folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            datadir.copy(template, new)
        for server in self.servers.values():
            os.replace(server.folder.with_suffix(".new"), server.folder)
        shutil.rmtree(template)
        return True

    def _begin_watching(self) -> None:
        self._watcher = threading.Thread(target=self._watch, name="mysql", daemon=True)
        self._watcher.start()

    def _end_watching(self) -> None:
        self._ending.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None

    def _watch(self) -> None:
        checked, running = 0.0, [True] * len(self.servers)
        while not self._ending.wait(_NOTICE_EVERY):
            now = [server.running for server in self.servers.values()]
            if now == running and time.monotonic() - checked < _CHECK_EVERY:
                continue
            checked, running = time.monotonic(), now
            with self._lock:
                if self._ending.is_set():
                    return
                try:
                    self._check_safely()
                except Exception as error:  # the watch continues after any error
                    self._say(f"mysql: {error!r}")

    def _check_safely(self) -> None:
        try:
            self._check()
        except (pymysql.MySQLError, ServerFailed, OSError) as error:
            # A server may end during a check; the next check finds that.
            if time.monotonic() - self._failed_at > RETRY_SECONDS:
                self._failed_at = time.monotonic()
                self._say(f"mysql: {error}")
