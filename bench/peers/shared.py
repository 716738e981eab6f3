"""What the plain Python peers share: the command line, and the Player without a store.

They use the gateway's own tokens, rules and answers, so that only loads and saves differ.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from config.model import Player as Rules
from gateway.auth.tokens import BadToken, TokenKeys
from gateway.catalog.model import Mix, MixUser, Track
from gateway.http.errors import encode
from gateway.http.status import LINES
from gateway.player import rules
from gateway.player.responses import Envelope, set_reply
from gateway.player.rules import Place, SkipRefusal
from sharding.state import Owner, Stored, Write

LOOKUP_SECONDS = 32 * 86400


@dataclass(frozen=True)
class Settings:
    """The command line."""

    port: int
    redis_port: int
    mysql_port: int
    database: str
    connections: int
    catalog: Path

    @property
    def password(self) -> str:
        """The password of the MySQL user `tapedeck`."""
        return os.environ["PLAIN_PASSWORD"]


def settings(what: str) -> Settings:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis-port", type=int, default=0, help="twemproxy's")
    parser.add_argument("--mysql-port", type=int, default=0)
    parser.add_argument("--database", default="")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--catalog", type=Path, required=True)
    return Settings(**vars(parser.parse_args()))


def today() -> str:
    """The UTC day as YYYYMMDD, by this machine's clock."""
    return f"{datetime.now(UTC):%Y%m%d}"


def lookup_key(user: int, playlist: int) -> str:
    """The name of a lookup, as in the original system."""
    return f"uid:{user}:pid:{playlist}"


def select(day: str, user: int, playlist: int) -> str:
    """The statement that reads a state."""
    return (
        f"SELECT version,state FROM player_state_{day}"
        f" WHERE user_id={user} AND playlist_id={playlist}"
    )


def upsert(day: str, user: int, playlist: int, version: int, body: bytes) -> str:
    """The statement that writes a state over whatever is there."""
    return (
        f"INSERT INTO player_state_{day} (user_id,playlist_id,version,state)"
        f" VALUES ({user},{playlist},{version},x'{body.hex()}')"
        " ON DUPLICATE KEY UPDATE version=VALUES(version),state=VALUES(state)"
    )


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    user: int
    mix: Mix
    action: str
    track_id: int
    logged_in: bool


class PlainPlayer:
    """Reads requests, and makes new states and answers."""

    def __init__(self, catalog: Path) -> None:
        mixes = msgspec.json.decode(catalog.read_bytes(), type=dict[int, tuple[Track, ...]])
        author = MixUser(1, "bench", "bench")
        self.mixes = {
            number: Mix(number, "", "", "", None, "", 0, author, tracks)
            for number, tracks in mixes.items()
        }
        self._keys = TokenKeys([os.environ["PLAIN_TOKEN_KEY"].encode()], 86400)
        self._rules = Rules()

    def asked(self, request: web.Request) -> Asked:
        """Read a request.

        Raises:
            web.HTTPException: 401 for a bad token, 404 for an unknown mix.
        """
        try:
            listener = self._keys.verify(request.match_info["token"], time.time())
        except BadToken as error:
            raise web.HTTPUnauthorized(text=str(error)) from None
        mix = self.mixes.get(int(request.query["mix_id"]))
        if mix is None:
            raise web.HTTPNotFound
        return Asked(
            listener.user_id,
            mix,
            request.match_info["action"],
            int(request.query.get("track_id", "0")),
            listener.logged_in,
        )

    def apply(self, asked: Asked, version: int, body: bytes) -> tuple[bytes, web.Response]:
        """The new state and the answer.

        Args:
            version: 0 if there is no state.
        """
        stored = Stored(body, version, datetime.now(UTC).date(), Owner.PLAYER) if version else None
        now = time.time()
        if asked.action == "play":
            decision = rules.play(asked.mix, stored, now, self._rules)
        elif asked.action == "next":
            decision = rules.next_track(asked.mix, stored, now, self._rules)
        elif asked.action == "skip":
            decision = rules.skip(asked.mix, stored, now, self._rules)
        else:
            decision = rules.report(asked.mix, stored, asked.track_id)
        answer = decision.answer
        envelope = Envelope(status=LINES[200], logged_in=asked.logged_in)
        if isinstance(answer, Place):
            envelope.set = set_reply(answer)
        if isinstance(answer, SkipRefusal):
            envelope = Envelope(status=LINES[403], notices=[answer.notice])
            return body, answered(403, encode(envelope))
        new = decision.body if isinstance(decision, Write) else body
        return new, answered(200, encode(envelope))


def answered(status: int, body: bytes) -> web.Response:
    """A JSON answer, as aiohttp makes it."""
    return web.Response(status=status, body=body, content_type="application/json", charset="utf-8")


def serve(
    handle: Callable[[web.Request], Awaitable[web.Response]],
    port: int,
    *contexts: Callable[[web.Application], AsyncIterator[None]],
) -> None:
    """Serve the Player's requests with a handler, on uvloop, until killed.

    Args:
        contexts: each opens something before, and closes it at the end.
    """
    app = web.Application()
    app.router.add_get("/sets/{token}/{action}", handle)
    app.cleanup_ctx.extend(contexts)
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        access_log=None,
        backlog=1024,
        print=lambda *_: None,
        loop=uvloop.new_event_loop(),
    )
