"""A plain gateway in Python that waits in threads: PyMySQL and redis-py, synchronous.

A request is one GET, one SELECT, one upsert and one SET, as in the plain Go peer. aiohttp reads
requests, and a thread with connections of its own carries each out.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pymysql
import redis
from aiohttp import web

from bench.peers.shared import (
    LOOKUP_SECONDS,
    Asked,
    PlainPlayer,
    lookup_key,
    select,
    serve,
    settings,
    today,
    upsert,
)

HERE = settings(__doc__ or "")
PLAYER = PlainPlayer(HERE.catalog)
THREADS = ThreadPoolExecutor(HERE.connections)
# twemproxy knows neither HELLO nor CLIENT SETINFO.
NODES = redis.Redis(
    port=HERE.redis_port, max_connections=HERE.connections, protocol=2, driver_info=None
)
OWN = threading.local()


def mysql() -> Any:
    """This thread's connection."""
    if not hasattr(OWN, "mysql"):
        OWN.mysql = pymysql.connect(
            host="127.0.0.1",
            port=HERE.mysql_port,
            user="tapedeck",
            password=HERE.password,
            database=HERE.database,
            autocommit=True,
        )
    return OWN.mysql


def carry_out(asked: Asked) -> web.Response:
    """Carry out a request, in a thread."""
    key = lookup_key(asked.user, asked.mix.id)
    hint: Any = NODES.get(key)
    day = today()
    with mysql().cursor() as cursor:
        cursor.execute(select(hint.decode() if hint else day, asked.user, asked.mix.id))
        version, body = cursor.fetchone() or (0, b"")
        body, answer = PLAYER.apply(asked, version, body)
        cursor.execute(upsert(day, asked.user, asked.mix.id, version + 1, body))
    NODES.set(key, day, ex=LOOKUP_SECONDS)
    return answer


async def handle(request: web.Request) -> web.Response:
    """Carry out a request."""
    asked = PLAYER.asked(request)
    return await asyncio.get_running_loop().run_in_executor(THREADS, carry_out, asked)


if __name__ == "__main__":
    serve(handle, HERE.port)
