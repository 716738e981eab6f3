"""A folder in which a user types `tapedeck` commands, on ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stack.process import free_port


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    """Wait for a condition; return whether it held within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def exists(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def full_pipe() -> tuple[int, int]:
    """A full pipe: the descriptors of its reader and its writer."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"." * 4096)
    os.set_blocking(writer, True)
    return reader, writer


def tapedeck(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without this process's TAPEDECK_ variables.

    Args:
        environ: more environment variables.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith("TAPEDECK_")}
    return subprocess.run(
        [sys.executable, "-m", "cli", *args],
        env={**mine, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Terminal:
    """A folder in which `tapedeck up` is run, on ports of its own.

    Args:
        mysql: how many MySQL servers there are.
    """

    def __init__(self, folder: Path, mysql: int = 2) -> None:
        self.folder = folder
        self.home = folder / ".tapedeck"
        self.names = ["lookup1", "lookup2", "lookup3"]
        self.names += [f"mysql{n}" for n in range(1, mysql + 1)]
        self.names.append("gateway")
        self.ports = [free_port() for _ in range(5 + mysql)]
        ports = [str(port) for port in self.ports]
        self.options = ["--gateway-port", ports[0], "--admin-port", ports[1]]
        self.options += ["--lookup-ports", ",".join(ports[2:5])]
        self.options += ["--mysql-ports", ",".join(ports[5:])]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def screen(self) -> str:
        return (self.folder / "screen").read_text()

    def up(self, *options: str) -> subprocess.Popen[bytes]:
        """Run `tapedeck up` until its screen says that it is ready; return the process."""
        command = [sys.executable, "-m", "cli", "up", *self.options, *options]
        with (self.folder / "screen").open("w") as screen:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen
            )
        process = self.process
        assert eventually(lambda: "is ready" in self.screen or process.poll() is not None, 90)
        assert process.poll() is None, self.screen
        assert eventually(lambda: "stack status" in self.screen)
        return process

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another `tapedeck` command in the folder to its end."""
        return subprocess.run(
            [sys.executable, "-m", "cli", *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def pid(self, name: str) -> int:
        return int((self.home / "run" / f"{name}.pid").read_text())

    def pids(self) -> list[int]:
        return [self.pid(name) for name in self.names]

    def get(self, path: str) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}{path}") as answer:
            found: dict[str, object] = json.load(answer)
            return found

    def track(self, token: object, verb: str) -> object:
        """Send a Player command for mix 1; return the id of the track in the answer."""
        body = self.get(f"/sets/{token}/{verb}.json?mix_id=1")
        assert body["status"] == "200 OK", body
        place = body["set"]
        assert isinstance(place, dict)
        return place["track"]["id"]

    def mysql(self) -> dict[str, Any]:
        """What `tapedeck stack status --json` says of MySQL."""
        found: dict[str, Any] = json.loads(self.run("stack", "status", "--json").stdout)["mysql"]
        return found

    def close(self) -> None:
        """Kill `tapedeck up`, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
