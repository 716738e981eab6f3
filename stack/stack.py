"""The whole local stack: lookup nodes, the MySQL servers, the gateway, the sample catalog."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

from stack import layout as files_of
from stack import mysql
from stack.datadir import Passwords
from stack.gateway import Gateway
from stack.group import Group
from stack.layout import LOOKUP_NAMES, NAMES, Layout, Ports
from stack.mariadb import MariaDB
from stack.mysql import MySQL
from stack.pair import Pair
from stack.process import Child, ServerFailed
from stack.redis import RedisServer
from stack.supervised import Supervised

_LOG_LIMIT = 20_000_000


class Stack:
    """All servers of one `tapedeck up`, children of this process.

    Args:
        layout: where it keeps its files; only one stack at a time may use them.
        ports: where its servers listen.
        workers: processes of the gateway.
        say: is called with a sentence for each event, from several threads.
    """

    def __init__(
        self,
        layout: Layout,
        ports: Ports,
        *,
        workers: int = 1,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.layout = layout
        self.ports = ports
        self._workers = workers
        self._say = say
        self._lock_file: TextIO | None = None
        self._ending = threading.Event()
        self._watcher: threading.Thread | None = None
        # Servers that an order has stopped: their end is not reported.
        self._stopped: set[str] = set()
        self.lookups: dict[str, RedisServer] = {}
        self.mysql: Supervised[Any] | None = None
        self.gateway: Gateway | None = None

    # --- start and stop

    def claim(self) -> None:
        """Make sure that this is the only stack in its folder, and that its ports are free.

        Raises:
            ServerFailed: another stack runs there, a port is taken, or MySQL is not installed; the
                text says which, and what to do.
        """
        if self.layout.mysql != "mariadb":
            mysql.executable()
        self.layout.run.mkdir(parents=True, exist_ok=True)
        self._lock_file = (self.layout.run / "up.lock").open("a")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            self._lock_file = None
            raise ServerFailed(
                f"a stack runs in {self.layout.home} already: see `tapedeck stack status`, "
                "or stop it with Ctrl-C where it was started"
            ) from None
        self._await_the_dead()
        problems = self.ports.problems()
        if problems:
            raise ServerFailed("; ".join(problems))

    def _await_the_dead(self) -> None:
        """Wait for servers of a stack that was killed a moment ago: they may not have ended yet."""
        deadline = time.monotonic() + 5
        for name in NAMES:
            path = self.layout.pid_file(name)
            with contextlib.suppress(OSError, ValueError):
                pid = int(path.read_text())
                # Another process may have the id by now.
                home = str(self.layout.home.absolute()).encode()
                process = Path(f"/proc/{pid}")
                # (redis-server shows no arguments, but its working directory is its folder.)
                while home in process.joinpath("cmdline").read_bytes() or home in bytes(
                    process.joinpath("cwd").readlink()
                ):
                    if time.monotonic() > deadline:
                        os.kill(pid, signal.SIGKILL)
                        break
                    time.sleep(0.05)
            path.unlink(missing_ok=True)

    def start(self) -> None:
        """Start all servers. `claim` has to be called before.

        Raises:
            ServerFailed: a server did not start; the text has the end of its log.
        """
        layout = self.layout
        shutil.rmtree(layout.home / "ephemeral", ignore_errors=True)
        self._rotate_logs()
        passwords = files_of.passwords(layout)
        self.lookups = {
            name: RedisServer(
                name,
                layout.data.absolute() / name,
                port=port,
                log=layout.log / f"{name}.log",
                pid_file=layout.pid_file(name),
            )
            for name, port in zip(LOOKUP_NAMES, self.ports.lookup, strict=True)
        }
        self.mysql = self._mysql(passwords)
        self.gateway = Gateway(
            layout.config.absolute(), layout.log / "gateway.log", layout.pid_file("gateway")
        )
        with ThreadPoolExecutor(2) as starters:
            started = starters.submit(self.mysql.start)
            try:
                for node in self.lookups.values():
                    node.start()
                self._say(f"{', '.join(self.lookups)} are ready")
                started.result()
                files_of.write_config(layout, self.ports, self._workers, self.mysql.public_key)
                names = ", ".join(self.mysql.servers)
                self._say(f"{names} are ready; {self.mysql.primary.name} is the primary")
                catalog = starters.submit(self._import_catalog)
                self.gateway.start()
                self._say("the gateway is ready")
                catalog.result()
            except BaseException:
                self.mysql.give_up()
                raise
        self._watcher = threading.Thread(target=self._watch, name="stack", daemon=True)
        self._watcher.start()

    def _mysql(self, passwords: Passwords) -> Supervised[Any]:
        folder, ports = self.layout.mysql_data.absolute(), self.ports.mysql
        common: dict[str, Any] = {
            "say": self._say,
            "logs": self.layout.log,
            "pids": self.layout.run,
        }
        if self.layout.mysql == "group":
            return Group(folder, passwords, ports=(ports[0], ports[1], ports[2]), **common)
        engine = MySQL if self.layout.mysql == "mysql" else MariaDB
        return Pair(folder, passwords, engine, ports=(ports[0], ports[1]), **common)

    def _import_catalog(self) -> None:
        done = self.layout.mysql_data / "catalog.imported"
        if done.exists():
            return
        sample = files("config") / "sample_catalog.jsonl"
        argv = [sys.executable, "-m", "cli", "catalog", "import", str(sample)]
        argv += ["--config", str(self.layout.config.absolute())]
        ran = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if ran.returncode != 0:
            raise ServerFailed(f"the sample catalog was not imported: {ran.stderr.strip()}")
        done.touch()
        self._say("the sample catalog is imported")

    def stop(self) -> None:
        """Stop all servers in order: the gateway first, which finishes its requests."""
        self._ending.set()
        if self._watcher is not None:
            self._watcher.join()
        if self.gateway is not None:
            self.gateway.stop()
        if self.mysql is not None:
            self.mysql.stop()
        for node in self.lookups.values():
            node.stop()
        if self.layout.ephemeral:
            shutil.rmtree(self.layout.data, ignore_errors=True)
        if self._lock_file is not None:
            self._lock_file.close()

    def _rotate_logs(self) -> None:
        for name in (*NAMES, "stack"):
            path = self.layout.log / f"{name}.log"
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size > _LOG_LIMIT:
                    path.replace(path.with_suffix(".log.1"))

    # --- the servers

    def _children(self) -> dict[str, Child]:
        assert self.mysql is not None
        assert self.gateway is not None
        return {**self.lookups, **self.mysql.servers, "gateway": self.gateway}

    def _child(self, name: str) -> Child:
        children = self._children()
        if name not in children:
            raise ServerFailed(f"there is no {name!r}; there are {', '.join(children)}")
        return children[name]

    def status(self) -> dict[str, object]:
        """What `tapedeck stack status` shows: each server by name, and MySQL's state."""
        assert self.mysql is not None
        whole = self.mysql.status()
        servers = whole.pop("servers")
        assert isinstance(servers, dict)
        ports = {name: port for port, name, _ in self.ports.uses()}
        shown = {}
        for name, child in self._children().items():
            if child.running:
                state = "frozen" if child.stopped else "running"
            else:
                state = "stopped" if name in self._stopped else "dead"
            more = servers.get(name, {})
            shown[name] = {**more, "state": state, "pid": child.pid, "port": ports[name]}
        return {"servers": shown, "mysql": whole}

    def _watch(self) -> None:
        """Report each killed server once; `Supervised` reports the MySQL servers."""
        running = {name: child.pid for name, child in self._children().items()}
        while not self._ending.wait(0.1):
            for name, child in self._children().items():
                pid = child.pid
                before = running[name]
                if pid == before:
                    continue
                running[name] = pid
                if pid is not None:
                    continue
                child.forget_pid(before)
                if name not in self._stopped and name not in files_of.MYSQL_NAMES:
                    self._say(
                        f"{name} ended ({_ending_of(child)}); it stays so: "
                        f"tapedeck stack start {name} brings it back"
                    )

    # --- orders

    def stop_server(self, name: str) -> str:
        """Stop a server, which stays stopped; return a sentence on what that means.

        Raises:
            ServerFailed: it does not run, or there is no such server.
        """
        child = self._child(name)
        if not child.running:
            raise ServerFailed(f"{name} does not run")
        self._stopped.add(name)
        if self.mysql is not None and name in self.mysql.servers:
            return self.mysql.stop_server(name)
        child.stop()
        return f"{name} is stopped"

    def start_server(self, name: str) -> str:
        """Start a server that is dead; return a sentence on its state then.

        Raises:
            ServerFailed: it runs already, does not start, or there is no such server.
        """
        assert self.mysql is not None
        child = self._child(name)
        self._stopped.discard(name)
        if name in self.mysql.servers:
            return self.mysql.start_server(name)
        if child.stopped:
            child.kill()
        assert isinstance(child, RedisServer | Gateway)
        child.start()
        return f"{name} is started (pid {child.pid})"

    def promote(self, *, force: bool) -> str:
        """See `Supervised.promote`."""
        assert self.mysql is not None
        return self.mysql.promote(force=force)


def _ending_of(child: Child) -> str:
    status = child.exit_status
    if status is not None and status < 0:
        return signal.Signals(-status).name
    return f"status {status}"
