"""MySQL's clock jumps: the gateway does not use its day, and no state is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stack.mariadb import MariaDB
from tests.support.clocks import shift
from tests.support.gateways import Gateway
from tests.support.terminal import tapedeck
from tests.support.waiting import until

pytestmark = pytest.mark.stack

DAY = 86_400
PATH = "/states/1/2"
StackConfig = Callable[..., dict[str, Any]]


@contextlib.asynccontextmanager
async def running(gateway: Gateway, *, ready: bool = True) -> AsyncIterator[Gateway]:
    await asyncio.to_thread(gateway.start, ready=ready)
    try:
        yield gateway
    finally:
        gateway.kill()


def state(number: int) -> str:
    return f'{{"number": {number}}}'


def tables(mysql: MariaDB, database: str) -> set[str]:
    """The partitions, without the catalog's tables, which are created whatever the clock says."""
    return {n for (n,) in mysql.query(f"SHOW TABLES FROM {database}") if n.startswith("player_")}


async def call(
    gateway: Gateway, method: str, path: str = PATH, body: str | None = None, **headers: str
) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()} | gateway.key
    if body is not None:
        named["Content-Type"] = "application/json"
    async with (
        aiohttp.ClientSession(gateway.url) as http,
        http.request(method, path, data=body, headers=named) as answer,
    ):
        return answer.status, await answer.text()


def believe_clock(gateway: Gateway) -> str:
    """Run `tapedeck partitions believe-clock`; its output."""
    done = tapedeck("partitions", "believe-clock", "--config", str(gateway.config))
    assert done.returncode == 0, done.stderr
    return done.stdout


async def in_doubt(gateway: Gateway) -> str:
    """Wait until /readyz is 503 because of the clock; the reason."""
    body = await gateway.until(
        "/readyz", lambda status, body: status == 503 and "clock" in str(body["reasons"])
    )
    return str(body["reasons"][0])


@pytest.mark.parametrize("seconds", [45 * DAY, -400 * DAY, 2 * DAY])
async def test_while_mysql_s_clock_is_days_off_requests_get_503_and_no_state_is_lost(
    stack_config: StackConfig, mysql: MariaDB, database: str, tmp_path: Path, seconds: int
) -> None:
    async with running(Gateway(stack_config(), tmp_path)) as gateway:
        assert (await call(gateway, "PUT", body=state(1), If_None_Match="*"))[0] == 201
        for version in (1, 2):
            status, _ = await call(gateway, "PUT", body=state(version + 1), If_Match=f'"{version}"')
            assert status == 200
        before = tables(mysql, database)

        shift(mysql, seconds)
        statuses = [
            (await call(gateway, "GET"))[0],
            (await call(gateway, "GET", "/states/9/9"))[0],
            (await call(gateway, "PUT", body=state(9), If_None_Match="*"))[0],
            (await call(gateway, "PUT", "/states/3/3", state(9), If_None_Match="*"))[0],
        ]
        assert statuses == [503, 503, 503, 503]
        reason = await in_doubt(gateway)
        shift(mysql, 0)
        await gateway.until("/readyz", lambda status, _: status == 200)

        assert "MySQL's clock is not trusted" in reason
        assert "tapedeck partitions believe-clock" in reason
        assert tables(mysql, database) == before
        assert await call(gateway, "GET") == (200, state(3))
        assert (await call(gateway, "GET", "/states/3/3"))[0] == 404
        assert len(gateway.lines("mysql clock doubted")) == 1
        assert len(gateway.lines("mysql clock trusted")) == 1


async def test_a_gateway_that_starts_while_mysql_s_clock_is_days_off_waits(
    stack_config: StackConfig, mysql: MariaDB, database: str, tmp_path: Path
) -> None:
    async with running(Gateway(stack_config(), tmp_path)) as gateway:
        assert (await call(gateway, "PUT", body=state(1), If_None_Match="*"))[0] == 201
    before = tables(mysql, database)
    shift(mysql, 45 * DAY)
    async with running(Gateway(stack_config(), tmp_path), ready=False) as late:
        assert "the partitions" in await in_doubt(late)
        assert (await call(late, "GET"))[0] == 503
        assert (await call(late, "PUT", body=state(9), If_None_Match="*"))[0] == 503
        assert tables(mysql, database) == before

        shift(mysql, 0)
        await late.until("/readyz", lambda status, _: status == 200)
        assert await call(late, "GET") == (200, state(1))


@pytest.mark.parametrize("ahead", [7200, 3 * DAY])
async def test_a_gateway_with_only_its_own_clock_wrong_serves_and_says_so(
    stack_config: StackConfig, tmp_path: Path, ahead: int
) -> None:
    """At its first start, and with a database that others use."""
    for number in (1, 2):
        async with running(Gateway(stack_config(), tmp_path, clock=ahead)) as gateway:
            status, _ = await call(
                gateway, "PUT", f"/states/{number}/1", state(1), If_None_Match="*"
            )
            assert status == 201
            assert await call(gateway, "GET", "/states/1/1") == (200, state(1))
            body = await gateway.until("/readyz", lambda status, body: "skew" in body["causes"])
            assert body["status"] == "degraded"
            assert "this machine's clock and MySQL's differ by" in str(body["reasons"])


async def test_after_an_operator_confirmed_mysql_s_clock_all_workers_serve(
    stack_config: StackConfig, mysql: MariaDB, tmp_path: Path
) -> None:
    """A gateway that starts later uses the new days' partitions."""
    async with running(Gateway(stack_config(), tmp_path, "--workers", "2")) as gateway:
        assert (await call(gateway, "PUT", body=state(1), If_None_Match="*"))[0] == 201
        shift(mysql, 2 * DAY)
        # A worker that has not noticed yet would have nothing to confirm.
        await until(lambda: len(gateway.lines("mysql clock doubted")) == 2)

        assert "MySQL's clock is trusted again" in believe_clock(gateway)

        await gateway.until("/readyz", lambda status, _: status == 200)
        for _ in range(20):
            assert await call(gateway, "GET") == (200, state(1))
        assert (await call(gateway, "PUT", body=state(2), If_Match='"1"'))[0] == 200
        assert "nothing changed" in believe_clock(gateway)
    async with running(Gateway(stack_config(), tmp_path)) as later:
        assert await call(later, "GET") == (200, state(2))
