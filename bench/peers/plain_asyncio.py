"""A plain gateway in Python: aiohttp, redis-py and aiomysql; requests share no statements.

A request is one GET, one SELECT, one upsert and one SET on pooled connections, as in the plain Go
peer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiomysql
import redis.asyncio as redis
from aiohttp import web

from bench.peers.shared import (
    LOOKUP_SECONDS,
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


async def connections(app: web.Application) -> AsyncIterator[None]:
    """Open the pools, and close them at the end."""
    app["mysql"] = await aiomysql.create_pool(
        minsize=HERE.connections,
        maxsize=HERE.connections,
        host="127.0.0.1",
        port=HERE.mysql_port,
        user="tapedeck",
        password=HERE.password,
        db=HERE.database,
        autocommit=True,
    )
    # twemproxy knows neither HELLO nor CLIENT SETINFO.
    pool = redis.BlockingConnectionPool(
        host="127.0.0.1",
        port=HERE.redis_port,
        max_connections=HERE.connections,
        timeout=None,
        protocol=2,
        driver_info=None,
    )
    app["redis"] = redis.Redis(connection_pool=pool)
    yield
    app["mysql"].terminate()
    await app["redis"].aclose()


async def handle(request: web.Request) -> web.Response:
    """Carry out a request."""
    asked = PLAYER.asked(request)
    key = lookup_key(asked.user, asked.mix.id)
    nodes = request.app["redis"]
    hint = await nodes.get(key)
    day = today()
    async with request.app["mysql"].acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(select(hint.decode() if hint else day, asked.user, asked.mix.id))
        version, body = await cursor.fetchone() or (0, b"")
        body, answer = PLAYER.apply(asked, version, body)
        await cursor.execute(upsert(day, asked.user, asked.mix.id, version + 1, body))
    await nodes.set(key, day, ex=LOOKUP_SECONDS)
    return answer


if __name__ == "__main__":
    serve(handle, HERE.port, connections)
