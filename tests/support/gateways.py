"""Gateways as processes of their own, as `tapedeck serve` runs them, for tests over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import pymysql
import yaml

from gateway.catalog.model import Mix
from gateway.catalog.tables import TABLES
from stack import clock as clocks
from stack.catalog import write_mixes
from stack.process import Child
from tests.support.certificates import Authority

SECONDS = 30.0
"""How long tests wait for something: long enough on a busy machine."""


class Gateway:
    """A process of `tapedeck serve`.

    Args:
        document: its configuration.
        folder: for the configuration file and the log.
        args: more arguments of the command.
        clock: seconds that its machine's clock is ahead of the real time.
        within: a command that runs the rest of its arguments, such as `unshare`.

    Attributes:
        url, admin: where it listens.
        key: the Authorization header of a service.
    """

    def __init__(
        self,
        document: dict[str, Any],
        folder: Path,
        *args: str,
        clock: float = 0,
        within: Sequence[str] = (),
    ) -> None:
        self.document = document
        self.config = folder / f"tapedeck-{document['gateway']['port']}.yml"
        self.log = self.config.with_suffix(".log")
        self.url = f"http://127.0.0.1:{document['gateway']['port']}"
        self.admin = f"http://127.0.0.1:{document['admin']['port']}"
        self.key = {"Authorization": f"Bearer {document['auth']['service_keys'][0]}"}
        self.admin_tls: ssl.SSLContext | bool = True
        self._args = args
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("TAPEDECK_")}
        if clock:
            shift = folder / f"clock-{document['gateway']['port']}"
            shift.write_text(f"{clock:+.0f}\n")
            self._env |= clocks.shifted_by(shift)
        self._within = within
        # A Child, and not a subprocess.Popen: it ends too if the tests are killed.
        self._child = Child("gateway", self.log)

    def start(self, *, ready: bool = True) -> Gateway:
        """Start it; wait until /readyz answers 200, or, without `ready`, until /healthz does."""
        self.write_config()
        code = "from cli.main import main; main()"
        self._child.spawn(
            [
                *(*self._within, sys.executable, "-c", code),
                *("serve", "--config", str(self.config), *self._args),
            ],
            env=self._env,
        )
        asyncio.run(self.until("/readyz" if ready else "/healthz", lambda status, _: status == 200))
        return self

    def write_config(self) -> None:
        """Write `document` where the gateway reads it."""
        self.config.write_text(yaml.safe_dump(self.document))

    async def until(self, path: str, wanted: Any, seconds: float = SECONDS) -> Any:
        """Ask the admin port until `wanted(status, body)` is true; return that body.

        Raises:
            AssertionError: it is not true within `seconds`, or the gateway ended.
        """
        end = time.monotonic() + seconds
        last: Any = None
        async with aiohttp.ClientSession(self.admin) as http:
            while time.monotonic() < end:
                assert self.running, f"the gateway ended:\n{self.log.read_text()[-3000:]}"
                try:
                    async with http.get(path, ssl=self.admin_tls) as answer:
                        last = answer.status, await answer.json(content_type=None)
                    if wanted(*last):
                        return last[1]
                except aiohttp.ClientError as error:
                    last = error
                await asyncio.sleep(0.05)
        raise AssertionError(f"{path} did not answer as wanted in {seconds:g} s; last: {last}")

    @property
    def pid(self) -> int:
        """The id of the process that was started; with several workers, it is their supervisor."""
        assert self._child.pid is not None
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether that process lives."""
        return self._child.running

    def send(self, number: signal.Signals) -> None:
        """Send that process a signal."""
        self._child.send(number)

    def wait(self, seconds: float = SECONDS) -> int:
        """Wait until it ends; return its exit status."""
        return self._child.wait(seconds)

    def stop(self) -> int:
        """Send SIGTERM and wait; return the exit status."""
        self.send(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Send SIGKILL and wait, if it lives."""
        if self.running:
            self.send(signal.SIGKILL)
            self.wait()

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines that it logged so far, or those of one event; every line must be JSON."""
        lines: list[dict[str, Any]] = [
            json.loads(line) for line in self.log.read_text().splitlines()
        ]
        return [line for line in lines if event is None or line["event"] == event]

    def __enter__(self) -> Gateway:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


@contextlib.contextmanager
def secured(document: dict[str, Any], folder: Path) -> Iterator[tuple[Gateway, ssl.SSLContext]]:
    """A gateway with TLS, and a context that trusts it."""
    authority = Authority(folder / "tls")
    certificate, key = authority.issue("gateway")
    document["gateway"] |= {"tls_certificate_file": certificate, "tls_key_file": key}
    with Gateway(document, folder) as gateway:
        yield gateway, ssl.create_default_context(cafile=authority.file)


def put_mixes(document: dict[str, Any], mixes: Sequence[Mix]) -> None:
    """Write mixes straight into the configuration's database."""
    mysql = document["mysql"]
    host, _, port = mysql["hosts"][0].rpartition(":")
    connection = pymysql.connect(
        host=host,
        port=int(port),
        user=mysql["user"],
        password=mysql["password"],
        database=mysql["database"],
    )
    with connection, connection.cursor() as cursor:
        for statement in TABLES:
            cursor.execute(statement)
        write_mixes(cursor, mixes)
        connection.commit()
