"""No call blocks the event loop of a gateway, also during reloads and failures."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stack.mariadb import MariaDB
from stack.process import free_port
from stack.redis import RedisServer
from tests.integration.test_tls import await_started, get, reloaded, serial_at, trusting, until
from tests.support import blocking
from tests.support.certificates import Authority
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

pytestmark = pytest.mark.stack

StackConfig = Callable[..., dict[str, Any]]

BLOCKS = """
import asyncio, os, socket, ssl, subprocess, tempfile, time
async def blocks():
    time.sleep(0)
    open(os.devnull).close()
    with tempfile.TemporaryFile() as file: os.fsync(file.fileno())
    socket.getaddrinfo("127.0.0.1", 1)
    subprocess.run(["true"])
    ssl.create_default_context()
    await asyncio.to_thread(time.sleep, 0.001)
asyncio.run(blocks())
"""


def test_calls_that_block_an_event_loop_are_found(tmp_path: Path) -> None:
    command = [*blocking.environment(tmp_path), sys.executable, "-c", BLOCKS]
    subprocess.run(command, check=True)
    names = {
        line.split()[0] for line in blocking.found(tmp_path).splitlines() if " in process " in line
    }
    assert names >= {
        "time.sleep",
        "builtins.open",
        "os.fsync",
        "socket.getaddrinfo",
        "Popen.__init__",
        "SSLContext.load_default_certs",
    }


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
async def test_nothing_blocks_while_a_gateway_serves_and_reloads_and_its_servers_fail(
    stack_config: StackConfig, mysql: MariaDB, tmp_path: Path, workers: int
) -> None:
    authority = Authority(tmp_path / "tls")
    certificate, key = authority.issue("gateway")
    node = RedisServer(
        "node",
        tmp_path / "node",
        options=(
            *("--tls-port", str(free_port()), "--tls-cert-file", certificate),
            *("--tls-key-file", key, "--tls-auth-clients", "no"),
        ),
    )
    node.start()
    secret = tmp_path / "service.keys"
    secret.write_text("first-key-of-this-test\n")
    document = stack_config(
        gateway={"workers": workers, "tls_certificate_file": certificate, "tls_key_file": key},
        lookup={
            "servers": [f"localhost:{node.options[1]}:1 node"],
            "capacity_every": 0.5,
            "tls": True,
            "tls_ca_file": authority.file,
            "server_retry_timeout": 300,
        },
        mysql={"hosts": [f"localhost:{mysql.port}"]},
        reload={"on_change": True, "look_every": 0.1},
        log={"requests": True},
    )
    put_mixes(document, [a_mix(1)])
    gateway = Gateway(document, tmp_path, within=blocking.environment(tmp_path))
    document["auth"]["service_keys_file"] = str(secret)
    del document["auth"]["service_keys"]
    port = document["gateway"]["port"]
    url = f"https://127.0.0.1:{port}"

    async def play() -> None:
        status, new = await get(f"{url}/sets/new", trusting(authority))
        assert status == 200
        token = new["play_token"]
        for _ in range(5):
            status, _ = await get(f"{url}/sets/{token}/play?mix_id=1", trusting(authority))
            assert status == 200

    async def ask_admin_port() -> None:
        async with aiohttp.ClientSession(gateway.admin) as http:
            for path in ("/healthz", "/readyz", "/ring", "/mysql", "/stats", "/metrics", "/"):
                async with http.get(path) as answer:
                    assert answer.status == 200, path
            async with http.get("/dashboard/main.js") as answer:
                assert answer.status == 200
            async with http.post("/reload/check") as answer:
                assert answer.status == 200
            async with http.get("/dashboard/events") as answer:
                assert await answer.content.readline()

    async def ready() -> None:
        await gateway.until("/readyz", lambda _, body: body["status"] == "ready")

    try:
        with await_started(gateway):
            await ready()
            await play()
            await ask_admin_port()
            before = serial_at(port, authority)
            authority.issue("gateway")
            secret.write_text("second-key-of-this-test\n")
            assert await reloaded(gateway) == 200
            await until(lambda: serial_at(port, authority), lambda serial: serial != before)
            held = gateway.config.read_text()
            gateway.config.write_text(held + "player: {skip_limit: many}\n")
            assert await reloaded(gateway) == 422
            gateway.config.write_text(held + "player: {skip_limit: 2}\n")
            await gateway.until("/reload/check", lambda *_: True)
            node.kill()
            await gateway.until("/readyz", lambda _, body: body["status"] == "degraded")
            await play()
            node.start()
            await ready()
            mysql.kill()
            await gateway.until("/readyz", lambda status, _: status == 503)
            mysql.start()
            await ready()
            await play()
            if workers > 1:
                os.kill(gateway.lines("worker started")[0]["pid"], signal.SIGKILL)
                await gateway.until(
                    "/stats", lambda _, body: body.get("tapedeck_worker_restarts") == 1
                )
                await ready()
            gateway.send(signal.SIGTERM)
            assert await asyncio.to_thread(gateway.wait) == 0
    finally:
        node.kill()
    assert not blocking.found(tmp_path)
