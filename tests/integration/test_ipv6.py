"""A gateway with IPv6 addresses: its own ports, its lookup node and MySQL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from stack import datadir
from stack.datadir import Passwords
from stack.mariadb import MariaDB
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.support.gateways import Gateway
from tests.support.terminal import eventually

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_works_with_ipv6_addresses_in_brackets(
    stack_config: StackConfig,
    data_template: Path,
    passwords: Passwords,
    tmp_path: Path,
    workers: int,
) -> None:
    node = RedisServer("six", tmp_path / "six", options=("--bind", "127.0.0.1", "::1"))
    datadir.copy(data_template, tmp_path / "mysql")
    mysql = MariaDB("mysql6", tmp_path / "mysql", passwords, options=("--bind-address=*",))
    document = stack_config(
        gateway={"host": "[::1]", "workers": workers},
        admin={"host": "[::1]"},
        lookup={"servers": [f"[::1]:{node.port}:1 six"]},
        mysql={"hosts": [f"[::1]:{mysql.port}"], "database": "tapedeck"},
    )
    gateway = Gateway(document, tmp_path)
    gateway.url = gateway.url.replace("127.0.0.1", "[::1]")
    gateway.admin = gateway.admin.replace("127.0.0.1", "[::1]")

    async def save() -> int:
        async with aiohttp.ClientSession(gateway.url, headers=gateway.key) as http:
            condition = {"If-None-Match": "*"}
            async with http.put("/states/1/2", json={}, headers=condition) as answer:
                return answer.status

    try:
        node.start()
        mysql.start()
        mysql.query("RENAME USER tapedeck@'127.0.0.1' TO tapedeck@'::1'")
        with gateway:
            assert asyncio.run(gateway.until("/readyz", lambda _, body: body["status"] == "ready"))
            assert asyncio.run(save()) == 201
            with node.client() as client:
                assert eventually(lambda: client.exists("u:1") == 1)
    finally:
        node.kill()
        mysql.kill()
