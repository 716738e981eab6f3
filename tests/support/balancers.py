"""The real HAProxy and nginx, with the files of deploy/balance, in front of given gateways."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from stack.process import Child, free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
HAPROXY = DEPLOY / "balance" / "haproxy.cfg"
NGINX = DEPLOY / "balance" / "nginx.conf"


class Balancer(Child):
    """A balancer in a process of its own, which runs while the context is entered.

    Args:
        kind: `haproxy` or `nginx`.
        gateways: port and admin port of each of two gateways.
        folder: for the log and the files that nginx writes.
    """

    def __init__(self, kind: str, gateways: Sequence[tuple[int, int]], folder: Path) -> None:
        super().__init__(kind, folder / f"{kind}.log", None)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.monitor = 0
        self._folder = folder
        self._gateways = gateways
        self._argv, self._env = self._haproxy() if kind == "haproxy" else self._nginx()

    def _haproxy(self) -> tuple[list[str], dict[str, str]]:
        self.monitor = free_port()
        env = {
            "LISTEN": f"127.0.0.1:{self.port}",
            "MONITOR": f"127.0.0.1:{self.monitor}",
            "ONCE": f"127.0.0.1:{free_port()}",
        }
        for number, (port, admin) in enumerate(self._gateways, 1):
            env |= {f"GATEWAY_{number}": f"127.0.0.1:{port}", f"CHECK_{number}": str(admin)}
        return ["haproxy", "-db", "-f", str(HAPROXY)], env

    def _nginx(self) -> tuple[list[str], dict[str, str]]:
        text = NGINX.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        for number, (port, _) in enumerate(self._gateways, 1):
            text = text.replace(f"127.0.0.1:810{number}", f"127.0.0.1:{port}")
        text = re.sub(r"/run/nginx-tapedeck", f"{self._folder}/nginx", text)
        # Temporary files go into the test's folder.
        text = re.sub(
            r"^http \{",
            "http {\n"
            + "".join(
                f"    {name}_temp_path {self._folder}/{name};\n"
                for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            ),
            text,
            flags=re.MULTILINE,
        )
        # Without worker processes: they would outlive tests that are killed.
        text = text.replace("worker_processes auto;", "master_process off;")
        config = self._folder / "nginx.conf"
        config.write_text(text)
        return ["nginx", "-c", str(config), "-g", "daemon off;"], {}

    def __enter__(self) -> Balancer:
        path = os.environ.get("PATH", "") + ":/usr/sbin"
        program = shutil.which(self._argv[0], path=path)
        assert program is not None, f"{self._argv[0]} is not installed: make test installs it"
        self.spawn([program, *self._argv[1:]], env={**os.environ, **self._env})
        self.await_ready(self._listens, 20)
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop(10)
