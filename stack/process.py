"""A server as a child process that ends with its parent.

The kernel ends a child when its parent dies (PR_SET_PDEATHSIG), also by kill -9. It ties that to
the *thread* that forked, so every child is forked by one thread that lives as long as the process
does. Each child has a session of its own: a Ctrl-C in the terminal reaches only the parent, which
stops the children in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_given: set[int] = set()
_reservations: deque[socket.socket] = deque()
MOST_RESERVED = 256
"""Ports that one process reserves at once: each takes a descriptor."""
_forker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forker")


class ServerFailed(Exception):
    """A server did not start, or did not do what it was told. The text ends with its log's end."""


def die_with_parent(parent: int, by: int = signal.SIGKILL) -> None:
    """Have the kernel send `by` to this process when `parent`, its parent, dies.

    Raises:
        ProcessLookupError: it is dead already.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        raise ProcessLookupError(parent)


def _spawn(
    argv: Sequence[str], executable: str | None, log: Path, env: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def before_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            executable=executable,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            start_new_session=True,
            preexec_fn=before_exec,
        )


class Child:
    """A named child process: started, killed, frozen, thawed, stopped and started again.

    Args:
        name: what errors and files call it.
        log: the file that its output is appended to.
        pid_file: the file that has its process id while it runs; None for no file.
    """

    def __init__(self, name: str, log: Path, pid_file: Path | None = None) -> None:
        self.name = name
        self.log = log
        self.pid_file = pid_file
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(
        self,
        argv: Sequence[str],
        *,
        executable: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process.

        Args:
            argv: the program and its arguments.
            executable: the program's path, if argv[0] is only the name that it gets.
            env: its environment; None for this process's own.

        Raises:
            ServerFailed: it runs already, or cannot be executed.
        """
        if self.running:
            raise ServerFailed(f"{self.name} runs already (pid {self.pid})")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._process = _forker.submit(_spawn, argv, executable, self.log, env).result()
        except OSError as error:
            raise ServerFailed(f"{self.name} cannot be run: {error}") from None
        if self.pid_file is not None:
            self.pid_file.parent.mkdir(parents=True, exist_ok=True)
            self.pid_file.write_text(f"{self._process.pid}\n")

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process exists (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether SIGSTOP has stopped all its threads: until then one of them may answer."""
        try:
            threads = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        except OSError:
            return False
        states = {stat.rpartition(")")[2].split()[0] for stat in threads}
        return bool(states) and states <= {"T", "t"}

    @property
    def exit_status(self) -> int | None:
        """The exit status (negative: the signal); None while it runs or before its start."""
        return self._process.poll() if self._process is not None else None

    def wait(self, seconds: float) -> int:
        """Wait until it ends; return the exit status (negative: the signal).

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        assert self._process is not None
        return self._process.wait(seconds)

    def await_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready()` is true.

        Raises:
            ServerFailed: it ended, or `seconds` passed; the text has the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise ServerFailed(
                    f"{self.name} ended at its start (status {self.exit_status})\n{self.log_end()}"
                )
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{self.name} was not ready after {seconds:.0f} s\n{self.log_end()}"
                )
            time.sleep(0.01)

    def send(self, signal_number: int) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal_number)

    def freeze(self) -> None:
        """Send SIGSTOP, and wait until it has stopped; its connections stay open."""
        self.send(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while self.running and not self.stopped and time.monotonic() < deadline:
            time.sleep(0.001)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL, and wait until it has ended."""
        self.send(signal.SIGKILL)
        self._gone(10)

    def stop(self, seconds: float = 10) -> None:
        """Send SIGTERM, wait up to `seconds`, then send SIGKILL."""
        self.thaw()
        self.send(signal.SIGTERM)
        if not self._gone(seconds):
            self.kill()

    def _gone(self, seconds: float) -> bool:
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            self.forget_pid(self._process.pid)
        return True

    def forget_pid(self, pid: int | None) -> None:
        """Remove the pid file of an ended process, unless another process is in it by now."""
        if self.pid_file is not None:
            with contextlib.suppress(FileNotFoundError):
                if self.pid_file.read_text().strip() == str(pid):
                    self.pid_file.unlink()

    def log_end(self, lines: int = 15) -> str:
        """The last lines of its log, after a line with the log's name."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return f"(no log at {self.log})"
        return f"--- end of {self.log}:\n" + "\n".join(text.splitlines()[-lines:])


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on a port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free port below the ephemeral ones, so that no outgoing connection takes it meanwhile.

    It stays free until its user listens there. Until then neither this process nor another one that
    calls this function returns it again.
    """
    while True:
        port = random.randrange(12_000, 30_000)  # noqa: S311 - not a secret
        if port not in _given and port_is_free(port) and _reserve(port):
            _given.add(port)
            return port


def _reserve(port: int) -> bool:
    """Take an abstract name for a port; False if another process has it. Such names belong to a
    network namespace, as ports do, and end with the process; unix(7)."""
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0tapedeck-port-{port}")
    except OSError:
        reservation.close()
        return False
    if len(_reservations) == MOST_RESERVED:
        _reservations.popleft().close()
    _reservations.append(reservation)
    return True
