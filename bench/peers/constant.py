"""aiohttp with a constant answer of the usual size: no gateway on aiohttp can be faster.

It uses aiohttp's low-level server on uvloop, without routes and without parsing queries.
"""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import web

from bench.peers.shared import PlainPlayer, answered, settings
from gateway.http.errors import encode
from gateway.http.status import LINES
from gateway.player.responses import Envelope, SetReply, track_reply

HERE = settings(__doc__ or "")
MIX = next(iter(PlainPlayer(HERE.catalog).mixes.values()))
BODY = encode(
    Envelope(status=LINES[200], set=SetReply(True, False, False, True, track_reply(MIX.tracks[0])))
)


async def handle(request: web.BaseRequest) -> web.Response:
    """Give every request the same answer."""
    return answered(200, BODY)


async def main() -> None:
    """Serve until killed."""
    server = web.Server(handle, access_log=None)
    listening = await asyncio.get_running_loop().create_server(
        server, "127.0.0.1", HERE.port, backlog=1024
    )
    await listening.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
