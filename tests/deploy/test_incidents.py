"""Eleven incidents: the gateway names the cause of each within five seconds, and no other cause.

Runs a real gateway with listeners, a MySQL pair without a monitor, three lookup nodes, and a real
Prometheus with deploy/prometheus/rules.yml. `pytest -s` prints when each cause was named and when
its alert fired.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pymysql
import pytest

from stack import datadir, replication
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.gateways import Gateway, put_mixes
from tests.support.prometheus import Prometheus
from tests.support.serving import a_mix

pytestmark = [pytest.mark.stack, pytest.mark.long]

NAMED_WITHIN = 5.0
DISK_MB = 300


@dataclass
class Scene:
    """The servers that an incident happens to."""

    gateway: Gateway
    primary: MariaDB
    standby: MariaDB
    lookups: list[RedisServer]
    disk: Path
    passwords: Passwords
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


def fill(scene: Scene) -> None:
    with open(scene.disk / "fill", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def crowd(scene: Scene) -> None:
    """Open every connection that the primary still accepts."""
    scene.primary.query("SET GLOBAL max_connections = 20")
    with contextlib.suppress(pymysql.MySQLError):
        for _ in range(40):
            scene.undo.enter_context(scene.primary.connect())


def starve(scene: Scene) -> None:
    """Let the gateway run for a tenth of the time, as a container's limit does in shorter turns."""
    code = (
        "import os,signal,sys,time\n"
        "while True:\n"
        " os.kill(int(sys.argv[1]),signal.SIGSTOP);time.sleep(0.18)\n"
        " os.kill(int(sys.argv[1]),signal.SIGCONT);time.sleep(0.02)\n"
    )
    throttle = subprocess.Popen(["python3", "-c", code, str(scene.gateway.pid)])

    def end() -> None:
        throttle.kill()
        throttle.wait()
        os.kill(scene.gateway.pid, signal.SIGCONT)

    scene.undo.callback(end)


def full_node(scene: Scene) -> None:
    with scene.lookups[0].client() as client:
        client.config_set("maxmemory", "1")


def another_password(scene: Scene) -> None:
    scene.primary.query("ALTER USER tapedeck@'127.0.0.1' IDENTIFIED BY 'another'")


def shift(scene: Scene) -> None:
    assert scene.primary.clock_file is not None
    scene.primary.clock_file.write_text(f"+{26 * 3600}\n")


def freeze(server: Callable[[Scene], Any]) -> Callable[[Scene], None]:
    def happen(scene: Scene) -> None:
        server(scene).freeze()
        scene.undo.callback(server(scene).thaw)

    return happen


INCIDENTS: dict[str, tuple[Callable[[Scene], None], set[str], str, str]] = {
    # what happens; the causes that are right; words in the reason; the alert, if one fires
    "redis killed": (lambda s: s.lookups[0].kill(), {"nodes"}, "lookup1", ""),
    "redis stopped": (freeze(lambda s: s.lookups[0]), {"nodes"}, "lookup1", ""),
    "redis full": (full_node, {"nodes"}, "memory", ""),
    "primary killed": (
        lambda s: s.primary.kill(),
        {"failover", "primary"},
        "refused",
        "TapedeckMySQLPrimaryLost",
    ),
    "primary stopped": (
        freeze(lambda s: s.primary),
        {"failover", "primary", "commits"},
        "answer",
        "TapedeckMySQLPrimaryLost",
    ),
    "standby dead": (
        lambda s: s.standby.kill(),
        {"standby", "redundancy"},
        "",
        "TapedeckSavesStopped",
    ),
    "disk full": (fill, {"disk"}, "disk is full", "TapedeckSavesStopped"),
    "wrong password": (another_password, {"login"}, "1045", "TapedeckMySQLLogin"),
    "too many connections": (crowd, {"connections"}, "1040", "TapedeckMySQLConnections"),
    "starved gateway": (starve, {"starved"}, "starved", "TapedeckStarved"),
    "clock 26 h off": (shift, {"clock"}, "MySQL's clock", "TapedeckClockDoubted"),
}
SYMPTOMS = {"errors", "slow"}
"""What listeners notice of an incident: neither its cause, nor a wrong cause."""
_table: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def _print() -> Iterator[None]:
    yield
    print("\n" + "\n".join(_table))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system on a loop device; a tmpfs reserves no space for a file."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_MB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, folder], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    folder.chmod(0o755)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def scene(
    disk: Path,
    data_template: Path,
    passwords: Passwords,
    lookup_servers: list[RedisServer],
    stack_config: StackConfig,
    tmp_path: Path,
) -> Iterator[Scene]:
    servers = []
    for name, folder in (("mysql1", disk), ("mysql2", tmp_path)):
        datadir.copy(data_template, folder / name)
        clock = folder / f"{name}.clock"
        clock.write_text("+0\n")
        servers.append(
            MariaDB(name, folder / name, passwords, clock_file=clock, log=tmp_path / f"{name}.log")
        )
    primary, standby = servers
    try:
        primary.start("primary")
        standby.start("standby")
        replication.link(standby, primary)
        replication.set_semi_sync(primary, on=True)
        replication.make_writable(primary)
        document = stack_config(
            mysql={"hosts": [primary.address, standby.address], "database": "tapedeck"},
            lookup={"server_retry_timeout": 1000},
        )
        put_mixes(document, [a_mix(1, tracks=50)])
        with Gateway(document, tmp_path) as gateway:
            scene = Scene(gateway, primary, standby, lookup_servers, disk, passwords)
            with scene.undo:
                yield scene
    finally:
        for server in servers:
            server.thaw()
            server.kill()


@contextlib.asynccontextmanager
async def listeners(gateway: Gateway, count: int = 6) -> AsyncIterator[None]:
    """Runs new listeners, each on a connection of its own."""

    async def listen() -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                timeout = aiohttp.ClientTimeout(total=10)
                async with aiohttp.ClientSession(gateway.url, timeout=timeout) as http:
                    async with http.get("/sets/new") as answer:
                        token = (await answer.json())["play_token"]
                    for path in ("play", "next"):
                        async with http.get(f"/sets/{token}/{path}?mix_id=1") as answer:
                            await answer.read()
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(listen()) for _ in range(count)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def readiness(gateway: Gateway) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(gateway.admin, timeout=timeout) as http,
        http.get("/readyz") as answer,
    ):
        body: dict[str, Any] = await answer.json()
        return {**body, "code": answer.status}


@pytest.mark.parametrize("name", INCIDENTS)
async def test_an_incident_is_named_within_five_seconds_and_by_no_other_name(
    name: str, scene: Scene, tmp_path: Path
) -> None:
    happen, right, words, alert = INCIDENTS[name]
    gateway = scene.gateway
    (tmp_path / "prometheus").mkdir()
    with Prometheus([gateway.admin.removeprefix("http://")], tmp_path / "prometheus") as prometheus:
        async with listeners(gateway):

            async def scraped() -> bool:
                return len(await prometheus.query("tapedeck_amiss")) > 0

            await prometheus.until(scraped, "the gateway is measured")
            await gateway.until("/readyz", lambda _, body: body["status"] == "ready")
            await asyncio.to_thread(happen, scene)
            began = time.monotonic()
            named, wrong, said = None, set(), ""
            while time.monotonic() < began + NAMED_WITHIN + 3:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    body = await readiness(gateway)
                    wrong |= {c for c in body["causes"] if c not in right | SYMPTOMS}
                    mine = [
                        r
                        for r, c in zip(body["reasons"], body["causes"], strict=True)
                        if c in right
                    ]
                    if named is None and any(words in reason for reason in mine):
                        named, said = time.monotonic() - began, mine[0]
                await asyncio.sleep(0.05)
            last = await readiness(gateway)
            fired = None
            if alert:

                async def fires() -> bool:
                    return (await prometheus.alerts()).get(alert) == "firing"

                with contextlib.suppress(AssertionError):
                    await prometheus.until(fires, alert, 120)
                    fired = time.monotonic() - began
            others = set(await prometheus.alerts()) - {alert}
    traces = [line for line in gateway.lines() if "exception" in line]
    ejections = len(gateway.lines("lookup node ejected"))
    seconds = [round(at, 1) if at is not None else None for at in (named, fired)]
    _table.append(
        f"{name:22} {last['code']} named {seconds[0]} s, wrong names {sorted(wrong)}, "
        f"{alert or '-'} {seconds[1]} s, others {sorted(others)}, ejections {ejections}: {said}"
    )
    print(_table[-1])
    assert named is not None, f"not named; it says {last}"
    assert named <= NAMED_WITHIN
    assert not wrong
    assert not traces, "the gateway logged an exception"
    assert fired is not None or not alert
