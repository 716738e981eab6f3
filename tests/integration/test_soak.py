"""After twenty minutes of saturation no resource has grown.

TAPEDECK_SOAK_SECONDS is the length (1200); a run of two minutes finds large leaks too:

    TAPEDECK_SOAK_SECONDS=150 .venv/bin/pytest -m long -s tests/integration/test_soak.py
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stack.mariadb import MariaDB
from stack.redis import RedisServer
from tests.conftest import StackConfig
from tests.integration.test_overload import paths
from tests.support import pressure
from tests.support.gateways import Gateway, put_mixes
from tests.support.serving import a_mix

SECONDS = float(os.environ.get("TAPEDECK_SOAK_SECONDS", "1200"))
pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(SECONDS + 300)]
EVERY = max(1.0, SECONDS / 120)
GROWTH = 0.04
"""The share by which memory may grow from the second quarter to the last, without a leak."""


async def sample(
    http: aiohttp.ClientSession, gateway: Gateway, nodes: list[RedisServer], mysql: MariaDB
) -> dict[str, float]:
    """The resources that could leak."""
    async with http.get(f"{gateway.admin}/stats") as answer:
        stats: dict[str, Any] = await answer.json()

    def redis() -> int:
        total = 0
        for node in nodes:
            with node.client() as client:
                total += len(client.client_list()) - 1  # this client
        return total

    folder = Path(f"/proc/{gateway.pid}")
    memory = next(
        int(line.split()[1]) / 1024
        for line in (folder / "status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    ((mysql_connections,),) = await asyncio.to_thread(
        mysql.query,
        "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'tapedeck' AND db = %s",
        (gateway.document["mysql"]["database"],),
    )
    return {
        "memory MB": memory,
        "descriptors": len(list((folder / "fd").iterdir())),
        "threads": len(list((folder / "task").iterdir())),
        "tasks": stats["tapedeck_asyncio_tasks"],
        "http connections": stats["tapedeck_http_connections"],
        "mysql connections": mysql_connections,
        "redis connections": await asyncio.to_thread(redis),
    }


async def test_no_resource_grows_at_saturation(
    stack_config: StackConfig,
    tmp_path: Path,
    lookup_servers: list[RedisServer],
    mysql: MariaDB,
) -> None:
    document = stack_config(
        # Caches that are soon full, so that what still grows is a leak.
        sessions={"max_entries": 1000},
        limits={
            "address_rate": 1e6,
            "token_rate": 1e6,
            "remembered": 1000,
            "header_seconds": 2,
            "write_seconds": 5,
        },
    )
    put_mixes(document, [a_mix(1), a_mix(3, 8)])
    gateway = Gateway(document, tmp_path)
    await asyncio.to_thread(gateway.start)
    load = pressure.start(
        document["gateway"]["port"],
        paths(document, tmp_path, range(3000)),
        connections=96,
        seconds=SECONDS,
        churn=200,
    )
    try:
        samples: list[dict[str, float]] = []
        async with aiohttp.ClientSession() as http:
            began = time.monotonic()
            while load.poll() is None:
                found = await sample(http, gateway, lookup_servers, mysql)
                samples.append(found)
                print(f"{time.monotonic() - began:6.0f} s", found, flush=True)
                await asyncio.sleep(EVERY)
            assert load.stdout is not None
            outcome = json.loads(load.stdout.read())
            print(outcome)
            # Clients with unfinished requests or unread answers are disconnected by then.
            async with asyncio.timeout(60):
                while True:
                    after = await sample(http, gateway, lookup_servers, mysql)
                    if after["http connections"] == 0:
                        break
                    await asyncio.sleep(0.5)
        print(" after", after)
    finally:
        load.kill()
        gateway.kill()
    judge(samples, after, outcome)
    assert not gateway.lines("request failed")


def judge(
    samples: list[dict[str, float]], after: dict[str, float], outcome: dict[str, Any]
) -> None:
    """Fail if a resource has grown."""
    assert outcome["statuses"]["200"] > 100 * SECONDS, "the load did not saturate the gateway"
    assert outcome["statuses"].keys() <= {"200", "503"}
    quarter = len(samples) // 4
    assert quarter >= 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]

    def typical(part: list[dict[str, float]], what: str) -> float:
        return statistics.median(one[what] for one in part)

    slope = (typical(late, "memory MB") - typical(early, "memory MB")) / (SECONDS / 2) * 3600
    print(f"memory: {slope:+.1f} MB an hour")
    assert typical(late, "memory MB") < typical(early, "memory MB") * (1 + GROWTH) + 2
    for what in ("mysql connections", "redis connections", "threads"):
        assert typical(late, what) <= typical(early, what) + 2, what
        assert max(one[what] for one in samples) < 60, what
    # Without clients, the gateway has as few tasks and descriptors as a new one.
    assert after["tasks"] < 40
    assert after["descriptors"] < 40 + after["mysql connections"] + after["redis connections"]
